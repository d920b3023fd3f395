"""The slow, obvious twin of `summarise`: plain loops over the rows as a person would read them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any


class SlowSummary:
    def __init__(self, run: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        threat = run["plan"]["threat"]
        self.curve, self.budgets = threat["curve"], sorted(threat["budgets"])
        self.stages = len(run["plan"]["attack"]["stages"])
        self.clean = {row["example"]: row for row in rows if row["stage"] == -1}
        self.searches = {
            id_: sorted(
                (row for row in rows if row["stage"] >= 0 and row["example"] == id_),
                key=lambda row: (-row["k"] if self.curve else row["k"], row["stage"]),  # as they were run
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

    def after_stage(self, k: int, stage: int) -> int:
        """Examples left after this stage of the cascade with budget k; -1 for the start."""
        left = 0
        for id_ in self.clean:
            fallen = not self.right(id_)
            for row in self.within(id_, k):
                before = row["k"] < k and not self.curve
                fallen |= before or row["stage"] <= stage
            left += not fallen
        return left

    def effort(self, k: int) -> tuple[int, list[int], int]:
        start, fell, most = 0, [], 0
        for id_ in self.clean:
            if not self.right(id_):
                continue
            if not self.curve and any(row["k"] < k for row in self.within(id_, k)):
                continue
            start += 1
            spent, has_fallen = 0, False
            for row in self.searches[id_]:
                if self.curve or row["k"] >= k:
                    spent += row["forwards"] + row["backwards"]
                    if not has_fallen and row in self.within(id_, k):
                        has_fallen = True
                        fell.append(spent)
                    if self.curve or row["k"] == k:
                        most = max(most, spent)
        return start, sorted(fell), max([most, *fell])

    def settled(self) -> int:
        return sum(self._settled(id_) for id_ in self.clean)

    def _settled(self, id_: int) -> bool:
        if not self.right(id_) or self.smallest[id_] == 1:
            return True
        if not self.searches[id_]:
            return False
        last = self.searches[id_][-1]
        if not self.curve and last["outcome"] == "broken":
            return True
        at_the_end = last["stage"] == self.stages - 1 and (self.curve or last["k"] == self.budgets[-1])
        return at_the_end and last["outcome"] == "robust"

    def mistakes(self, label: int) -> Counter[int]:
        """Answers to the smallest adversarials of a class."""
        answers: Counter[int] = Counter()
        for id_, row in self.clean.items():
            if row["label"] == label and 0 < self.smallest[id_] < math.inf:
                best = [r for r in self.within(id_, 10**9) if r["distance"] == self.smallest[id_]]
                answers[best[0]["prediction"]] += 1
        return answers
