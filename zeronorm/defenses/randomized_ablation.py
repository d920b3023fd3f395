"""Randomized ablation: a classifier that votes on images of which all but a few random pixels are hidden.

Levine & Feizi, "Robustness certificates for sparse adversarial attacks by randomized ablation" (AAAI 2020).

b       examples
r       ablated images, of one example or of several
c, e    channels of the images, and of their encoding
p, k    pixels, and those retained
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.certificate import ABSTAIN, Certificate
from zeronorm.certification.confidence import check_probability, leading_class
from zeronorm.certification.randomized_ablation import certify_votes, settled, votes_at_looks
from zeronorm.errors import ArgumentError, one_line
from zeronorm.kernels.numba import compiled, serves
from zeronorm.seeding import Streams

NULLS = ("multichannel", "mean")

DOUBT = 2.0**-5
"""Of votes in bfloat16: they are cast again in float32 where the two largest logits differ by no more than this share
of the largest absolute one.  An error of bfloat16 that is larger would change a vote unnoticed."""

_BLOCK = 32  # ablated images drawn together: a step of an example's random stream


class RandomizedAblation(nn.Module):
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
    - `votes`, `alpha`: of the classifier as a model, see `forward`.
    - `precision`: "float32", or "bfloat16": passes in that precision, and again in float32 for ablated images with
      two nearly equal logits (`DOUBT`).  The classifier that is certified is the one in float32.

    Random numbers are named by seed, example and purpose: an example's votes do not depend on its batch.
    """

    differentiable = False
    abstains = True  # as one more class, the last

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
        super().__init__()
        self.base_classifier = checks.model(base_classifier)
        self.retained = checks.integer("retained", retained, 1)
        self.null = checks.choice("null", null, NULLS)
        if null == "mean" and (mean is None or std is not None):
            raise ArgumentError(
                "mean: expected the colour that hides a pixel, one number per channel, and no std"
            )
        if null == "multichannel" and (mean is None) != (std is None):
            raise ArgumentError("mean, std: expected both or none for the multichannel encoding")
        self.mean, self.std = (None if m is None else tuple(float(v) for v in m) for m in (mean, std))
        self.votes = checks.integer("votes", votes, 1)
        self.alpha = check_probability(alpha, "alpha")
        self.precision = checks.choice("precision", precision, ("float32", "bfloat16"))
        self._trusted = False  # the base classifier has been seen to answer the same twice

    # -- votes ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def vote_counts(
        self,
        x: Float[Tensor, "b ..."],
        n: int,
        *,
        batch_size: int = 1024,
        seed: int = 0,
        ids: Int[Tensor, "b"] | None = None,
        purpose: str = "votes",
        first: int = 0,
    ) -> Int[Tensor, "b classes"]:
        """How many of n ablated images of each input the base classifier takes for each class; on the CPU.

        **Arguments:**

        - `x`: images; the ablated ones of many inputs share a batch.
        - `batch_size`: ablated images per pass, taken up to a multiple of 32; the votes do not depend on it.
        - `seed`, `ids`, `purpose`: name the draws.  Another purpose: votes independent of these.
        - `first`: how many of an example's votes to leave out, a multiple of 32: those after them are cast.

        **Raises:** `ArgumentError` for inputs or a base classifier that do not fit the encoding, logits that are not
        numbers, answers that change from pass to pass.
        """
        x, names = self._checked(x), checks.identifiers(ids, x).cpu()
        n = checks.integer("n", n, 1)
        rows = -(-checks.integer("batch_size", batch_size, 1) // _BLOCK) * _BLOCK
        shown, hidden = self._encoded(x)
        pixels = shown.shape[2]
        streams = Streams(
            checks.integer("seed", seed, 0), names.to(x.device), f"randomized_ablation/{purpose}"
        )
        if not len(x):
            return torch.zeros(0, 2, dtype=torch.int64)

        # block by block over all examples, so that one call draws for many of them
        if checks.integer("first", first, 0) % _BLOCK:
            raise ArgumentError(f"first: expected a multiple of {_BLOCK}, got {first}")
        before = first // _BLOCK
        parts = [(block, i) for block in range(before, before - (-n // _BLOCK)) for i in range(len(x))]
        images = shown.new_empty(min(rows, len(parts) * _BLOCK), shown.shape[1], pixels)
        counts: Tensor | None = None
        for start in range(0, len(parts), rows // _BLOCK):
            batch = parts[start : start + rows // _BLOCK]
            of = torch.tensor([i for _, i in batch]).repeat_interleave(_BLOCK)
            last = torch.tensor([min(first + n - block * _BLOCK, _BLOCK) for block, _ in batch])
            asked = (torch.arange(_BLOCK) < last[:, None]).flatten()
            words = torch.cat(
                [
                    streams.select(torch.tensor([i for _, i in some], device=x.device))
                    .bits(block, _BLOCK * self.retained)
                    .view(-1, self.retained)
                    for block, some in groupby(batch, key=lambda part: part[0])
                ]
            )
            ablated = images[: len(of)]
            _write_ablated(ablated, shown, of.to(x.device), words, hidden)
            votes = self._answers(ablated.view(len(of), -1, *x.shape[2:]))
            if counts is None:
                counts = torch.zeros(len(x), self._classes, dtype=torch.int64)
            place = of[asked] * self._classes + votes[asked]
            counts.view(-1).scatter_add_(0, place, torch.ones_like(place))
        assert counts is not None
        return counts

    def predict(
        self,
        x: Float[Tensor, "b ..."],
        n: int = 10_000,
        alpha: float = 0.05,
        batch_size: int = 1024,
        *,
        seed: int = 0,
        ids: Int[Tensor, "b"] | None = None,
    ) -> Int[Tensor, "b"]:
        """The smoothed classifier's answers, wrong with probability at most `alpha`; `ABSTAIN` where n votes are
        too few to tell (the paper's PREDICT, `certification.leading_class`)."""
        alpha = check_probability(alpha, "alpha")
        counts = self.vote_counts(x, n, batch_size=batch_size, seed=seed, ids=ids, purpose="prediction")
        return torch.from_numpy(leading_class(counts.numpy(), alpha)) if len(counts) else counts[:, 0]

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
        alpha = check_probability(alpha, "alpha")
        x = self._checked(x)
        selection, counts = self.votes_for_certificate(
            x, n0, n, alpha, batch_size, bound=bound, looks=looks, seed=seed, ids=ids
        )
        prediction, radius = certify_votes(
            selection.numpy(), counts.numpy(), x.shape[2] * x.shape[3], self.retained, alpha, bound, looks
        )
        return Certificate(
            torch.from_numpy(prediction),
            torch.from_numpy(radius),
            counts=counts,
            selection=selection,
            failure_probability=alpha,
        )

    def votes_for_certificate(
        self,
        x: Float[Tensor, "b ..."],
        n0: int,
        n: int,
        alpha: float,
        batch_size: int,
        *,
        bound: str,
        looks: int,
        seed: int,
        ids: Int[Tensor, "b"] | None,
    ) -> tuple[Int[Tensor, "b classes"], Int[Tensor, "b classes"]]:
        """The votes that `certify` counts: those that choose the class, and those that bound its share."""
        names = checks.identifiers(ids, x)
        options: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        selection = self.vote_counts(x, n0, ids=names, purpose="selection", **options)
        pixels, first = x.shape[2] * x.shape[3], 0
        counts = torch.zeros_like(selection)
        going = torch.arange(len(x))
        for last in votes_at_looks(n, looks):
            counts[going] += self.vote_counts(
                x[going], last - first, ids=names[going], purpose="estimation", first=first, **options
            )
            if last < n:
                done = settled(
                    selection[going].numpy(),
                    counts[going].numpy(),
                    n,
                    pixels,
                    self.retained,
                    alpha,
                    bound,
                    looks,
                )
                going = going[torch.from_numpy(~done)]
            first = last
            if not len(going):
                break
        return selection, counts

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b outcomes"]:
        """The smoothed classifier for who attacks it: shares of `votes` votes, and abstention as one more class.

        The last column is largest where the classifier abstains (PREDICT at `alpha`), so that an attack which
        makes it abstain succeeds.  Draws are named by the input's own values: fresh for every input, and the same
        for the same.
        """
        contents = [
            hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x.detach().cpu().numpy()
        ]
        ids = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in contents])
        counts = self.vote_counts(x, self.votes, ids=ids.to(x.device), purpose="attacked")
        if not len(x):
            return x.new_zeros(0, 3)
        abstains = torch.from_numpy(leading_class(counts.numpy(), self.alpha)) == ABSTAIN
        shares = torch.cat([counts.double() / self.votes, 2.0 * abstains[:, None]], dim=1)
        return shares.to(x)

    # -- the base classifier ----------------------------------------------------------------------------

    def _checked(self, x: Tensor) -> Tensor:
        checks.examples(x)
        if x.dim() != 4:
            raise ArgumentError(f"x: expected images (batch, channel, height, width), got {tuple(x.shape)}")
        checks.integer("retained", self.retained, 1, x.shape[2] * x.shape[3])
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != x.shape[1]:
                raise ArgumentError(
                    f"{name}: expected {x.shape[1]} numbers, one per channel, got {len(values)}"
                )
        if isinstance(self.base_classifier, nn.Module) and self.base_classifier.training:
            raise ArgumentError("base_classifier: expected evaluation mode, got training mode; call eval()")
        weight = next(self.parameters(), None)
        return x.detach().to(x.device if weight is None else weight.device)

    def _encoded(self, x: Tensor) -> tuple[Float[Tensor, "b e p"], Float[Tensor, "e"]]:
        return encoded(x, self.null, self.mean, self.std)

    def _answers(self, ablated: Tensor) -> Int[Tensor, "r"]:
        """The base classifier's answers, and on its first images a look at whether they can be trusted."""
        answers = self._votes(ablated)
        if not self._trusted:
            if not torch.equal(self._votes(ablated.clone()), answers):
                raise ArgumentError(
                    "base_classifier: expected the same answers twice, got others on a second pass; the certificate "
                    "holds for deterministic classifiers only"
                )
            self._trusted = True
        return answers.cpu()

    def _votes(self, ablated: Tensor) -> Int[Tensor, "r"]:
        if self.precision == "float32":
            return self._logits(ablated).argmax(1)
        with torch.autocast(ablated.device.type, torch.bfloat16):
            z = self._logits(ablated)
        largest, classes = z.float().topk(2, dim=1)
        votes = classes[:, 0]
        doubtful = largest[:, 0] - largest[:, 1] <= DOUBT * z.abs().amax(1)
        if bool(doubtful.any()):
            votes[doubtful] = self._logits(ablated[doubtful]).argmax(1)
        return votes

    def _logits(self, ablated: Tensor) -> Float[Tensor, "r classes"]:
        try:
            z = self.base_classifier(ablated)
        except Exception as error:  # whatever a stranger's model raises
            e = ablated.shape[1]
            raise ArgumentError(
                f"base_classifier: expected a model of {e} channels, which the {self.null} encoding of "
                f"{e // 2 if self.null == 'multichannel' else e} needs, but it failed on them: {one_line(error)}"
            ) from error
        checks.logits(z, len(ablated))
        if not bool((z.amax(1) < float("inf")).all()):
            raise ArgumentError("base_classifier: expected logits that are numbers, got NaN or infinity")
        self._classes = z.shape[1]
        return z


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
