"""Metrics: finished outcomes in, one number out.  numpy only; no model and no torch."""

from __future__ import annotations

from zeronorm.metrics.accuracy import interval as interval
from zeronorm.metrics.accuracy import robust_accuracy as robust_accuracy
from zeronorm.metrics.adversarial_magnitude import Magnitude as Magnitude
from zeronorm.metrics.adversarial_magnitude import median_magnitude as median_magnitude

__all__ = ["Magnitude", "interval", "median_magnitude", "robust_accuracy"]
