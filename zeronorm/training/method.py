"""What a training method is: a loss for the loop, or a loop of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor, nn

from zeronorm.certification import Certificate
from zeronorm.data import Dataset
from zeronorm.models.classifier import Classifier
from zeronorm.training.adversary import Adversary
from zeronorm.training.encoding import Encoding
from zeronorm.training.plan import TrainingPlan
from zeronorm.training.processes import Processes


@dataclass(frozen=True)
class TrainingExamples:
    """A data set, or some of its rows, on the device of the training."""

    x: Float[Tensor, "n c h w"]
    y: Int[Tensor, "n"]
    ids: Int[Tensor, "n"]

    def __getitem__(self, rows: Tensor) -> TrainingExamples:
        rows = rows.to(self.ids.device)
        return TrainingExamples(self.x[rows], self.y[rows], self.ids[rows])


@dataclass(frozen=True)
class TrainingBatch:
    """The examples of one step, after augmentation."""

    x: Float[Tensor, "b c h w"]
    y: Int[Tensor, "b"]
    ids: Int[Tensor, "b"]
    rows: Int[Tensor, "b"]  # of the training data
    epoch: int  # from 1
    step: int  # of the epoch, from 0


@dataclass(frozen=True)
class Setting:
    """What a method may use: the plan, the attack, the encoding if it has one, and a memory kept in the checkpoint."""

    plan: TrainingPlan
    adversary: Adversary
    y: Int[Tensor, "n"]  # the labels of all training data
    classes: int
    memory: dict[str, Tensor]  # by name; a new training fills it, a resumed one restores it
    encoding: Encoding | None = None
    processes: Processes = field(default_factory=Processes)


# (model in training mode, batch) -> (loss to minimise, logits whose accuracy is reported)
BatchLoss = Callable[[nn.Module, TrainingBatch], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Method:
    """A training method: how a batch becomes a loss, and what else sets it apart."""

    batch_loss: Callable[[Setting], BatchLoss]
    encoding: Callable[[TrainingPlan, Dataset], Encoding] | None = None
    """How images are changed before the model sees them, if at all."""
    grow: Callable[[Setting, TrainingExamples, Tensor, int], tuple[TrainingExamples, Tensor]] | None = None
    """(setting, examples, rows to learn, epoch) -> the examples and rows of this epoch, if it adds some."""
    by_example: tuple[str, ...] = ()
    """Names in its memory that have a row for each training example; a step writes those of its batch."""
    keeps_last: bool = False
    """Whether the last epoch is kept, however well earlier ones do on clean images: their task was easier."""
    certifiable: bool = False
    """Whether its models are made to be certified."""


# called with (step from 1, number of steps, loss)
StepDone = Callable[[int, int, float], None]


@dataclass(frozen=True)
class CertifiedMethod:
    """A training method with a loop of its own, for one network that is made to be certified."""

    train: Callable[[Classifier, Dataset, TrainingPlan, StepDone], Classifier]
    certify: Callable[[Classifier, Tensor], Certificate]
    on_cpu: bool = False
    """Whether it trains there only."""
    normalized: bool = False
    """Whether its network normalises the images."""
    certifiable: bool = True
