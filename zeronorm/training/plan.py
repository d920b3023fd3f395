"""What is asked of a training, in one typed place: the command line's options and the sidecar's record."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from zeronorm.errors import ArgumentError

SCHEDULES = ("cosine", "step")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {  # as Fabric calls them
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
}

# where and when a training runs, as opposed to what it computes
_CIRCUMSTANCES = ("out", "device", "resume")
# arguments of `build` that a plan decides otherwise
_FROM_DATA = ("in_channels", "image_size", "classes", "mean", "std", "seed")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A training.  The defaults suit digits and MNIST with the small CNN.

    **Raises:** `ArgumentError` for a value that cannot be used.
    """

    out: str | os.PathLike[str]
    """Folder of the trained model, its metrics and the checkpoint to continue from."""
    data: str = "digits"
    """Data set, as `zeronorm.data.load` names it; its train split is learnt, its test split measured."""
    model: str = "small_cnn"
    """Architecture, as `zeronorm.models.build` names it."""
    model_arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the architecture beyond those that follow from the data, such as `width`."""
    method: str = "standard"
    """How each batch becomes a loss; "standard": cross-entropy on the examples as they are."""
    epochs: int = 20
    """Passes over the training examples."""
    batch_size: int = 128
    """Examples in a step, at most: an epoch is cut into batches of equal size."""
    lr: float = 0.05
    """Initial learning rate of stochastic gradient descent."""
    schedule: str = "cosine"
    """Learning rate over the steps: "cosine" falls to 0; "step" divides by 10 at 1/4 and at 3/4 (Zhong et al.)."""
    momentum: float = 0.9
    """Momentum of stochastic gradient descent."""
    weight_decay: float = 5e-4
    """Weight decay, of all weights."""
    crop: int = 0
    """Augmentation: pad by so many black pixels and crop at a random place; 4 is usual for CIFAR."""
    flip: bool = False
    """Augmentation: mirror left and right, at random."""
    normalize: bool = True
    """Whether the model's first layer subtracts the mean and divides by the deviation of the training images."""
    validation: float = 0.1
    """Fraction of the training examples held out to choose the best epoch; 0: the last epoch is kept."""
    limit: int | None = None
    """Use only the first so many training examples."""
    seed: int = 0
    """Names the initial weights, the held-out examples, the shuffling and the augmentation."""
    precision: str = "float32"
    """Arithmetic of the passes: "float32", or "bfloat16" with weights kept in float32."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a CUDA device if there is one."""
    resume: bool = False
    """Continue the training in `out`, if there is one."""

    def __post_init__(self) -> None:
        # imported here: checks needs torch, the defaults of the command line do not
        from zeronorm import checks
        from zeronorm.models.classifier import ARCHITECTURES
        from zeronorm.training.methods import METHODS

        if taken := sorted(set(self.model_arguments) & set(_FROM_DATA)):
            raise ArgumentError(f"set: expected none of {', '.join(_FROM_DATA)}, got {taken[0]}")
        checked = {
            "model": checks.choice("model", str(self.model).replace("-", "_"), ARCHITECTURES),
            "method": checks.choice("method", self.method, METHODS),
            "epochs": checks.integer("epochs", self.epochs, 1),
            "batch_size": checks.integer("batch_size", self.batch_size, 1),
            "lr": checks.real("lr", self.lr, 0.0, open_low=True),
            "schedule": checks.choice("schedule", self.schedule, SCHEDULES),
            "momentum": checks.real("momentum", self.momentum, 0.0, 1.0),
            "weight_decay": checks.real("weight_decay", self.weight_decay, 0.0),
            "crop": checks.integer("crop", self.crop, 0),
            "validation": checks.real("validation", self.validation, 0.0, 0.9),
            "limit": None if self.limit is None else checks.integer("limit", self.limit, 1),
            "seed": checks.integer("seed", self.seed, 0, 2**63 - 1),
            "precision": checks.choice("precision", self.precision, PRECISIONS),
            "device": checks.choice("device", self.device, DEVICES),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numpy's numbers have become Python's

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights: every field but where and when."""
        return {name: value for name, value in asdict(self).items() if name not in _CIRCUMSTANCES}

    def command(self) -> str:
        """The command line of this plan; options at their default are left out."""
        words = ["zeronorm", "train", "--method", self.method, "--model", self.model, "--data", self.data]
        for option in fields(self):
            if option.name in ("method", "model", "data", "model_arguments", *_CIRCUMSTANCES):
                continue
            value = getattr(self, option.name)
            flag = option.name.replace("_", "-")
            if value == option.default:
                continue
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        for name, value in self.model_arguments.items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        return shlex.join(words) + " --out DIR"
