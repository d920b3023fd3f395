"""Architectures: shapes, sizes, seeds, normalisation."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
import torch.nn.functional as F

from zeronorm import models
from zeronorm.errors import ArgumentError
from zeronorm.models.classifier import ARCHITECTURES


def parameters(model):
    return sum(p.numel() for p in model.parameters())


PUBLISHED = {
    "lenet_300_100": 266_610,
    "lenet5": 431_080,
    "lenet5_caffe": 431_080,  # its prototxt
    "linear": 7_850,
    "mlp": 7_770_874,  # Beliaev et al. 2022, their code
    "small_cnn": 3_319_898,
    "feature_partition": 416_650,  # this library's own
    "preact_resnet18": 11_172_170,  # Zhong et al. 2024, their code
    "resnet20": 269_722,  # "0.27M", He et al. 2016, table 6
    "resnet32": 464_154,  # "0.46M", He et al. 2016, table 6
    "resnet34": 21_797_672,  # "21.8M", torchvision's table of weights
    "resnet50": 25_557_032,  # "25.6M", the same
    "vgg_like": 12_631_114,
    "vgg19": 20_304_202,  # Beliaev et al. 2022, their code
    "two_layer": 7_872,
    "four_layer_cnn": 2_032_570,  # Gopalakrishnan et al. 2020, their code
}


def test_every_architecture_has_the_published_size_and_says_so():
    assert set(PUBLISHED) | {"l0_lipschitz"} == set(ARCHITECTURES)  # it has tables: see below
    for name, expected in PUBLISHED.items():
        assert parameters(models.build(name)) == expected
        said = re.search(r"([\d,]+) parameters", inspect.getdoc(ARCHITECTURES[name]))
        assert int(said.group(1).replace(",", "")) == expected


def test_l0_lipschitz_says_how_large_its_tables_are():
    model = models.build("l0_lipschitz")
    assert parameters(model) == 0 and model.network.tables.numel() == 2_257_920
    assert "2,257,920 entries" in inspect.getdoc(ARCHITECTURES["l0_lipschitz"])
    assert models.describe(model)["parameters"] == sum(t.numel() for t in model.network.state_dict().values())


SHAPES = [(1, 28, 28), (3, 32, 32), (2, 17, 20), (1, 8, 8)]
LEAST_SIDE = {"lenet5": 16, "lenet5_caffe": 16, "vgg_like": 32, "vgg19": 32, "four_layer_cnn": 12}


@pytest.mark.parametrize(
    ("name", "shape"), [(n, s) for n in PUBLISHED for s in SHAPES if s[1] >= LEAST_SIDE.get(n, 0)]
)
def test_logits_and_gradients_for_any_image_size(name, shape):
    channels, height, width = shape
    model = models.build(name, in_channels=channels, image_size=(height, width), classes=7).eval()
    x = torch.rand(3, *shape, requires_grad=True)
    logits = model(x)
    assert logits.shape == (3, 7) and logits.dtype == torch.float32
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.shape == x.shape and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_example_has_the_same_logits_alone_in_a_batch_and_in_an_empty_one(name):
    model = models.build(name).double().eval()
    x = torch.rand(4, *model._input_shape, dtype=torch.float64)
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-12)
    assert model(x[:0]).shape == (0, model.arguments["classes"])


def test_resnet20_counts_twenty_layers_and_preact_resnet18_eighteen():
    def layers(model):
        kinds = (torch.nn.Conv2d, torch.nn.Linear)
        return sum(
            isinstance(m, kinds) and getattr(m, "kernel_size", (3, 3)) != (1, 1) for m in model.modules()
        )

    assert layers(models.build("resnet20")) == 20
    assert layers(models.build("resnet32")) == 32
    assert layers(models.build("resnet34")) == 34
    assert layers(models.build("preact_resnet18")) == 18


def test_preact_resnet18_against_its_formula():
    """The authors' network written out, block by block; batch norm in evaluation mode is an affine map."""
    model = models.build("preact_resnet18").eval()
    for index, norm in enumerate(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        g = torch.Generator().manual_seed(index)
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=g) * 0.1)
        norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
    w = model.network.state_dict()

    def norm(x, name):
        mean, var, weight, bias = (
            w[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = images = torch.rand(2, 3, 32, 32)
    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            a = F.softplus(norm(x, f"{name}.bn1"))
            skipped = x
            if f"{name}.shortcut.0.weight" in w:
                skipped = F.conv2d(a, w[f"{name}.shortcut.0.weight"], stride=stride)
            a = F.conv2d(a, w[f"{name}.conv1.weight"], stride=stride, padding=1)
            a = F.conv2d(F.softplus(norm(a, f"{name}.bn2")), w[f"{name}.conv2.weight"], padding=1)
            x = a + skipped
    x = F.avg_pool2d(F.relu(norm(x, "bn")), 4).flatten(1)
    expected = x @ w["linear.weight"].T + w["linear.bias"]
    with torch.no_grad():
        assert torch.allclose(model(images), expected, rtol=1e-4, atol=1e-4)
        relu = models.build("preact_resnet18", activation="relu").eval()
        relu.network.load_state_dict(w)
        assert not torch.allclose(relu(images), expected, rtol=1e-2, atol=1e-2)


def test_width_scales_the_small_cnn():
    assert parameters(models.build("small-cnn", image_size=8, width=0.25)) == 28_031
    assert models.build("small_cnn", width=0.001)(torch.rand(1, 1, 28, 28)).shape == (1, 10)


def test_the_seed_names_the_weights_and_no_global_state_moves():
    before = torch.get_rng_state()
    first, same, other = (models.build("resnet20", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert models.digest(first) == models.digest(same) != models.digest(other)
    torch.manual_seed(5)
    assert models.digest(models.build("resnet20", seed=0)) == models.digest(first)


def test_normalisation_is_the_first_layer():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    with_norm = models.build("resnet20", mean=mean, std=std).eval()
    without = models.build("resnet20").eval()
    x = torch.rand(2, 3, 32, 32)
    column = [torch.tensor(values)[:, None, None] for values in (mean, std)]
    assert torch.equal(with_norm(x), without((x - column[0]) / column[1]))
    assert with_norm.arguments["mean"] == [0.4, 0.5, 0.6]
    # published weights know nothing of it
    assert set(with_norm.network.state_dict()) == set(without.network.state_dict())


def test_inputs_of_another_shape_are_refused_in_one_line():
    model = models.build("lenet_300_100")
    message = (
        r"x: expected inputs of shape \(batch, 1, 28, 28\) for this lenet_300_100, got \(5, 3, 16, 16\)$"
    )
    for bad in (torch.rand(5, 3, 16, 16), torch.rand(5, 784), torch.rand(28, 28)):
        with pytest.raises(ArgumentError, match="x: expected inputs of shape"):
            model(bad)
    with pytest.raises(ArgumentError, match=message):
        model(torch.rand(5, 3, 16, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, r"model: expected one of lenet_300_100, .*, got 'vgg'"),
        (
            {"name": "small_cnn", "widht": 2},
            r"widht: expected arguments of small_cnn \(in_channels, .*width\)",
        ),
        ({"name": "small_cnn", "width": 0.0}, r"width: expected a number in \(0, inf\), got 0.0"),
        ({"name": "small_cnn", "image_size": 3}, "image_size: expected an integer of at least 4, got 3"),
        ({"name": "lenet5", "image_size": 8}, "image_size: expected an integer of at least 16, got 8"),
        ({"name": "lenet5", "image_size": (28,)}, "image_size: expected one side or "),
        ({"name": "lenet5", "in_channels": 0}, "in_channels: expected an integer of at least 1, got 0"),
        ({"name": "lenet5", "classes": 1}, "classes: expected an integer of at least 2, got 1"),
        ({"name": "lenet5", "seed": -1}, "seed: expected an integer"),
        ({"name": "resnet20", "mean": (0.5,), "std": (0.5,)}, r"mean: expected 3 numbers, .*, got \(0.5,\)"),
        ({"name": "resnet20", "mean": (0.5,) * 3}, "std: expected 3 numbers, one per channel, got None"),
        (
            {"name": "resnet20", "mean": (0.0,) * 3, "std": (1.0, 0.0, 1.0)},
            r"std: expected a number in \(0, inf\), got 0.0",
        ),
        (
            {"name": "preact_resnet18", "activation": "gelu"},
            "activation: expected one of softplus, relu, got 'gelu'",
        ),
    ],
)
def test_bad_arguments_get_one_line(arguments, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        models.build(**arguments)
    assert "\n" not in str(caught.value)


def test_the_catalogue_lists_every_name_in_one_line_each():
    entries = {entry.name: entry for entry in models.available()}
    assert set(ARCHITECTURES) | {"digits", "digits-robust", "l0-lipschitz-mnist"} == set(entries)
    for entry in entries.values():
        assert entry.kind == ("architecture" if entry.name in ARCHITECTURES else "trained")
        assert 20 < len(entry.description) < 130 and "\n" not in entry.description


def test_linear_with_two_classes_is_one_row():
    model = models.build("linear", classes=2)
    assert parameters(model) == 785
    x, y = torch.rand(6, 1, 28, 28), torch.tensor([0, 1, 1, 0, 1, 0])
    layer = model.network[1]
    score = x.flatten(1) @ layer.weight[0] + layer.bias
    assert torch.equal(model(x).argmax(1), (score > 0).long())
    softplus = F.softplus(-score * (2 * y - 1)).mean()
    assert torch.allclose(F.cross_entropy(model(x), y), softplus)


def test_caffes_lenet5_is_linear_up_to_its_pooling():
    model = models.build("lenet5_caffe")
    kinds = [type(layer).__name__ for layer in model.network]
    assert kinds == ["Conv2d", "MaxPool2d", "Conv2d", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    twin = models.build("lenet5")
    assert [p.shape for p in model.parameters()] == [p.shape for p in twin.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_vgg_like_has_twelve_convolutions_and_two_linear_layers():
    modules = list(models.build("vgg_like").modules())
    assert sum(isinstance(m, torch.nn.Conv2d) for m in modules) == 12
    assert sum(isinstance(m, torch.nn.Linear) for m in modules) == 2
