"""What `build` returns: a normalisation and a network that remember how they were made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.layers.sparsifying_front_end import SparsifyingFrontEnd
from zeronorm.layers.truncation import truncate_first_layer
from zeronorm.models.feature_partition import feature_partition
from zeronorm.models.l0_lipschitz import l0_lipschitz
from zeronorm.models.lenet import lenet5, lenet5_caffe, lenet_300_100
from zeronorm.models.linear import linear
from zeronorm.models.mlp import mlp
from zeronorm.models.normalize import Normalize
from zeronorm.models.preact_resnet import preact_resnet18
from zeronorm.models.resnet import resnet20, resnet32, resnet34, resnet50
from zeronorm.models.small_cnn import small_cnn
from zeronorm.models.sparsity_based import four_layer_cnn, two_layer
from zeronorm.models.vgg import vgg19, vgg_like

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "lenet_300_100": lenet_300_100,
    "lenet5": lenet5,
    "lenet5_caffe": lenet5_caffe,
    "linear": linear,
    "mlp": mlp,
    "small_cnn": small_cnn,
    "preact_resnet18": preact_resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "l0_lipschitz": l0_lipschitz,
    "feature_partition": feature_partition,
    "vgg19": vgg19,
    "vgg_like": vgg_like,
    "two_layer": two_layer,
    "four_layer_cnn": four_layer_cnn,
}

_COUNT_PIXELS = ("l0_lipschitz", "feature_partition")  # whose proofs count pixels as they are


class Classifier(nn.Module):
    """A network behind its normalisation: inputs in [0, 1] to logits.

    `normalize` is all that comes before the network: with a front end, that first.  `architecture` and `arguments`
    are what `build` needs to make it again; `facts` is what the sidecar of its checkpoint says (data, accuracy,
    training), empty before it is saved or loaded.
    """

    architecture: str
    arguments: dict[str, Any]
    facts: dict[str, Any]

    def __init__(
        self, architecture: str, arguments: dict[str, Any], normalize: nn.Module, network: nn.Module
    ) -> None:
        super().__init__()
        self.architecture, self.arguments, self.facts = architecture, arguments, {}
        self.normalize, self.network = normalize, network
        self._input_shape = (arguments["in_channels"], *sides(arguments["image_size"]))

    def forward(self, x: Tensor) -> Tensor:
        """`(b, in_channels, height, width)` to logits `(b, classes)`."""
        if x.shape[1:] != self._input_shape:
            expected = ", ".join(map(str, self._input_shape))
            raise ArgumentError(
                f"x: expected inputs of shape (batch, {expected}) for this {self.architecture}, "
                f"got {tuple(x.shape)}"
            )
        return self.network(self.normalize(x))

    def rebuilt(self, **changes: Any) -> Classifier:
        """A copy made by `build` with some other arguments, and the same weights of the network."""
        built = build(self.architecture, **(self.arguments | changes))
        built.network.load_state_dict(self.network.state_dict())
        weight = next(self.parameters(), None)
        return (built if weight is None else built.to(weight)).train(self.training)


def build(
    name: str,
    *,
    in_channels: int | None = None,
    image_size: int | Sequence[int] | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    front_end: Mapping[str, Any] | None = None,
    seed: int = 0,
    **arguments: Any,
) -> Classifier:
    """A new model with random weights: `build("small_cnn", in_channels=1, image_size=28, classes=10)`.

    **Arguments:**

    - `name`: one of `ARCHITECTURES` (see `available()`); hyphens may stand for underscores.
    - `in_channels`, `image_size` (one side, or height and width), `classes`: the shapes of inputs and logits;
      by default those of the data set the architecture is known for (MNIST or CIFAR-10).
    - `mean`, `std`: per channel, of inputs in [0, 1]; normalisation is the model's first layer.  None: no
      normalisation.
    - `front_end`: arguments of a `zeronorm.defenses.SparsifyingFrontEnd` for the images to pass first, such as
      `{"wavelet": "coif1", "keep_fraction": 0.035}`, or None.
    - `seed`: names the random weights; the global random state is neither read nor moved.
    - `arguments`: the architecture's own, such as `width` of the small CNN.  Every architecture takes
      `truncation`, of its first layer (`zeronorm.defenses.truncate`) if it says nothing else.

    **Raises:** `ArgumentError` for a name or an argument that cannot be used.
    """
    architecture = checks.choice("model", str(name).replace("-", "_"), ARCHITECTURES)
    constructor = ARCHITECTURES[architecture]
    shapes = {"in_channels": in_channels, "image_size": image_size, "classes": classes}
    given = {key: value for key, value in shapes.items() if value is not None} | arguments
    names = list(inspect.signature(constructor).parameters)
    truncation = None if "truncation" in names else given.pop("truncation", None)
    try:
        bound = inspect.signature(constructor).bind(**given)
    except TypeError:
        unknown = sorted(set(given) - set(names))
        raise ArgumentError(
            f"{', '.join(unknown)}: expected arguments of {architecture} ({', '.join(names)}), got {unknown[0]!r}"
        ) from None
    bound.apply_defaults()
    made = bound.arguments
    made["in_channels"] = checks.integer("in_channels", made["in_channels"], 1)
    made["classes"] = checks.integer("classes", made["classes"], 2)
    made["image_size"] = sides(made["image_size"])
    # of those, proofs hold for every finite input
    saturates = bool(truncation or made.get("truncation") or architecture in _COUNT_PIXELS)
    normalize = _normalize(mean, std, made["in_channels"], saturates)
    if front_end is not None:
        normalize = nn.Sequential(sparsifies := _front_end(front_end, architecture, made), normalize)
    # seeding this generator alone: torch.manual_seed would move those of other devices too
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(checks.integer("seed", seed, 0, 2**63 - 1))
        network = constructor(**made)
    if truncation is not None:
        network, made["truncation"] = truncate_first_layer(network, truncation), truncation
    height, width = made["image_size"]
    made["image_size"] = height if height == width else [height, width]
    if mean is not None and std is not None:
        made |= {"mean": [float(m) for m in mean], "std": [float(s) for s in std]}
    if front_end is not None:
        made["front_end"] = sparsifies.arguments
    return Classifier(architecture, dict(made), normalize, network)


def sides(image_size: Any) -> tuple[int, int]:
    """Height and width, of one side or of both."""
    sides = [image_size, image_size] if hasattr(image_size, "__index__") else image_size
    if not isinstance(sides, Sequence) or isinstance(sides, str) or len(sides) != 2:
        raise ArgumentError(f"image_size: expected one side or (height, width), got {image_size!r}")
    height, width = (checks.integer("image_size", side, 1) for side in sides)
    return height, width


def _front_end(given: Any, architecture: str, made: Mapping[str, Any]) -> SparsifyingFrontEnd:
    if not isinstance(given, Mapping):
        raise ArgumentError(f"front_end: expected the arguments of a front end by name, got {given!r}")
    if architecture in _COUNT_PIXELS:
        raise ArgumentError(
            f"front_end: expected none before {architecture}, whose proofs count pixels as they are: a front end "
            "spreads the change of one over many"
        )
    known = list(inspect.signature(SparsifyingFrontEnd).parameters)
    for name in given:
        if name not in known:
            raise ArgumentError(f"front_end: expected arguments {', '.join(known)}, got {name!r}")
    for name in known[:2]:
        if name not in given:
            raise ArgumentError(f"front_end: expected a {name}, got {', '.join(given) or 'nothing'}")
    front_end = SparsifyingFrontEnd(**given)
    front_end.basis(
        torch.empty(0, made["in_channels"], *made["image_size"])
    )  # complains of images that do not fit
    return front_end


def _normalize(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int, saturates: bool
) -> nn.Module:
    if mean is None and std is None:
        return nn.Identity()
    for name, values, low in (("mean", mean, -math.inf), ("std", std, 0.0)):
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != channels:
            raise ArgumentError(f"{name}: expected {channels} numbers, one per channel, got {values!r}")
        for value in values:
            checks.real(name, value, low, open_low=True)
    assert mean is not None and std is not None
    return Normalize(mean, std, saturates=saturates)
