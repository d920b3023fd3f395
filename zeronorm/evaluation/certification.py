"""The result of a run of certificates: its figures, read from its records."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zeronorm import records
from zeronorm.evaluation.result import Accuracy, RobustAccuracy, RunResult
from zeronorm.records.folders import CertificateFolder


class Certification(RunResult):
    """The result of a run, read from its folder."""

    def __init__(self, run: str | Path | CertificateFolder, keep: ExitStack | None = None) -> None:
        super().__init__(run if isinstance(run, CertificateFolder) else CertificateFolder(run), keep)
        self.summary = records.summarise_certificates(self._folder.read(), self._folder.read_rows())

    @property
    def clean_accuracy(self) -> Accuracy:
        """Share of inputs that the certified classifier answers rightly; abstaining is not."""
        return Accuracy.of(self.summary.clean_accuracy)

    @property
    def certified_accuracy(self) -> RobustAccuracy:
        """Share of inputs proved to be answered rightly whatever k changes are made; by k from 0."""
        return RobustAccuracy.over(dict(enumerate(self.summary.shares)))

    @property
    def median_radius(self) -> float:
        """Changes that over half of the inputs withstand for certain; -infinity where half have no certificate."""
        return self.summary.median

    def table(self) -> str:
        """The figures as a small table of text."""
        return records.certificates_table(self.summary)

    def as_json(self) -> dict[str, Any]:
        """The figures for a machine; `robust_accuracy` is the certified one, a lower bound."""
        figures = records.certified_json(self.summary)
        return {
            **figures,
            "robust_accuracy": figures["certified_accuracy"],
            "median_radius": self.median_radius if math.isfinite(self.median_radius) else None,
            "complete": self.summary.complete,
            "run": str(self.run),
        }

    def __repr__(self) -> str:
        return self.table()
