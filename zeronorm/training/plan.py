"""The plan of a training: the only declaration of its options, which the command line, checks and docs read."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from zeronorm.errors import ArgumentError
from zeronorm.training.option import Option, option, typed
from zeronorm.training.tracking import TRACKERS

SCHEDULES = {
    "cosine": "falls to 0",
    "step": "a tenth after 1/4 and again after 3/4 of the steps (Zhong et al.)",
}
GRADIENTS = {
    "random": "either, drawn for each mini-batch",
    "projected": "always this one",
    "unprojected": "always this one",
    "alternate": "changes every five epochs",
}
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {  # as Fabric calls them
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
}
METHOD_HELP = {
    "standard": "cross-entropy on the images as they are",
    "sat": "on adversarial images",
    "strades": "on clean images, and on how far adversarial ones move the answer",
    "fast_ls": "the same with soft labels and an attack of one step",
    "linf_adversarial": "on adversarial images of an ℓ∞ ball",
    "ablation": "on a few random pixels of each image, for randomized ablation",
    "truncated": "a truncated first layer, and adversarial images that are kept and added",
    "truncation_window": "on the worst logits that the window of a truncated first layer allows",
    "l0_lipschitz": "a network whose margins move by at most one per pixel",
    "feature_partition": "votes of disjoint groups of pixels",
}

CERTIFIED = ("l0_lipschitz", "feature_partition")  # each trains one network by a loop of its own
LOOP = tuple(name for name in METHOD_HELP if name not in CERTIFIED)  # trained by the common loop over epochs
_ATTACKING = ("sat", "strades", "fast_ls")
_BY_SGD_OR_VOTES = (*LOOP, "feature_partition")

ADVERSARY, PROOF, SGD = "Training against an adversary", "Training for a certificate", "Optimisation"
BEST, SPARSE = "Choosing the best epoch", "Pruning and sparse networks"
GROUPS = ("", ADVERSARY, PROOF, SGD, BEST, SPARSE)

# arguments of `build` that follow from the data and the seed
_FROM_DATA = ("in_channels", "image_size", "classes", "mean", "std", "seed")


def _architectures() -> Collection[str]:
    from zeronorm.models.classifier import ARCHITECTURES

    return ARCHITECTURES


def _nulls() -> Collection[str]:
    from zeronorm.defenses.randomized_ablation import NULLS

    return NULLS


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A plan of a training.  The defaults suit digits and MNIST with the small CNN.

    **Raises:** `ArgumentError` for a value that cannot be used.
    """

    # fmt: off
    out: str | os.PathLike[str] = option(
        "Folder for the model, its metrics and the checkpoint to continue from.",
        recorded="never",
    )
    data: str = option(
        "Data set: digits, mnist, cifar10, ..., parquet:PATH, folder:PATH. Its train split is learnt, its test "
        "split measured.",
        "digits",
    )
    model: str = option(
        "Architecture, such as lenet5 or resnet20.",
        "small_cnn", by_method={name: name for name in CERTIFIED}, choices=_architectures,
    )
    model_arguments: dict[str, Any] = option(
        "An argument of the architecture, such as width=0.25; repeat it for more. Channels, image size, classes and "
        "normalisation follow from the data.",
        {}, metavar="NAME=VALUE",
    )
    initial: str | os.PathLike[str] | None = option(
        "A trained model to start from, instead of random weights. It brings its architecture and normalisation; "
        "its zero weights stay zero.",
        None, methods=LOOP, group=SPARSE, recorded="changed",
    )
    prune: float = option(
        "Share of the non-zero weights of every layer to prune during training, the smallest first; 0: none.",
        0.0, methods=LOOP, low=0.0, high=1.0, open_high=True, group=SPARSE, recorded="changed",
    )
    prune_rounds: int = option(
        "Rounds of pruning, each of the same share of what is left, evenly spread over the epochs. With --initial "
        "the first round comes before the first epoch.",
        1, methods=LOOP, low=1, group=SPARSE, recorded="changed",
    )
    keep_dense: tuple[str, ...] = option(
        "Layers that are not pruned, by name, with commas between them; first and last are understood.",
        (), methods=LOOP, group=SPARSE, recorded="changed",
    )
    l1: float = option(
        "Weight λ of the penalty λ Σ |w| in the loss, over the weights that may be pruned.",
        0.0, methods=LOOP, low=0.0, group=SPARSE, recorded="changed",
    )
    method: str = option("How the model learns.", "standard", choices=METHOD_HELP)
    k: int | None = option(
        "Number of pixels an adversary may change. The held-out images are attacked within it after each epoch; "
        "methods that attack keep the epoch that withstands most.",
        None, methods=("standard", *_ATTACKING, "truncated", "truncation_window"), needed=(*_ATTACKING, "truncated"),
        low=1, group=ADVERSARY, recorded="changed",
    )
    epsilon: float | None = option(
        "How far an adversary may change every value. The held-out images are attacked within it after each epoch; "
        "the epoch that withstands most is kept.",
        None, methods=("linf_adversarial",), needed=("linf_adversarial",), low=0.0, open_low=True, group=ADVERSARY,
    )
    multi_k: float = option(
        "Budget of the training's attack, as a multiple of k (6: Zhong et al., Table 7).",
        6.0, methods=_ATTACKING, low=0.0, open_low=True, group=ADVERSARY,
    )
    attack: dict[str, dict[str, Any]] | None = option(
        "Attack to train against, as name:option=value; of several, with commas, one is drawn for each mini-batch.",
        {"sparse_pgd": {}}, by_method={"truncated": {"sparse_rs": {}}}, methods=(*_ATTACKING, "truncated"),
        group=ADVERSARY,
    )
    steps: int | None = option(
        "Updates or queries of the training's attack.",
        20, by_method={"fast_ls": 1, "linf_adversarial": 40, "truncated": 300}, late=True,
        methods=(*_ATTACKING, "linf_adversarial", "truncated"), low=1, group=ADVERSARY,
    )
    step_size: float | None = option(
        "Size of each update of the attack.",
        None, default_help="a quarter of epsilon", methods=("linf_adversarial",), low=0.0, open_low=True,
        group=ADVERSARY,
    )
    gradient: str = option(
        "Gradient of sparse_pgd.",
        "random", choices=GRADIENTS, methods=_ATTACKING, group=ADVERSARY,
    )
    tolerance: int = option(
        "Steps that sparse_pgd waits before it redraws a mask that has not changed.",
        10, methods=_ATTACKING, low=1, group=ADVERSARY,
    )
    beta: float = option(
        "Weight of the trade-off term (3 in the authors' code).",
        3.0, methods=("strades", "fast_ls"), low=0.0, group=ADVERSARY,
    )
    noise: float = option(
        "Pixels of random noise that the attack starts from, as a multiple of its budget.",
        1.0, methods=("fast_ls",), low=0.0, group=ADVERSARY,
    )
    label_momentum: float = option(
        "Weight of the past in the moving average that is an image's soft label.",
        0.9, methods=("fast_ls",), low=0.0, high=1.0, group=ADVERSARY,
    )
    label_warm_up: float = option(
        "Share of the epochs, at the start, that learn the given labels.",
        0.3, methods=("fast_ls",), low=0.0, high=1.0, group=ADVERSARY,
    )
    retained: int = option("Number of pixels shown.", 45, methods=("ablation",), low=1, group=PROOF)
    null: str = option(
        "What hides a pixel: multichannel (no colour, the channels are doubled) or mean (the mean colour).",
        "multichannel", choices=_nulls, methods=("ablation",), group=PROOF,
    )
    append_every: int = option(
        "Epochs between attacks on the training images.",
        25, methods=("truncated",), low=1, group=ADVERSARY,
    )
    append_limit: int | None = option(
        "Most images to attack each time, drawn anew.",
        None, default_help="all", methods=("truncated",), low=1, group=ADVERSARY,
    )
    box_factor: float = option(
        "Width of the attack's box of values, as a multiple of the images' (β of Beliaev et al., who take 100).",
        1.0, methods=("truncated",), low=1.0, group=ADVERSARY,
    )
    budget: float | int = option(
        "Changes to train against; more trades clean accuracy for radius. truncation_window counts whole "
        "coordinates, at most the layer's k, and reaches the full budget halfway.",
        10, by_method={"l0_lipschitz": 26.0, "feature_partition": 44.0}, methods=("truncation_window", *CERTIFIED),
        low=0.0, group=PROOF,
    )
    temperature: float = option(
        "Divides the worst-case logits, in pixels or votes; hard votes use none.",
        5.0, by_method={"feature_partition": 24.0}, methods=CERTIFIED, low=0.0, open_low=True, group=PROOF,
    )
    groups: int = option(
        "Random groups of each partition that a step evaluates.",
        8, methods=("feature_partition",), low=1, group=PROOF,
    )
    sharpness: float = option(
        "Multiplies the scores of soft votes at the end: sharper votes trade a little clean accuracy for radius.",
        2.0, methods=("feature_partition",), low=0.0, open_low=True, group=PROOF,
    )
    warm_up: float = option(
        "Share of the steps over which learning rate and budget rise; 0 suits a model that is trained already.",
        0.3, methods=("feature_partition",), low=0.0, high=1.0, group=PROOF,
    )
    softness: float = option(
        "Temperature of the smooth maximum over units; the trained network takes true maxima.",
        1.0, methods=("l0_lipschitz",), low=0.0, open_low=True, group=PROOF,
    )
    patch_softness: float = option(
        "Temperature of the smooth maximum over the templates of a patch.",
        0.5, methods=("l0_lipschitz",), low=0.0, open_low=True, group=PROOF,
    )
    epochs: int = option(
        "Passes over the training images.",
        20, by_method={"l0_lipschitz": 6, "feature_partition": 120}, low=1, group=SGD,
    )
    batch_size: int = option(
        "Images in a step, at most; an epoch is cut into batches of equal size.",
        128, by_method=dict.fromkeys(CERTIFIED, 250), low=1, group=SGD,
    )
    lr: float = option(
        "Initial learning rate.",
        0.05, by_method={"l0_lipschitz": 0.01, "feature_partition": 4e-3}, low=0.0, open_low=True, group=SGD,
    )
    schedule: str = option("Learning rate over the steps.", "cosine", choices=SCHEDULES, methods=LOOP, group=SGD)
    momentum: float = option(
        "Momentum of stochastic gradient descent.",
        0.9, methods=LOOP, low=0.0, high=1.0, group=SGD,
    )
    weight_decay: float = option(
        "Weight decay.",
        5e-4, by_method={"feature_partition": 0.02}, methods=_BY_SGD_OR_VOTES, low=0.0, group=SGD,
    )
    average: float = option(
        "Keep a moving average of the weights, in which the past has this weight at every step; 0: none.",
        0.0, methods=LOOP, low=0.0, high=1.0, open_high=True, group=SGD, recorded="changed",
    )
    crop: int = option(
        "Augment: pad images by so many black pixels and crop them at a random place (4 is usual for CIFAR).",
        0, by_method={"feature_partition": 2}, methods=_BY_SGD_OR_VOTES, low=0, group=SGD,
    )
    flip: bool = option(
        "Augment: mirror images left and right at random.",
        False, by_method={"feature_partition": True}, methods=_BY_SGD_OR_VOTES, group=SGD,
    )
    normalize: bool = option(
        "Let the model normalise by the mean and deviation of the training images.",
        True, methods=LOOP, group=SGD,
    )
    validation: float = option(
        "Share of the training images held out to choose the best epoch; 0: keep the last epoch.",
        0.1, methods=LOOP, low=0.0, high=0.9, group=BEST,
    )
    validation_limit: int = option(
        "Most held-out images to attack after each epoch.",
        500, methods=LOOP, low=1, group=BEST, recorded="attacked",
    )
    validation_steps: int = option(
        "Updates of sparse_pgd on them, with each gradient; within an ℓ∞ ball, of pgd.",
        20, methods=LOOP, low=1, group=BEST, recorded="attacked",
    )
    validation_queries: int = option(
        "Queries of sparse_rs on those that are left.",
        200, methods=LOOP, low=1, group=BEST, recorded="attacked",
    )
    limit: int | None = option("Use only the first so many training images.", None, default_help="all", low=1)
    seed: int = option(
        "Seed of everything random: weights, held-out images, shuffling, augmentation, attacks.",
        0, low=0, high=2**63 - 1,
    )
    precision: str = option(
        "Arithmetic of the training's passes; weights are kept in float32.",
        "float32", by_method={"feature_partition": "bfloat16"}, methods=_BY_SGD_OR_VOTES, choices=tuple(PRECISIONS),
    )
    device: str = option("Where to train; auto is a GPU if there is one.", "auto", choices=DEVICES, recorded="never")
    track: tuple[str, ...] = option(
        "Programs that get the metrics too, with commas between them.",
        (), methods=LOOP, choices=tuple(TRACKERS), recorded="never",
    )
    resume: bool = option("Continue the training in OUT, if there is one.", False, methods=LOOP, recorded="never")
    # fmt: on

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", OPTIONS["method"].check("method", self.method, "", str))
        if taken := sorted(set(self.model_arguments) & set(_FROM_DATA)):
            raise ArgumentError(f"set: expected none of {', '.join(_FROM_DATA)}, got {taken[0]}")
        for name, one in OPTIONS.items():
            value = getattr(self, name)
            if value is None and one.by_method and not one.late:
                value = one.default_of(self.method)
            if value is not None:
                value = one.check(name, value, self.method, KINDS[name])  # numpy's numbers become Python's
            object.__setattr__(self, name, value)
        for name, one in OPTIONS.items():
            value = getattr(self, name)
            if not one.takes(self.method) and value != (None if one.late else one.default):
                raise ArgumentError(f"{name}: the method {self.method} takes no {name}")
            if value is None and self.method in one.needed:
                raise ArgumentError(f"{name}: expected a value, which {self.method} needs, got None")
        self._check_start()
        if self.takes("attack"):
            object.__setattr__(self, "attack", _checked_attack(self.attack))
        if self.method == "truncated" and self.initial is None:
            object.__setattr__(self, "model_arguments", {"truncation": self.k} | self.model_arguments)
        if self.method in CERTIFIED and self.model != self.method:
            raise ArgumentError(
                f"model: expected {self.method} for the method of this name, got {self.model!r}"
            )

    def _check_start(self) -> None:
        """Check the model to start from, and that the rounds of pruning fit between the epochs."""
        most = self.epochs if self.initial is not None else self.epochs - 1
        if self.prune and self.prune_rounds > most:
            raise ArgumentError(
                f"prune_rounds: expected at least one epoch for each of {self.prune_rounds} rounds, "
                f"got {self.epochs} epochs"
            )
        if self.initial is not None:
            architecture, _ = self._start
            if self.model not in (OPTIONS["model"].default, architecture):
                raise ArgumentError(
                    f"model: expected {architecture}, that of {self.initial}, got {self.model}"
                )
            if self.model_arguments:
                raise ArgumentError(
                    f"set: expected none beside initial, which brings its own, got {next(iter(self.model_arguments))}"
                )
            object.__setattr__(self, "model", architecture)
            object.__setattr__(self, "initial", os.fspath(self.initial))

    @cached_property
    def _start(self) -> tuple[str, str]:
        """Architecture and digest of `initial`, read once."""
        from zeronorm.models.checkpoint import digest, load

        assert self.initial is not None
        model = load(self.initial)
        return model.architecture, digest(model)

    def takes(self, name: str) -> bool:
        """Whether the plan's method has an option."""
        return OPTIONS[name].takes(self.method)

    @property
    def adversarial(self) -> bool:
        """Whether the method trains against an attack."""
        return self.takes("attack") or self.takes("epsilon")

    @property
    def attacked(self) -> bool:
        """Whether the held-out examples are attacked after each epoch."""
        return self.k is not None or self.epsilon is not None

    def pruned_before(self) -> list[int]:
        """The epochs, from 1, that begin with a round of pruning."""
        if not self.prune:
            return []
        dense = int(self.initial is None)  # epochs before the first round
        stretches = self.prune_rounds + dense
        return [1 + (i + dense) * self.epochs // stretches for i in range(self.prune_rounds)]

    def training_k(self) -> int:
        """The budget of the training's attack."""
        assert self.k is not None
        return max(1, round(self.multi_k * self.k)) if self.takes("multi_k") else self.k

    def attack_steps(self) -> int:
        """Updates or queries of the training's attack."""
        return int(self.steps or OPTIONS["steps"].default_of(self.method))

    def identity(self) -> dict[str, Any]:
        """The values that decide the trained weights, by which a checkpoint recognises its plan."""
        said = {name: value for name, value in asdict(self).items() if self._recorded(name)}
        if self.initial is not None:
            said["initial"] = self._start[1]  # by its weights, not by its path
        return said

    def _recorded(self, name: str) -> bool:
        one = OPTIONS[name]
        when = {"always": True, "never": False, "attacked": self.attacked}
        return one.takes(self.method) and when.get(one.recorded, getattr(self, name) != one.default)

    def command(self) -> str:
        """The command line of this plan; options at their default are left out."""
        words = ["zeronorm", "train", "--method", self.method, "--model", self.model, "--data", self.data]
        for name, one in OPTIONS.items():
            value = getattr(self, name)
            if name in ("method", "model", "data", "model_arguments") or one.recorded == "never":
                continue
            if not one.takes(self.method) or value == (None if one.late else one.default_of(self.method)):
                continue
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                text = typed(value) if isinstance(value, dict) else value
                words += [f"--{flag}", ",".join(text) if isinstance(text, tuple) else str(text)]
        for name, value in self.model_arguments.items():
            words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
        return shlex.join(words) + " --out DIR"


def _checked_attack(given: Any) -> dict[str, dict[str, Any]]:
    from zeronorm.attacks.catalogue import get

    if not isinstance(given, dict) or not all(isinstance(options, dict) for options in given.values()):
        raise ArgumentError(f"attack: expected options by the name of each attack, got {given!r}")
    if not given:
        raise ArgumentError("attack: expected the name of at least one attack, got none")
    attacks = {get(name): dict(options) for name, options in given.items()}
    for attack, options in attacks.items():
        if attack.kind != "budget":
            raise ArgumentError(
                f"attack: expected an attack that searches within a budget, got {attack.name}"
            )
        attack.check_options(options)
    return {attack.name: options for attack, options in attacks.items()}


OPTIONS: dict[str, Option] = {one.name: one.metadata["option"] for one in fields(TrainingPlan)}


def _kind(hint: Any) -> type:
    """The type of a field's values, without parameters; of a union, the first."""
    first = get_args(hint)[0] if isinstance(hint, UnionType) else hint
    return get_origin(first) or first


KINDS: dict[str, type] = {name: _kind(hint) for name, hint in get_type_hints(TrainingPlan).items()}
TrainingPlan.__doc__ = f"{TrainingPlan.__doc__}\n    **Arguments:**\n\n" + "\n".join(
    f"    - `{name}`: {one.sentence(LOOP)}" for name, one in OPTIONS.items()
)
