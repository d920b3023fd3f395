"""Discrete smoothing: a classifier that votes on images of which every value is kept or replaced at random.

Lee, Yuan, Chang & Jaakkola, "Tight certificates of adversarial robustness for randomly smoothed classifiers"
(NeurIPS 2019): what randomized ablation is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm.certification.certificate import Certificate
from zeronorm.certification.discrete_smoothing import check_noise, noised, quantised
from zeronorm.defenses.smoothed_classifier import BLOCK, SmoothedClassifier
from zeronorm.seeding import Streams


class DiscreteSmoothing(SmoothedClassifier):
    """The smoothed classifier: the class that most noised images of an input are taken for.

    Every feature keeps its value with probability `keep`, and takes each of the other `levels` - 1 values alike
    otherwise; inputs are rounded to 0, 1/(levels - 1), ..., 1 first.  The certificate counts features, of which a
    pixel of three channels has three.

    **Arguments:**

    - `base_classifier`: from noised images to logits, in evaluation mode.  It must answer the same twice.
    - `keep`: κ, the chance that a value stays.
    - `levels`: |S|, how many values there are.
    - `votes`, `alpha`, `precision`: see `SmoothedClassifier`.
    """

    certificate = "discrete_smoothing"

    def __init__(
        self,
        base_classifier: Any,
        keep: float,
        levels: int = 256,
        *,
        votes: int = 1000,
        alpha: float = 0.05,
        precision: str = "float32",
    ) -> None:
        super().__init__(base_classifier, votes=votes, alpha=alpha, precision=precision)
        self.levels, kappa = check_noise(levels, keep)
        self.keep = float(kappa)

    @property
    def options(self) -> dict[str, Any]:
        return {"keep": self.keep, "levels": self.levels, "precision": self.precision}

    def certify(
        self,
        x: Float[Tensor, "b ..."],
        n0: int = 1000,
        n: int = 10_000,
        alpha: float = 0.05,
        batch_size: int = 1024,
        *,
        seed: int = 0,
        ids: Int[Tensor, "b"] | None = None,
    ) -> Certificate:
        """How many features of each input may change without changing the smoothed answer.

        `n0` votes choose the class; n others bound its share, with one-sided confidence 1 - `alpha` for each input.
        """
        return self._certificate(x, {"n0": n0, "n": n, "alpha": alpha}, batch_size, seed, ids)

    def _prepared(self, x: Float[Tensor, "b c h w"]) -> tuple[Int[Tensor, "b d"], Tensor]:
        return quantised(x, self.levels), x

    def _copies(
        self, prepared: Any, parts: Sequence[tuple[int, int]], streams: Streams
    ) -> Float[Tensor, "r c h w"]:
        value, x = prepared
        copies = []
        for block, some in groupby(parts, key=lambda part: part[0]):
            of = torch.tensor([i for _, i in some], device=x.device)
            shape = len(of) * BLOCK, value.shape[1]
            chosen = streams.select(of)
            kept = chosen.uniform(2 * block, BLOCK * shape[1], torch.float64).view(shape)
            words = chosen.bits(2 * block + 1, BLOCK * shape[1]).view(shape)
            copies.append(noised(value[of.repeat_interleave(BLOCK)], kept, words, self.levels, self.keep))
        noise = torch.cat(copies).to(x.dtype) / (self.levels - 1)
        return noise.view(-1, *x.shape[1:])

    def _settled(
        self, selection: Tensor, counts: Tensor, shape: Sequence[int], options: Mapping[str, Any]
    ) -> Tensor:
        return torch.zeros(len(counts), dtype=torch.bool)  # all n votes are cast
