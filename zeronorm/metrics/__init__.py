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
from zeronorm.metrics.agreement import paired_difference as paired_difference
from zeronorm.metrics.agreement import worst_case as worst_case
from zeronorm.metrics.certified import certified_accuracy as certified_accuracy
from zeronorm.metrics.certified import median_certified as median_certified
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
    "flipped_share",
    "interval",
    "median_certified",
    "median_magnitude",
    "paired_difference",
    "robust_accuracy",
    "support_overlap",
    "transferred",
    "worst_case",
]
