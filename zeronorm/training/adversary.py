"""The attacks that training uses: short, with new random numbers every epoch, and without side effects.

An attack runs the model in evaluation mode, on the running statistics of its batch normalisation, and asks for
the gradient of its input only; training sees nothing of it but the examples it returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zeronorm.attacks.catalogue import Attack, get
from zeronorm.attacks.signed_gradient import pgd
from zeronorm.attacks.sparse_autoattack import sparse_autoattack
from zeronorm.modules import evaluation_mode
from zeronorm.seeding import Streams, below
from zeronorm.threat_model import L0, Linf

if TYPE_CHECKING:
    from zeronorm.training.plan import TrainingPlan

_ALTERNATE = 5  # epochs before the gradient changes


class Adversary:
    """Makes the adversarial examples that a plan trains on, and counts the examples that withstand its attacks.

    Zhong, Huang & Liu 2024, section 4.3: sparse-PGD with a larger budget than is tested (multi-k), more patience
    before a mask is drawn anew, and one of the two gradients drawn for every mini-batch.  Where a plan names
    several attacks, one is drawn likewise.  TrainingExamples that the model gets wrong come back clean: early in a
    training most of them, a curriculum that the paper does not mention.

    Differences from the authors' code: random numbers are those of (seed, epoch, example), not of the batch;
    nothing is forwarded in training mode for the log; "alternate" changes after each five epochs (theirs
    after four, then each five).
    """

    def __init__(self, plan: TrainingPlan, model: nn.Module) -> None:
        self._plan, self.model = plan, model
        self._attacks = [(get(name), options) for name, options in (plan.attack or {}).items()]

    @property
    def k(self) -> int:
        """The budget of the training's attack."""
        return self._plan.training_k()

    def __call__(
        self, x: Float[Tensor, "b c h w"], y: Int[Tensor, "b"], ids: Int[Tensor, "b"], epoch: int, step: int
    ) -> Float[Tensor, "b c h w"]:
        """Adversarial examples of a batch, within the training's budget."""
        attack, options = self._attacks[self._draw("attack", epoch, step, len(self._attacks))]
        seed = _seed(self._plan.seed, epoch)
        given = self._options(attack, epoch, step) | options
        return attack.function(self.model, x, y, self._threat(self.k), seed=seed, ids=ids, **given)

    def broken(
        self, x: Float[Tensor, "b c h w"], y: Int[Tensor, "b"], ids: Int[Tensor, "b"], epoch: int
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b"]]:
        """Adversarial examples of a batch, and which of them the model gets wrong."""
        with evaluation_mode(self.model):
            x_adv = self(x, y, ids, epoch, 0)
            with torch.inference_mode():
                return x_adv, self.model(x_adv).argmax(1) != y

    def withstood(self, x: Float[Tensor, "b c h w"], y: Int[Tensor, "b"], ids: Int[Tensor, "b"]) -> int:
        """Number of examples still classified right after three short attacks within the budget k.

        Sparse-PGD with either gradient and then Sparse-RS, which asks for none: a model that hides its
        gradients looks robust to the first two, and it would be chosen as the best.  Within an ℓ∞ ball, PGD alone.
        """
        plan = self._plan
        own: dict[str, Any] = {"steps": plan.validation_steps, "seed": plan.seed, "ids": ids}
        if plan.epsilon is not None:
            attacked = pgd(self.model, x, y, Linf(plan.epsilon), **own)
        else:
            assert plan.k is not None
            threat = self._threat(plan.k)
            attacked = sparse_autoattack(self.model, x, y, threat, queries=plan.validation_queries, **own)
        with torch.inference_mode(), evaluation_mode(self.model):
            return int((self.model(attacked).argmax(1) == y).sum())

    def _threat(self, k: int) -> L0:
        """Threat model of k pixels, with the box [0, 1] widened about its middle by `box_factor`."""
        wide = self._plan.box_factor
        return L0(k, low=(1 - wide) / 2, high=(1 + wide) / 2)

    def _options(self, attack: Attack, epoch: int, step: int) -> dict[str, Any]:
        """Options of this attack that the plan sets."""
        plan, options = self._plan, dict.fromkeys(attack.cost, self._plan.attack_steps())
        offered: dict[str, Callable[[], Any]] = {
            "gradient": lambda: self._gradient(epoch, step),
            "tolerance": lambda: plan.tolerance,
        }
        return options | {name: value() for name, value in offered.items() if name in attack.options}

    def _gradient(self, epoch: int, step: int) -> str:
        either = ("projected", "unprojected")
        if self._plan.gradient == "random":
            return either[self._draw("gradient", epoch, step, 2)]
        if self._plan.gradient == "alternate":
            return either[(epoch - 1) // _ALTERNATE % 2]
        return self._plan.gradient

    def _draw(self, what: str, epoch: int, step: int, n: int) -> int:
        bits = Streams(self._plan.seed, torch.tensor([epoch]), f"training {what}").bits(step, 1)
        return int(below(bits, n))


def _seed(seed: int, epoch: int) -> int:
    """Seed of the attacks in an epoch."""
    name = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(name) >> 1
