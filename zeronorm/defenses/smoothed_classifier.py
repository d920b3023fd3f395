"""Classifiers that vote: the base classifier is asked about many randomised copies of an input, and most answers win.

b       examples
r       randomised copies, of one example or of several
c, h, w channels, height and width of the images
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.certification.catalogue import catalogue
from zeronorm.certification.certificate import ABSTAIN, Certificate
from zeronorm.certification.confidence import check_probability, leading_class
from zeronorm.certification.randomized_ablation import votes_at_looks
from zeronorm.errors import ArgumentError, one_line
from zeronorm.seeding import Streams

DOUBT = 2.0**-5
"""Of votes in bfloat16: they are cast again in float32 where the two largest logits differ by no more than this share
of the largest absolute one.  An error of bfloat16 that is larger would change a vote unnoticed."""

_OTHER_BATCH = 1e-3  # by which share of them logits may differ in a batch of another size, as rounding has it
BLOCK = 32  # copies drawn together: a step of an example's random stream


class SmoothedClassifier(nn.Module):
    """The class that most randomised copies of an input are taken for, by the base classifier's largest logit.

    Subclasses say how a copy is made (`_prepared`, `_copies`) and which row of the certificates' catalogue judges the
    votes.  Random numbers are named by seed, example and purpose: an example's votes do not depend on its batch.

    **Arguments:**

    - `base_classifier`: from randomised copies to logits.  It must answer the same twice, and every part of it must be
      in evaluation mode.
    - `votes`, `alpha`: of the classifier as a model, see `forward`.
    - `precision`: "float32", or "bfloat16": passes in that precision, and again in float32 for copies with two nearly
      equal logits (`DOUBT`).  The classifier that is certified is the one in float32.
    """

    differentiable = False
    abstains = True  # as one more class, the last
    certificate: ClassVar[str]

    def __init__(
        self, base_classifier: Any, *, votes: int = 1000, alpha: float = 0.05, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.base_classifier = checks.model(base_classifier)
        self.votes = checks.integer("votes", votes, 1)
        self.alpha = check_probability(alpha, "alpha")
        self.precision = checks.choice("precision", precision, ("float32", "bfloat16"))
        self._trusted = False  # the base classifier has been seen to answer the same twice

    # -- what a subclass says -----------------------------------------------------------------------------

    @property
    def options(self) -> dict[str, Any]:
        """What a record says of how copies are made."""
        raise NotImplementedError

    @property
    def arguments(self) -> dict[str, Any]:
        """All that it was made with beside the base classifier."""
        return self.options | {"votes": self.votes, "alpha": self.alpha}

    def _prepared(self, x: Float[Tensor, "b c h w"]) -> Any:
        """What copies are made from."""
        raise NotImplementedError

    def _copies(
        self, prepared: Any, parts: Sequence[tuple[int, int]], streams: Streams
    ) -> Float[Tensor, "r e h w"]:
        """`BLOCK` copies for each part (block of the example's stream, example)."""
        raise NotImplementedError

    def _settled(
        self, selection: Tensor, counts: Tensor, shape: Sequence[int], options: Mapping[str, Any]
    ) -> Tensor:
        """Which of the examples more votes promise no larger radius."""
        raise NotImplementedError

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
        """How many of n copies of each input the base classifier takes for each class; on the CPU.

        **Arguments:**

        - `x`: images; the copies of many inputs share a batch.
        - `batch_size`: copies per pass, taken up to a multiple of 32; the votes do not depend on it.
        - `seed`, `ids`, `purpose`: name the draws.  Another purpose: votes independent of these.
        - `first`: how many of an example's votes to leave out, a multiple of 32: those after them are cast.

        **Raises:** `ArgumentError` for inputs or a base classifier that do not fit, a part of it in training mode,
        logits that are not numbers, answers that change from pass to pass or with the batch.
        """
        x, names = self._checked(x), checks.identifiers(ids, x).cpu()
        n = checks.integer("n", n, 1)
        rows = -(-checks.integer("batch_size", batch_size, 1) // BLOCK) * BLOCK
        prepared = self._prepared(x)
        streams = Streams(
            checks.integer("seed", seed, 0), names.to(x.device), f"{self.certificate}/{purpose}"
        )
        if not len(x):
            return torch.zeros(0, 2, dtype=torch.int64)

        # block by block over all examples, so that one call draws for many of them
        if checks.integer("first", first, 0) % BLOCK:
            raise ArgumentError(f"first: expected a multiple of {BLOCK}, got {first}")
        before = first // BLOCK
        parts = [(block, i) for block in range(before, before - (-n // BLOCK)) for i in range(len(x))]
        counts: Tensor | None = None
        for start in range(0, len(parts), rows // BLOCK):
            batch = parts[start : start + rows // BLOCK]
            of = torch.tensor([i for _, i in batch]).repeat_interleave(BLOCK)
            last = torch.tensor([min(first + n - block * BLOCK, BLOCK) for block, _ in batch])
            asked = (torch.arange(BLOCK) < last[:, None]).flatten()
            votes = self._answers(self._copies(prepared, batch, streams))
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
        too few to tell (PREDICT of Levine & Feizi, `certification.leading_class`)."""
        alpha = check_probability(alpha, "alpha")
        counts = self.vote_counts(x, n, batch_size=batch_size, seed=seed, ids=ids, purpose="prediction")
        return torch.from_numpy(leading_class(counts.numpy(), alpha)) if len(counts) else counts[:, 0]

    def _certificate(
        self,
        x: Float[Tensor, "b ..."],
        options: Mapping[str, Any],
        batch_size: int,
        seed: int,
        ids: Int[Tensor, "b"] | None,
    ) -> Certificate:
        row = catalogue[self.certificate]
        options = row.options | self.options | dict(options)
        check_probability(options["alpha"], "alpha")
        x = self._checked(x)
        selection, counts = self.votes_for_certificate(x, options, batch_size, seed=seed, ids=ids)
        prediction, radius = row.judge(selection.numpy(), counts.numpy(), x.shape[1:], options)
        return Certificate(
            torch.from_numpy(prediction),
            torch.from_numpy(radius),
            counts=counts,
            selection=selection,
            failure_probability=options["alpha"],
            arithmetic=row.arithmetic,
        )

    def votes_for_certificate(
        self,
        x: Float[Tensor, "b ..."],
        options: Mapping[str, Any],
        batch_size: int,
        *,
        seed: int,
        ids: Int[Tensor, "b"] | None,
    ) -> tuple[Int[Tensor, "b classes"], Int[Tensor, "b classes"]]:
        """The votes that `certify` counts: those that choose the class, and those that bound its share.

        `options` are those of the catalogue's row: `n0` and `n` votes, and, where there are several `looks`, whatever
        else says when an example's votes may end.
        """
        names = checks.identifiers(ids, x)
        told: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        selection = self.vote_counts(x, options["n0"], ids=names, purpose="selection", **told)
        first, n = 0, options["n"]
        counts = torch.zeros_like(selection)
        going = torch.arange(len(x))
        for last in votes_at_looks(n, options.get("looks", 1)):
            counts[going] += self.vote_counts(
                x[going], last - first, ids=names[going], purpose="estimation", first=first, **told
            )
            if last < n:
                going = going[~self._settled(selection[going], counts[going], x.shape[1:], options)]
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
        if (part := part_in_training_mode(self.base_classifier)) is not None:
            raise ArgumentError(
                f"base_classifier: expected evaluation mode, got {part} in training mode, whose votes may depend on "
                "the batch; call eval()"
            )
        weight = next(self.parameters(), None)
        return x.detach().to(x.device if weight is None else weight.device)

    def _answers(self, copies: Tensor) -> Int[Tensor, "r"]:
        """The base classifier's answers, and on its first copies a look at whether they can be trusted."""
        answers = self._votes(copies)
        if not self._trusted:
            if not torch.equal(self._votes(copies.clone()), answers):
                raise ArgumentError(
                    "base_classifier: expected the same answers twice, got others on a second pass; the certificate "
                    "holds for deterministic classifiers only"
                )
            self._check_blind_to_the_batch(copies)
            self._trusted = True
        return answers.cpu()

    def _check_blind_to_the_batch(self, copies: Tensor) -> None:
        whole, half = self._logits(copies.clone()), self._logits(copies[: len(copies) // 2].clone())
        moved = (whole[: len(half)] - half).abs().amax(1)
        if bool((moved > _OTHER_BATCH * (1 + half.abs().amax(1))).any()):
            raise ArgumentError(
                "base_classifier: expected answers that do not depend on the batch, got others for the same images in "
                "a smaller one"
            )

    def _votes(self, copies: Tensor) -> Int[Tensor, "r"]:
        if self.precision == "float32":
            return self._logits(copies).argmax(1)
        with torch.autocast(copies.device.type, torch.bfloat16):
            z = self._logits(copies)
        largest, classes = z.float().topk(2, dim=1)
        votes = classes[:, 0]
        doubtful = largest[:, 0] - largest[:, 1] <= DOUBT * z.abs().amax(1)
        if bool(doubtful.any()):
            votes[doubtful] = self._logits(copies[doubtful]).argmax(1)
        return votes

    def _logits(self, copies: Tensor) -> Float[Tensor, "r classes"]:
        try:
            z = self.base_classifier(copies)
        except Exception as error:  # whatever a stranger's model raises
            raise ArgumentError(
                f"base_classifier: {self._unfit(copies.shape[1])}: {one_line(error)}"
            ) from error
        checks.logits(z, len(copies))
        if not bool((z.amax(1) < float("inf")).all()):
            raise ArgumentError("base_classifier: expected logits that are numbers, got NaN or infinity")
        self._classes = z.shape[1]
        return z

    def _unfit(self, channels: int) -> str:
        """What to say of a base classifier that fails on copies of so many channels."""
        return f"expected a model of {channels} channels, but it failed on them"


def part_in_training_mode(model: Any) -> str | None:
    """The first part of a model that is in training mode, by name and type; None: all are in evaluation mode."""
    if not isinstance(model, nn.Module):
        return None
    for name, module in model.named_modules():
        if module.training:
            return f"{name or 'the model'} ({type(module).__name__})"
    return None
