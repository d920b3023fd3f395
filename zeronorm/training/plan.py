"""What is asked of a training, in one typed place: the command line's options and the sidecar's record."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from zeronorm.errors import ArgumentError

SCHEDULES = ("cosine", "step")
GRADIENTS = ("random", "projected", "unprojected", "alternate")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {  # as Fabric calls them
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
}

# where and when a training runs, as opposed to what it computes
_CIRCUMSTANCES = ("out", "device", "resume", "track")
# what only held-out examples under attack need, and values that turn a field off
_ATTACKED = ("validation_limit", "validation_steps", "validation_queries")
_OFF = {
    "k": None, "average": 0.0, "initial": None, "prune": 0.0, "prune_rounds": 1, "keep_dense": (), "l1": 0.0
}  # fmt: skip
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
    initial: str | os.PathLike[str] | None = None
    """A trained model to start from, as `zeronorm.models.load` names it, instead of random weights; it brings its
    architecture and normalisation.  What is zero in it stays zero."""
    prune: float = 0.0
    """Share of every layer's non-zero weights to set to zero, the smallest, on the way; 0: none."""
    prune_rounds: int = 1
    """Rounds that this is done in, each of the same share of what is left.  With `initial` the first is before the
    first epoch and the others follow at equal distances; without, as many epochs come before the first one."""
    keep_dense: tuple[str, ...] = ()
    """Layers that are not pruned, by name; "first" and "last" stand for these (Guo et al. 2018, on CIFAR-10)."""
    l1: float = 0.0
    """Weight λ of λ Σ |w| in the loss, over the weights that pruning is about."""
    method: str = "standard"
    """How each batch becomes a loss: "standard" (cross-entropy on the examples as they are), "sat", "strades" or
    "fast_ls" (on adversarial examples), "linf_adversarial" (on those of an ℓ∞ ball), "ablation" (on what shows of a few
    random pixels), "truncated" (of a network whose first layer truncates k products at either end: as they are, and
    those that broke it appended), "truncation_window" (of a network with a truncated first layer: on the worst logits
    that its window allows)."""
    k: int | None = None
    """Pixels that an adversary may change and the model is to withstand; methods that attack need it.  Given, the
    held-out examples are attacked within it after each epoch; of a method that attacks, the best epoch is the one that
    withstands most."""
    epsilon: float | None = None
    """Of "linf_adversarial", which needs it: by how much an adversary may change every value.  The held-out examples
    are attacked within it after each epoch, and the best epoch is the one that withstands most."""
    multi_k: float = 6.0
    """The budget of the training's attack, in multiples of k (Zhong et al., Table 7)."""
    attack: dict[str, dict[str, Any]] | None = None
    """Attacks to train against: names of the catalogue, each with its options; of several, one is drawn for
    every mini-batch.  Default sparse_pgd, and sparse_rs for "truncated"."""
    steps: int | None = None
    """Updates or queries of the training's attack; default 20, for "fast_ls" 1, for "linf_adversarial" 40, for
    "truncated" 300."""
    step_size: float | None = None
    """Of "linf_adversarial": of each update; default a quarter of epsilon."""
    gradient: str = "random"
    """Of sparse-PGD: "projected", "unprojected", "random" for each mini-batch, or "alternate" after five epochs."""
    tolerance: int = 10
    """Of sparse-PGD in training: steps with the same mask before it is drawn anew."""
    beta: float = 3.0
    """Weight of the trade-off term of "strades" and "fast_ls" (3 in the authors' code)."""
    noise: float = 1.0
    """Of "fast_ls": pixels of noise at the start of the attack, in multiples of its budget."""
    label_momentum: float = 0.9
    """Of "fast_ls": weight of the past in the moving average that is an example's label."""
    label_warm_up: float = 0.3
    """Of "fast_ls": share of the epochs that are learnt with the given labels first."""
    retained: int = 45
    """Of "ablation": pixels that are shown."""
    null: str = "multichannel"
    """Of "ablation": what hides a pixel, "multichannel" (no colour: the channels are doubled) or "mean"."""
    append_every: int = 25
    """Of "truncated": epochs between attacks on the training examples."""
    append_limit: int | None = None
    """Of "truncated": attack so many of them at most, drawn anew each time."""
    box_factor: float = 1.0
    """Of "truncated": the attack's values lie in the box of the images made so many times as wide, about its
    middle (β of Beliaev et al., who take 100)."""
    budget: int = 10
    """Of "truncation_window": changed coordinates to train against, at most the layer's k; the later half of the
    epochs trains against all of them."""
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
    average: float = 0.0
    """Keep a moving average of the weights, in which the past has this weight at every step, instead of the
    weights themselves; 0: none."""
    crop: int = 0
    """Augmentation: pad by so many black pixels and crop at a random place; 4 is usual for CIFAR."""
    flip: bool = False
    """Augmentation: mirror left and right, at random."""
    normalize: bool = True
    """Whether the model's first layer subtracts the mean and divides by the deviation of the training images."""
    validation: float = 0.1
    """Fraction of the training examples held out to choose the best epoch; 0: the last epoch is kept."""
    validation_limit: int = 500
    """Held-out examples that are attacked after each epoch, at most."""
    validation_steps: int = 20
    """Updates of sparse-PGD on them, with either gradient; within an ℓ∞ ball of PGD."""
    validation_queries: int = 200
    """Queries of Sparse-RS on those that withstand it."""
    limit: int | None = None
    """Use only the first so many training examples."""
    seed: int = 0
    """Names the initial weights, the held-out examples, the shuffling, the augmentation and the attacks."""
    precision: str = "float32"
    """Arithmetic of the passes: "float32", or "bfloat16" with weights kept in float32."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": a CUDA device if there is one."""
    track: tuple[str, ...] = ()
    """Programs that get the metrics as well: "tensorboard", "mlflow"."""
    resume: bool = False
    """Continue the training in `out`, if there is one."""

    def __post_init__(self) -> None:
        # imported here: checks needs torch, the defaults of the command line do not
        from zeronorm import checks
        from zeronorm.defenses.randomized_ablation import NULLS
        from zeronorm.models.classifier import ARCHITECTURES
        from zeronorm.training.methods import METHODS
        from zeronorm.training.tracking import TRACKERS

        if taken := sorted(set(self.model_arguments) & set(_FROM_DATA)):
            raise ArgumentError(f"set: expected none of {', '.join(_FROM_DATA)}, got {taken[0]}")
        checked = {
            "model": checks.choice("model", str(self.model).replace("-", "_"), ARCHITECTURES),
            "method": checks.choice("method", self.method, METHODS),
            "k": None if self.k is None else checks.integer("k", self.k, 1),
            "epsilon": None
            if self.epsilon is None
            else checks.real("epsilon", self.epsilon, 0.0, open_low=True),
            "step_size": None
            if self.step_size is None
            else checks.real("step_size", self.step_size, 0.0, open_low=True),
            "multi_k": checks.real("multi_k", self.multi_k, 0.0, open_low=True),
            "steps": None if self.steps is None else checks.integer("steps", self.steps, 1),
            "gradient": checks.choice("gradient", self.gradient, GRADIENTS),
            "tolerance": checks.integer("tolerance", self.tolerance, 1),
            "beta": checks.real("beta", self.beta, 0.0),
            "noise": checks.real("noise", self.noise, 0.0),
            "label_momentum": checks.real("label_momentum", self.label_momentum, 0.0, 1.0),
            "label_warm_up": checks.real("label_warm_up", self.label_warm_up, 0.0, 1.0),
            "average": checks.real("average", self.average, 0.0, 1.0 - 1e-9),
            "validation_limit": checks.integer("validation_limit", self.validation_limit, 1),
            "validation_steps": checks.integer("validation_steps", self.validation_steps, 1),
            "validation_queries": checks.integer("validation_queries", self.validation_queries, 1),
            "retained": checks.integer("retained", self.retained, 1),
            "null": checks.choice("null", self.null, NULLS),
            "append_every": checks.integer("append_every", self.append_every, 1),
            "append_limit": None
            if self.append_limit is None
            else checks.integer("append_limit", self.append_limit, 1),
            "box_factor": checks.real("box_factor", self.box_factor, 1.0),
            "budget": checks.integer("budget", self.budget, 0),
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
            "track": tuple(checks.choice("track", name, TRACKERS) for name in self.track),
        }
        checked |= self._checked_sparsity()
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numpy's numbers have become Python's

        if foreign := [name for name in self._foreign() if getattr(self, name) != _DEFAULTS[name]]:
            raise ArgumentError(f"{foreign[0]}: the method {self.method} takes no {foreign[0]}")
        budget = METHODS[self.method].budget
        if budget is not None and getattr(self, budget) is None:
            what = {"k": "the number of pixels", "epsilon": "the change of each value"}[budget]
            raise ArgumentError(f"{budget}: expected {what} that {self.method} shall withstand, got None")
        if self.k is not None and METHODS[self.method].encoding:
            raise ArgumentError(f"k: the method {self.method} takes no k; zeronorm certify proves one")
        if self.k is not None and budget == "epsilon":
            raise ArgumentError(f"k: the method {self.method} takes no k, only epsilon")
        if budget == "k":
            attack = self._checked_attack(
                {self._attack_of_method(): {}} if self.attack is None else self.attack
            )
            object.__setattr__(self, "attack", attack)
        if self.method == "truncated" and self.initial is None:
            object.__setattr__(self, "model_arguments", {"truncation": self.k} | self.model_arguments)

    def _checked_sparsity(self) -> dict[str, Any]:
        from zeronorm import checks
        from zeronorm.defenses.pruning import share_below_one

        checked: dict[str, Any] = {
            "prune": share_below_one("prune", self.prune),
            "prune_rounds": checks.integer("prune_rounds", self.prune_rounds, 1),
            "keep_dense": (self.keep_dense,) if isinstance(self.keep_dense, str) else tuple(self.keep_dense),
            "l1": checks.real("l1", self.l1, 0.0),
        }
        most = self.epochs if self.initial is not None else self.epochs - 1
        if checked["prune"] and checked["prune_rounds"] > most:
            raise ArgumentError(
                f"prune_rounds: expected an epoch at least around each of {self.prune_rounds} rounds, "
                f"got {self.epochs} epochs"
            )
        if self.initial is not None:
            architecture, _ = self._start
            if self.model not in (_DEFAULTS["model"], architecture) or self.model_arguments:
                raise ArgumentError(
                    f"model: expected that of {self.initial}, {architecture}, or none beside it"
                )
            checked |= {"model": architecture, "initial": os.fspath(self.initial)}
        return checked

    @cached_property
    def _start(self) -> tuple[str, str]:
        """Architecture and digest of `initial`, read once."""
        from zeronorm.models.checkpoint import digest, load

        assert self.initial is not None
        model = load(self.initial)
        return model.architecture, digest(model)

    def pruned_before(self) -> list[int]:
        """The epochs, from 1, that a round of pruning comes before."""
        if not self.prune:
            return []
        dense = int(self.initial is None)  # a stretch that is learnt first
        stretches = self.prune_rounds + dense
        return [1 + (i + dense) * self.epochs // stretches for i in range(self.prune_rounds)]

    def _foreign(self) -> list[str]:
        """Fields that other methods have and this one has not."""
        from zeronorm.training.methods import METHODS

        uses = METHODS[self.method].uses
        return [name for method in METHODS.values() for name in method.uses if name not in uses]

    def _attack_of_method(self) -> str:
        return "sparse_rs" if self.method == "truncated" else "sparse_pgd"

    def _checked_attack(self, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        from zeronorm.attacks.catalogue import get

        if not isinstance(given, dict) or not all(isinstance(options, dict) for options in given.values()):
            raise ArgumentError(f"attack: expected options by the name of each attack, got {given!r}")
        if not given:
            raise ArgumentError("attack: expected the name of an attack at least, got none")
        attacks = {get(name): dict(options) for name, options in given.items()}
        for attack, options in attacks.items():
            if attack.kind != "budget":
                raise ArgumentError(f"attack: expected one that searches within a budget, got {attack.name}")
            attack.check_options(options)
        return {attack.name: options for attack, options in attacks.items()}

    def training_k(self) -> int:
        """The budget of the training's attack."""
        assert self.k is not None
        return self.k if self.method == "truncated" else max(1, round(self.multi_k * self.k))

    def attack_steps(self) -> int:
        """Updates or queries of the training's attack."""
        return self.steps or {"fast_ls": 1, "linf_adversarial": 40, "truncated": 300}.get(self.method, 20)

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights: every field but where and when, and what this method does not use."""
        unused = [name for name, off in _OFF.items() if getattr(self, name) == off]
        unused += self._foreign()
        unused += () if (self.k, self.epsilon) != (None, None) else _ATTACKED
        said = {name: value for name, value in asdict(self).items() if name not in (*_CIRCUMSTANCES, *unused)}
        if self.initial is not None:
            said["initial"] = self._start[1]  # wherever it lies
        return said

    def command(self) -> str:
        """The command line of this plan; options at their default are left out."""
        words = ["zeronorm", "train", "--method", self.method, "--model", self.model, "--data", self.data]
        for option in fields(self):
            if option.name in ("method", "model", "data", "model_arguments", *_CIRCUMSTANCES):
                continue
            value = getattr(self, option.name)
            if option.name == "attack":
                if value and value != {self._attack_of_method(): {}}:
                    words += ["--attack", ",".join(_typed(*attack) for attack in value.items())]
                continue
            flag = option.name.replace("_", "-")
            if value == _DEFAULTS[option.name]:
                continue
            if isinstance(value, tuple):
                value = ",".join(value)
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        for name, value in self.model_arguments.items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        return shlex.join(words) + " --out DIR"


_DEFAULTS = {option.name: option.default for option in fields(TrainingPlan)}


def _typed(attack: str, options: dict[str, Any]) -> str:
    """An attack as it is typed: name:option=value."""
    return ":".join([attack, *(f"{name}={value}" for name, value in options.items())])
