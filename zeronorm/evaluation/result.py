"""The results of runs, searches and proofs: their figures, read from their records."""

from __future__ import annotations

import math
import weakref
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from zeronorm import records, report
from zeronorm.errors import ArgumentError, reading
from zeronorm.evaluation.adversarials import Adversarials, adversarials
from zeronorm.evaluation.examples import DataLike
from zeronorm.records.figures import Share
from zeronorm.records.folders import CertificateFolder, RunFolder
from zeronorm.records.paper_table import html_table, read_paper_table


class Accuracy(float):
    """A share of examples; `interval` is its exact 95 % confidence interval, `n` how many examples it is of."""

    interval: tuple[float, float]
    n: int

    @classmethod
    def of(cls, share: Share) -> Accuracy:
        """From a count."""
        accuracy = cls(share.value)
        accuracy.interval, accuracy.n = share.interval, share.n
        return accuracy


class RobustAccuracy(Accuracy):
    """Robust accuracy: as a number that of the largest budget, and a mapping from budgets: `accuracy[k]`."""

    by_k: dict[int, Accuracy]

    @classmethod
    def over(cls, shares: Mapping[int, Share]) -> RobustAccuracy:
        """From a count for each budget."""
        by_k = {k: Accuracy.of(share) for k, share in shares.items()}
        largest = by_k[max(by_k)]
        accuracy = cls(largest)
        accuracy.interval, accuracy.n, accuracy.by_k = largest.interval, largest.n, by_k
        return accuracy

    def __getitem__(self, k: int) -> Accuracy:
        if k not in self.by_k:
            raise ArgumentError(f"k: expected one of the budgets {', '.join(map(str, self.by_k))}, got {k!r}")
        return self.by_k[k]

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_k)

    def __len__(self) -> int:
        return len(self.by_k)

    def __contains__(self, k: object) -> bool:
        return k in self.by_k

    def keys(self) -> KeysView[int]:
        """The budgets, ascending."""
        return self.by_k.keys()

    def values(self) -> ValuesView[Accuracy]:
        """The accuracies, by ascending budget."""
        return self.by_k.values()

    def items(self) -> ItemsView[int, Accuracy]:
        """(k, accuracy) in ascending k."""
        return self.by_k.items()


def summary_of(run: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    """The headline of a run as plain values: what `verify` computes again."""
    figures = records.summarise(run, rows)
    return {
        "n": figures.n,
        "clean_accuracy": figures.clean_accuracy.value,
        "robust_accuracy": {str(k): share.value for k, share in figures.robust_accuracy.items()},
    } | (
        {}
        if figures.certified is None
        else {"certified_accuracy": {str(k): share.value for k, share in figures.certified.items()}}
    )


def frame_of(run: Path) -> Any:
    """A row for each model, method and budget of a folder: accuracy, exact 95 % interval (low, high), right, n, exact.

    The budget k = 0 stands for the unchanged inputs.  **Raises:** `ArgumentError` without pandas (extra `tables`).
    """
    try:
        import pandas as pd
    except ImportError:
        raise ArgumentError(
            "to_frame: needs pandas, which is not installed: pip install 'zeronorm[tables]'"
        ) from None
    return pd.DataFrame(read_paper_table([run]).frame())


class RunResult:
    """What the results of all runs have in common: their folder."""

    def __init__(self, folder: RunFolder, keep: ExitStack | None) -> None:
        self._folder = folder
        if keep is not None:
            weakref.finalize(self, keep.close)  # a temporary folder lives as long as its result

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self._folder.path

    @property
    def records(self) -> pa.Table:
        """The rows, as `zeronorm.records.folders` describes: ROWS of a search, CERTIFICATES of proofs."""
        return self._folder.read_rows()

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one page."""
        return report.render([self.run], Path(path))

    def to_frame(self) -> Any:
        """The figures as a pandas DataFrame; see `frame_of`."""
        return frame_of(self.run)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_table(read_paper_table([self.run]))


class Evaluation(RunResult):
    """The result of a run, read from its folder."""

    def __init__(self, run: str | Path | RunFolder, keep: ExitStack | None = None) -> None:
        super().__init__(run if isinstance(run, RunFolder) else RunFolder(run), keep)
        with reading(self._folder.path):
            self.summary = records.summarise(self._folder.read(), self._folder.read_rows())

    @property
    def clean_accuracy(self) -> Accuracy:
        """Share of inputs classified correctly without an attack."""
        return Accuracy.of(self.summary.clean_accuracy)

    @property
    def robust_accuracy(self) -> RobustAccuracy:
        """Share of inputs classified correctly whatever was tried within k changes."""
        return RobustAccuracy.over(self.summary.robust_accuracy)

    @property
    def certified_accuracy(self) -> RobustAccuracy | None:
        """Share of inputs proved to be classified correctly whatever changes are made; None without proofs."""
        return None if self.summary.certified is None else RobustAccuracy.over(self.summary.certified)

    @property
    def diagnosis(self) -> list[dict[str, str]]:
        """What the run noticed about its own figure."""
        return list(self._folder.read()["diagnosis"])

    def adversarials(self, data: DataLike, k: int | None = None) -> Adversarials:
        """The sparsest adversarial of each example that was broken, within k changes; `data` is what was evaluated."""
        return adversarials(self._folder, data, k)

    def table(self) -> str:
        """The figures as a small table of text."""
        return records.text_table(self.summary)

    def as_json(self) -> dict[str, Any]:
        """The figures for a machine."""
        magnitude = self.summary.median
        median = magnitude.median if magnitude is not None else math.inf
        return {
            "clean_accuracy": float(self.clean_accuracy),
            "clean_accuracy_interval": list(self.clean_accuracy.interval),
            "robust_accuracy": {str(k): float(v) for k, v in self.robust_accuracy.items()},
            "robust_accuracy_interval": {str(k): list(v.interval) for k, v in self.robust_accuracy.items()},
            **self._certified_json(),
            "median_distance": median if median < math.inf else None,
            "n": self.summary.n,
            "complete": self.summary.complete,
            "warnings": [f["code"] for f in self.diagnosis if f["level"] == "warning"],
            "run": str(self.run),
        }

    def _certified_json(self) -> dict[str, Any]:
        if (certified := self.certified_accuracy) is None:
            return {}
        return {"certified_accuracy": {str(k): float(v) for k, v in certified.items()}}

    def __repr__(self) -> str:
        findings = (
            f"{finding['level']}: {finding['seen']}.\n  {finding['meaning']}.\n  {finding['advice']}."
            for finding in self.diagnosis
        )
        return "\n\n".join([self.table(), *findings])


class Certification(RunResult):
    """The result of a run of certificates, read from its folder."""

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
            "abstained": self.summary.abstained / self.summary.n if self.summary.n else None,
            "unit": self.summary.unit,
            "arithmetic": self.summary.arithmetic,
            "complete": self.summary.complete,
            "run": str(self.run),
        }

    def __repr__(self) -> str:
        return self.table()
