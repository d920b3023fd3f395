"""Proofs for ordinary ReLU networks against few changed pixels, by bound propagation and branch and bound."""

from zeronorm.certification.bound_propagation.certify import (
    certify_bound_propagation as certify_bound_propagation,
)
from zeronorm.certification.bound_propagation.certify import (
    check_bound_propagation as check_bound_propagation,
)
from zeronorm.certification.bound_propagation.certify import prove_few_changes as prove_few_changes
from zeronorm.certification.bound_propagation.search import BROKEN as BROKEN
from zeronorm.certification.bound_propagation.search import PROVED as PROVED
from zeronorm.certification.bound_propagation.search import UNKNOWN as UNKNOWN
from zeronorm.certification.bound_propagation.search import Outcome as Outcome
