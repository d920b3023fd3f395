"""The images that the base classifier of randomized ablation sees: only a few random pixels of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.data import Dataset
from zeronorm.defenses.randomized_ablation import ablate, random_subsets
from zeronorm.seeding import Streams
from zeronorm.training.plan import TrainingPlan


@dataclass(frozen=True)
class Encoding:
    """Ablates images for training: random pixels are shown, the others hidden.

    The arguments are those of `zeronorm.defenses.RandomizedAblation`; `mean` hides pixels where `null` is "mean".
    """

    retained: int
    null: str
    mean: list[float] | None
    seed: int

    @classmethod
    def of(cls, plan: TrainingPlan, data: Dataset) -> Encoding:
        """The encoding that a plan asks for; with "mean", pixels are hidden behind the mean colour of the data.

        **Raises:** `ArgumentError` for more retained pixels than there are.
        """
        checks.integer("retained", plan.retained, 1, data.x.shape[2] * data.x.shape[3])
        mean = [round(m, 4) for m in data.x.mean((0, 2, 3)).tolist()] if plan.null == "mean" else None
        return cls(plan.retained, plan.null, mean, plan.seed)

    def channels(self, channels: int) -> int:
        """Number of channels of the encoded images."""
        return 2 * channels if self.null == "multichannel" else channels

    def shared(self, x: Float[Tensor, "b c h w"], epoch: int, step: int) -> Float[Tensor, "b e h w"]:
        """The images of a mini-batch, all ablated by the same subset of pixels."""
        name = torch.tensor([epoch], device=x.device)
        words = Streams(self.seed, name, "ablation_training").bits(step, self.retained)
        return self._through(x, words.expand(len(x), -1))

    def own(self, x: Float[Tensor, "b c h w"], ids: Int[Tensor, "b"]) -> Float[Tensor, "b e h w"]:
        """Each image ablated by its own subset of pixels, to measure accuracy."""
        return self._through(x, Streams(self.seed, ids, "ablated_accuracy").bits(0, self.retained))

    def record(self) -> dict[str, Any]:
        """Arguments for `RandomizedAblation`, which the sidecar keeps under "ablation"."""
        return {"retained": self.retained, "null": self.null, "mean": self.mean}

    def _through(self, x: Tensor, words: Tensor) -> Tensor:
        return ablate(x, random_subsets(words, x.shape[2] * x.shape[3]), self.null, self.mean)
