"""The slow, obvious twin of `summarise`: plain loops over the rows as a person would read them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


class SlowSummary:
    def __init__(self, run: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        threat = run["plan"]["threat"]
        self.curve, self.budgets = threat["curve"], sorted(threat["budgets"])
        self.minimal = [stage.get("kind") == "minimal" for stage in run["plan"]["attack"]["stages"]]
        self.clean = {row["example"]: row for row in rows if row["stage"] == -1}
        self.searches = {
            id_: sorted(
                (row for row in rows if row["stage"] >= 0 and row["example"] == id_),
                key=lambda row: (-row["k"] if self.curve else row["k"], row["stage"]),  # larger is later
            )
            for id_ in self.clean
        }
        self.smallest = {id_: self._smallest(id_) for id_ in self.clean}

    def right(self, id_: int) -> bool:
        return self.clean[id_]["outcome"] == "correct"

    def _smallest(self, id_: int) -> float:
        if not self.right(id_):
            return 0
        return min(
            (row["distance"] for row in self.searches[id_] if row["outcome"] == "broken"), default=math.inf
        )

    def left(self, k: int) -> int:
        return sum(distance > k for distance in self.smallest.values())

    def within(self, id_: int, k: int) -> list[dict[str, Any]]:
        """Searches that found a change within k."""
        return [row for row in self.searches[id_] if row["outcome"] == "broken" and row["distance"] <= k]

    def turn(self, row: dict[str, Any], k: int) -> int:
        """A minimal attack has answered for all budgets of a list: seen from each, it is one of its cascade."""
        return k if self.minimal[row["stage"]] and not self.curve else row["k"]

    def after_stage(self, k: int, stage: int) -> int:
        """Examples left after this stage of the cascade with budget k; -1 for the start."""
        left = 0
        for id_ in self.clean:
            fallen = not self.right(id_)
            for row in self.within(id_, k):
                before = self.turn(row, k) < k and not self.curve
                fallen |= before or row["stage"] <= stage
            left += not fallen
        return left

    def effort(self, k: int) -> tuple[int, list[int], int]:
        start, fell, most = 0, [], 0
        for id_ in self.clean:
            if not self.right(id_):
                continue
            if not self.curve and any(self.turn(row, k) < k for row in self.within(id_, k)):
                continue
            start += 1
            spent, has_fallen = 0, False
            cascade = self.searches[id_]
            if not self.curve:
                cascade = sorted(cascade, key=lambda row: (self.turn(row, k), row["stage"]))
            for row in cascade:
                if self.curve or self.turn(row, k) >= k:
                    spent += row["forwards"] + row["backwards"]
                    if not has_fallen and row in self.within(id_, k):
                        has_fallen = True
                        fell.append(spent)
                    if self.curve or self.turn(row, k) == k:
                        most = max(most, spent)
        return start, sorted(fell), max([most, *fell])

    def settled(self) -> int:
        return sum(self._settled(id_) for id_ in self.clean)

    def _settled(self, id_: int) -> bool:
        """Whether the cascade has failed at the largest budget that did not break the example."""
        budgets = range(1, self.budgets[-1] + 1) if self.curve else self.budgets
        withstood = [k for k in budgets if k < self.smallest[id_]]
        if not withstood:
            return True
        made = {(row["k"], row["stage"]) for row in self.searches[id_]}
        last = max((i for i, minimal in enumerate(self.minimal) if not minimal), default=None)
        return (last is None or (withstood[-1], last) in made) and all(
            i in {stage for _, stage in made} for i, minimal in enumerate(self.minimal) if minimal
        )

    def mistakes(self, label: int) -> Counter[int]:
        """Answers to the smallest adversarials of a class."""
        answers: Counter[int] = Counter()
        for id_, row in self.clean.items():
            if row["label"] == label and 0 < self.smallest[id_] < math.inf:
                best = [r for r in self.within(id_, 10**9) if r["distance"] == self.smallest[id_]]
                answers[best[0]["prediction"]] += 1
        return answers
