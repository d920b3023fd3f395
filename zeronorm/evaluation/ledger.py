"""The rows of a run so far, and what they say of each example: is it broken, with how few changes, by what."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zeronorm.data import Dataset, Stream
from zeronorm.evaluation.fresh_pass import rebuild
from zeronorm.records.folders import Row, RunFolder
from zeronorm.threat_model import L0

_CHANGES = {"positions": np.int32, "values": np.float64}
CLEAN = -1  # the stage of a clean prediction


class Ledger:
    """Writes rows to the run's folder, and remembers what follows from them.

    Examples go by their place among `examples`.
    """

    def __init__(self, examples: Dataset | Stream, folder: RunFolder, rows: list[Row]) -> None:
        self.rows: list[Row] = []
        self.order = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
        self._examples, self._folder = examples, folder
        self._done: set[tuple[int, int | None, int]] = set()  # (example, k, stage) with a row
        self._largest: dict[tuple[int, int], int] = {}  # (example, stage): its largest budget so far
        self._correct = torch.zeros(len(examples), dtype=torch.bool)
        self._smallest = [float("inf")] * len(examples)  # the fewest changes found; 0 for a clean error
        self._proved = [-1] * len(examples)  # the most changes that are proved to be withstood
        self._unknown: set[tuple[int, int]] = set()  # (example, stage) that a proof gave up on
        self._sparser: dict[int, list[Row]] = {}  # each example's adversarials, ever sparser
        for row in rows:
            self._note(row)

    def write(self, rows: list[Row]) -> None:
        """Append rows to the folder."""
        self._folder.append(rows)
        for row in rows:
            self._note(row)

    def _note(self, row: Row) -> None:
        i = self.order[row["example"]]
        if row.get("positions") is not None:  # a fifth of the room that Python's numbers take
            row = row | {name: np.array(row[name], kind) for name, kind in _CHANGES.items()}
        self.rows.append(row)
        self._done.add((i, row["k"], row["stage"]))
        if row["stage"] == CLEAN:
            self._correct[i] = row["outcome"] == "correct"
            if row["outcome"] == "wrong":
                self._smallest[i] = 0
            return
        searched = i, row["stage"]
        if row["outcome"] == "proved":
            self._proved[i] = max(self._proved[i], row["k"])
        elif row["outcome"] == "unknown":
            self._unknown.add(searched)
        self._largest[searched] = max(row["k"], self._largest.get(searched, 0))
        if row["outcome"] == "broken" and row["distance"] < self._smallest[i]:
            self._smallest[i] = row["distance"]
            self._sparser.setdefault(i, []).append(row)

    def has(self, i: int, k: int | None, stage: int) -> bool:
        """Whether this search of this example has a row."""
        return (i, k, stage) in self._done

    def budget_of(self, i: int, stage: int) -> int | None:
        """The largest budget at which this stage has searched this example; None if it has not."""
        return self._largest.get((i, stage))

    def left(
        self, k: int, stage: int, *, above: int | None = None, broken_with: float = float("inf")
    ) -> list[int]:
        """The examples a search within k is given, or was given before an interruption.

        They are predicted correctly, and not yet broken with `above` changes (k, by default), but with
        `broken_with` if at all.
        """
        bar = k if above is None else above
        return [
            i
            for i, smallest in enumerate(self._smallest)
            if self._correct[i] and (bar < smallest <= broken_with or self.has(i, k, stage))
        ]

    def unproved(self, k: int, stage: int, *, broken_with: float = float("inf")) -> list[int]:
        """The examples that a proof within k is to be sought for, or was before an interruption.

        They are those that `left` gives, without those that are proved and those that this stage gave up on.
        """
        return [
            i
            for i in self.left(k, stage, broken_with=broken_with)
            if self.has(i, k, stage) or (self._proved[i] < k and (i, stage) not in self._unknown)
        ]

    def robust(self, k: int | None) -> int:
        """How many examples are not broken with k changes so far; None: how many are predicted correctly."""
        return int(self._correct.sum()) if k is None else sum(s > k for s in self._smallest)

    def start_for(self, batch: list[int], threat: L0) -> Tensor | None:
        """The sparsest adversarials of larger budgets, to begin a smaller search from; None if there are none."""
        start, known = self._examples.at(batch).x, False
        for j, i in enumerate(batch):
            larger = [row for row in self._sparser.get(i, ()) if row["k"] > threat.k]
            if larger:
                start[j : j + 1], known = rebuild(start[j : j + 1], larger[-1], threat), True
        return start if known else None
