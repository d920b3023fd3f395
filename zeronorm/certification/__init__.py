"""Certificates: how many pixels may be changed, to any values, without changing the answer, proved.

radius = zn.certification.ablation_radius(votes_for_the_answer, n, pixels=784, retained=45)
"""

from zeronorm.certification.bound_propagation import certify_bound_propagation as certify_bound_propagation
from zeronorm.certification.bound_propagation import prove_few_changes as prove_few_changes
from zeronorm.certification.catalogue import Certifier as Certifier
from zeronorm.certification.catalogue import catalogue as catalogue
from zeronorm.certification.certificate import ABSTAIN as ABSTAIN
from zeronorm.certification.certificate import UNBOUNDED as UNBOUNDED
from zeronorm.certification.certificate import Certificate as Certificate
from zeronorm.certification.confidence import leading_class as leading_class
from zeronorm.certification.confidence import lower_bound as lower_bound
from zeronorm.certification.confidence import upper_bound as upper_bound
from zeronorm.certification.discrete_smoothing import discrete_noise as discrete_noise
from zeronorm.certification.discrete_smoothing import discrete_smoothing_radius as discrete_smoothing_radius
from zeronorm.certification.discrete_smoothing import information_left as information_left
from zeronorm.certification.discrete_smoothing import vote_threshold as vote_threshold
from zeronorm.certification.enumeration import Enumeration as Enumeration
from zeronorm.certification.enumeration import certify_enumeration as certify_enumeration
from zeronorm.certification.enumeration import enumeration_queries as enumeration_queries
from zeronorm.certification.feature_partition import certify_feature_partition as certify_feature_partition
from zeronorm.certification.feature_partition import certify_soft_votes as certify_soft_votes
from zeronorm.certification.feature_partition import partition_radius as partition_radius
from zeronorm.certification.l0_lipschitz import certify_l0_lipschitz as certify_l0_lipschitz
from zeronorm.certification.nearest_neighbour import certify_nearest_neighbour as certify_nearest_neighbour
from zeronorm.certification.nearest_neighbour import certify_neighbours as certify_neighbours
from zeronorm.certification.randomized_ablation import ablation_radius as ablation_radius
from zeronorm.certification.randomized_ablation import ablation_radius_by_margin as ablation_radius_by_margin
from zeronorm.certification.randomized_ablation import ablation_radius_in_top as ablation_radius_in_top
from zeronorm.certification.randomized_ablation import share_touched as share_touched
from zeronorm.certification.tree_ensemble import TreeOutcome as TreeOutcome
from zeronorm.certification.tree_ensemble import TreeProver as TreeProver
from zeronorm.certification.tree_ensemble import certify_tree_ensemble as certify_tree_ensemble
from zeronorm.certification.tree_ensemble import smallest_change as smallest_change
from zeronorm.certification.truncation_window import certify_truncated as certify_truncated
from zeronorm.certification.truncation_window import certify_truncated_linear as certify_truncated_linear
from zeronorm.certification.truncation_window import truncated_range as truncated_range
from zeronorm.certification.truncation_window import worst_case_logits as worst_case_logits

__all__ = [
    "ABSTAIN",
    "UNBOUNDED",
    "Certificate",
    "Certifier",
    "Enumeration",
    "TreeOutcome",
    "TreeProver",
    "ablation_radius",
    "ablation_radius_by_margin",
    "ablation_radius_in_top",
    "catalogue",
    "certify_bound_propagation",
    "certify_enumeration",
    "certify_feature_partition",
    "certify_l0_lipschitz",
    "certify_nearest_neighbour",
    "certify_neighbours",
    "certify_soft_votes",
    "certify_tree_ensemble",
    "certify_truncated",
    "certify_truncated_linear",
    "discrete_noise",
    "discrete_smoothing_radius",
    "enumeration_queries",
    "information_left",
    "leading_class",
    "lower_bound",
    "partition_radius",
    "prove_few_changes",
    "share_touched",
    "smallest_change",
    "truncated_range",
    "upper_bound",
    "vote_threshold",
    "worst_case_logits",
]
