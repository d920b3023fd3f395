"""Metrics: finished outcomes in, one number out.  numpy only; no model and no torch."""

from __future__ import annotations

from zeronorm.metrics.accuracy import interval as interval
from zeronorm.metrics.accuracy import robust_accuracy as robust_accuracy
from zeronorm.metrics.adversarial_magnitude import Magnitude as Magnitude
from zeronorm.metrics.adversarial_magnitude import median_magnitude as median_magnitude
from zeronorm.metrics.agreement import Difference as Difference
from zeronorm.metrics.agreement import broken_alone as broken_alone
from zeronorm.metrics.agreement import broken_by_first_only as broken_by_first_only
from zeronorm.metrics.agreement import broken_within as broken_within
from zeronorm.metrics.agreement import holm as holm
from zeronorm.metrics.agreement import paired_difference as paired_difference
from zeronorm.metrics.agreement import paired_p_value as paired_p_value
from zeronorm.metrics.agreement import worst_case as worst_case
from zeronorm.metrics.average_robustness import mean_distance_of_right as mean_distance_of_right
from zeronorm.metrics.average_robustness import median_distance as median_distance
from zeronorm.metrics.average_robustness import r_2 as r_2
from zeronorm.metrics.average_robustness import r_inf as r_inf
from zeronorm.metrics.certified import certified_accuracy as certified_accuracy
from zeronorm.metrics.certified import median_certified as median_certified
from zeronorm.metrics.clever import clever_score as clever_score
from zeronorm.metrics.clever import weibull_end as weibull_end
from zeronorm.metrics.front_end import flipped_share as flipped_share
from zeronorm.metrics.front_end import support_overlap as support_overlap
from zeronorm.metrics.transfer import Transferred as Transferred
from zeronorm.metrics.transfer import transferred as transferred

__all__ = [
    "Difference",
    "Magnitude",
    "Transferred",
    "broken_alone",
    "broken_by_first_only",
    "broken_within",
    "certified_accuracy",
    "clever_score",
    "flipped_share",
    "holm",
    "interval",
    "mean_distance_of_right",
    "median_certified",
    "median_distance",
    "median_magnitude",
    "paired_difference",
    "paired_p_value",
    "r_2",
    "r_inf",
    "robust_accuracy",
    "support_overlap",
    "transferred",
    "weibull_end",
    "worst_case",
]
