"""Randomized ablation: a classifier that votes on images of which all but a few random pixels are hidden.

Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (AAAI 2020).

b       examples
r       ablated images, of one example or of several
c, e    channels of the images, and of their encoding
p, k    pixels, and those retained
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.certification.certificate import Certificate
from zeronorm.certification.randomized_ablation import settled
from zeronorm.defenses.smoothed_classifier import BLOCK, SmoothedClassifier
from zeronorm.errors import ArgumentError
from zeronorm.kernels.numba import compiled, serves
from zeronorm.seeding import Streams

NULLS = ("multichannel", "mean")


class RandomizedAblation(SmoothedClassifier):
    """The smoothed classifier: the class that most ablated images of an input are taken for.

    Each ablated image shows `retained` pixels, a subset drawn uniformly, and NULL for all others; the base classifier
    answers with its largest logit, first of equals.  The share of answers can be bounded from a sample of them,
    with confidence, and no change of few pixels touches many of the images.

    **Arguments:**

    - `base_classifier`: from ablated images to logits, in evaluation mode, trained on ablated images
      (`zeronorm train --method ablation`).  It must answer the same twice.
    - `retained`: k, how many pixels it is shown.
    - `null`: "multichannel" doubles the channels to (s, 1 - s), in the order R, G, B, 1 - R, 1 - G, 1 - B, with
      NULL = (0, 0), which no pixel value is; "mean" keeps the channels and hides a pixel behind the mean colour.
    - `mean`: of "mean", per channel, such as (0.1307,) for MNIST.  Of "multichannel", with `std`: inputs are
      normalised first, as the paper does for ImageNet (NULL is then distinct still, but not equally far from all).
    - `votes`, `alpha`, `precision`: see `SmoothedClassifier`.
    """

    certificate = "randomized_ablation"

    def __init__(
        self,
        base_classifier: Any,
        retained: int,
        null: str = "multichannel",
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        votes: int = 1000,
        alpha: float = 0.05,
        precision: str = "float32",
    ) -> None:
        super().__init__(base_classifier, votes=votes, alpha=alpha, precision=precision)
        self.retained = checks.integer("retained", retained, 1)
        self.null = checks.choice("null", null, NULLS)
        if null == "mean" and (mean is None or std is not None):
            raise ArgumentError(
                "mean: expected the colour that hides a pixel, one number per channel, and no std"
            )
        if null == "multichannel" and (mean is None) != (std is None):
            raise ArgumentError("mean, std: expected both or none for the multichannel encoding")
        self.mean, self.std = (None if m is None else tuple(float(v) for v in m) for m in (mean, std))

    @property
    def options(self) -> dict[str, Any]:
        return {
            "retained": self.retained,
            "null": self.null,
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "precision": self.precision,
        }

    def certify(
        self,
        x: Float[Tensor, "b ..."],
        n0: int = 1000,
        n: int = 10_000,
        alpha: float = 0.05,
        batch_size: int = 1024,
        *,
        bound: str = "half",
        looks: int = 1,
        seed: int = 0,
        ids: Int[Tensor, "b"] | None = None,
    ) -> Certificate:
        """How many pixels of each input may change without changing the smoothed answer: the paper's CERTIFY.

        `n0` votes choose the class; n others bound its share, with one-sided confidence 1 - `alpha` for each input.
        `bound` is one of `certification.randomized_ablation.BOUNDS`.  The votes are in the certificate: another
        confidence level or bound needs no new ones.

        With `looks` above 1, an input's votes end early where more promise no larger radius: after n / 2, n / 4, ...
        of them, at that many places in all.  Each look has its share of `alpha`, so that the confidence is the same;
        radii may be a little smaller than with all n votes.
        """
        asked = {"n0": n0, "n": n, "alpha": alpha, "bound": bound, "looks": looks}
        return self._certificate(x, asked, batch_size, seed, ids)

    # -- ablated images ---------------------------------------------------------------------------------

    def _checked(self, x: Tensor) -> Tensor:
        x = super()._checked(x)
        checks.integer("retained", self.retained, 1, x.shape[2] * x.shape[3])
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != x.shape[1]:
                raise ArgumentError(
                    f"{name}: expected {x.shape[1]} numbers, one per channel, got {len(values)}"
                )
        return x

    def _prepared(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b e p"], Float[Tensor, "e"], Sequence[int]]:
        return *encoded(x, self.null, self.mean, self.std), x.shape[2:]

    def _copies(
        self, prepared: Any, parts: Sequence[tuple[int, int]], streams: Streams
    ) -> Float[Tensor, "r e h w"]:
        shown, hidden, sides = prepared
        of = torch.tensor([i for _, i in parts], device=shown.device).repeat_interleave(BLOCK)
        words = torch.cat(
            [
                streams.select(torch.tensor([i for _, i in some], device=shown.device))
                .bits(block, BLOCK * self.retained)
                .view(-1, self.retained)
                for block, some in groupby(parts, key=lambda part: part[0])
            ]
        )
        ablated = shown.new_empty(len(of), shown.shape[1], shown.shape[2])
        _write_ablated(ablated, shown, of, words, hidden)
        return ablated.view(len(of), -1, *sides)

    def _settled(
        self, selection: Tensor, counts: Tensor, shape: Sequence[int], options: Mapping[str, Any]
    ) -> Tensor:
        told = options["alpha"], options["bound"], options["looks"]
        pixels = shape[1] * shape[2]
        done = settled(selection.numpy(), counts.numpy(), options["n"], pixels, self.retained, *told)
        return torch.from_numpy(done)

    def _unfit(self, channels: int) -> str:
        of = channels // 2 if self.null == "multichannel" else channels
        return (
            f"expected a model of {channels} channels, which the {self.null} encoding of {of} needs, but it failed "
            "on them"
        )


# -- hiding pixels ---------------------------------------------------------------------------------------


def ablate(
    x: Float[Tensor, "b c h w"],
    retained: Int[Tensor, "b k"],
    null: str = "multichannel",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Float[Tensor, "b e h w"]:
    """Each image with only the given pixels shown, in one of the encodings of `RandomizedAblation`.

    `retained` holds positions in row-major order.  Differentiable in x.
    """
    shown, hidden = encoded(x, checks.choice("null", null, NULLS), mean, std)
    is_shown = torch.zeros(len(x), 1, shown.shape[2], dtype=torch.bool, device=x.device)
    is_shown.scatter_(2, retained[:, None], True)
    return torch.where(is_shown, shown, hidden[:, None]).view(len(x), -1, *x.shape[2:])


def encoded(
    x: Float[Tensor, "b c h w"],
    null: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> tuple[Float[Tensor, "b e p"], Float[Tensor, "e"]]:
    """Images before anything is hidden, and NULL."""
    grid = x.flatten(2)
    if null == "mean":
        return grid.contiguous(), torch.tensor(mean, dtype=x.dtype, device=x.device)
    if mean is not None and std is not None:
        grid = (grid - grid.new_tensor(mean)[:, None]) / grid.new_tensor(std)[:, None]
    return torch.cat([grid, 1 - grid], dim=1), grid.new_zeros(2 * grid.shape[1])


def random_subsets(words: Int[Tensor, "r k"], pixels: int) -> Int[Tensor, "r k"]:
    """Uniform k-subsets of 0..pixels-1 from 64 random bits for each member; not in order.

    Floyd's algorithm (Bentley & Floyd 1987): the i-th draw is among the first p - k + i + 1 numbers, and a number
    already drawn gives way to the largest of them.  A draw's bias is below pixels / 2^64.
    """
    k = words.shape[1]
    chosen = torch.empty_like(words)
    drawn = torch.zeros(len(words), pixels, dtype=torch.bool, device=words.device)
    for i in range(k):
        last = pixels - k + i
        t = _share_of(words[:, i : i + 1], last + 1)
        t = torch.where(drawn.gather(1, t), last, t)
        drawn.scatter_(1, t, True)
        chosen[:, i : i + 1] = t
    return chosen


def _share_of(words: Tensor, high: int) -> Tensor:
    """words · high / 2^64, rounded down, of words taken as unsigned; high < 2^31."""
    low = words & 0xFFFFFFFF
    return (((words >> 32) & 0xFFFFFFFF) * high + ((low * high) >> 32)) >> 32


def _write_ablated(
    images: Float[Tensor, "r e p"],
    shown: Float[Tensor, "b e p"],
    of: Int[Tensor, "r"],
    words: Int[Tensor, "r k"],
    hidden: Float[Tensor, "e"],
) -> None:
    """Write into `images` the ablated images of the examples `of`."""
    if serves(images, shown, of, words, hidden):
        _ablate(images, shown, of, words, hidden)
        return
    is_shown = torch.zeros(len(images), 1, images.shape[2], dtype=torch.bool, device=images.device)
    is_shown.scatter_(2, random_subsets(words, images.shape[2])[:, None], True)
    images.copy_(torch.where(is_shown, shown[of], hidden[:, None]))


@compiled
def _ablate(start: int, stop: int, images: Any, shown: Any, of: Any, words: Any, hidden: Any) -> None:
    # the twin of `random_subsets` and `ablate`
    channels, pixels = images.shape[1], images.shape[2]
    k = words.shape[1]
    drawn = np.zeros(pixels, np.bool_)
    chosen = np.empty(k, np.int64)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    for row in range(start, stop):
        for c in range(channels):
            images[row, c, :] = hidden[c]
        for i in range(k):
            last = pixels - k + i
            word, high = np.uint64(words[row, i]), np.uint64(last + 1)
            t = np.int64(((word >> half) * high + (((word & mask) * high) >> half)) >> half)
            if drawn[t]:
                t = last
            drawn[t] = True
            chosen[i] = t
        for i in range(k):
            t = chosen[i]
            drawn[t] = False
            for c in range(channels):
                images[row, c, t] = shown[of[row], c, t]
