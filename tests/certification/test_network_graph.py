"""Which classifiers are read, that they are read exactly, and what is refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

import zeronorm as zn
from zeronorm.certification import network_graph
from zeronorm.certification.network_graph import Conv2d, Layer, Linear, Relu, read_network
from zeronorm.errors import ArgumentError


def _sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).eval()


def _built(*layers: nn.Module, shape: tuple[int, ...] = (2, 9, 8)) -> nn.Module:
    torch.manual_seed(1)
    model = _sequence(*layers)
    model(torch.rand(1, *shape))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
    return model


class Residual(nn.Module):
    """What people write: functions, operators, changes in place, shapes asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 3 * 3, 3)

    def forward(self, x):
        if x.shape[1] != 1:
            raise ValueError("one channel")
        x = F.relu((2 * x - 1) / 0.5)
        y = self.conv1(x).relu_()
        out = self.conv2(y)
        out += y
        out = F.avg_pool2d(F.relu(out, inplace=True), 2)
        return self.fc(out.view(x.size(0), -1))


@pytest.mark.parametrize(
    "name",
    [
        "lenet_300_100",
        "lenet5",
        "lenet5_caffe",
        "linear",
        "small_cnn",
        "resnet20",
        "four_layer_cnn",
        "two_layer",
    ],
)
def test_our_architectures_are_read(name: str) -> None:
    model = zn.models.build(
        name, mean=[0.1] * (3 if name == "resnet20" else 1), std=[0.3] * (3 if name == "resnet20" else 1)
    ).eval()
    x = torch.rand(3, model.arguments["in_channels"], *[model.arguments["image_size"]] * 2)
    network = read_network(model, x)
    with torch.no_grad():
        expected = model.double()(x.double())
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2), nn.ReLU()),
        (nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        (nn.ZeroPad2d((1, 0, 2, 0)), nn.AvgPool2d((2, 3), stride=2, padding=1, count_include_pad=False)),
        (nn.AvgPool2d(3, padding=1), nn.Identity(), nn.MaxPool2d(2, padding=1)),
        (nn.AdaptiveAvgPool2d((3, 4)), nn.ReLU()),
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers),
)
def test_torch_layers_are_read(layers: tuple[nn.Module, ...]) -> None:
    model = _built(*layers)
    x = torch.randn(4, 2, 9, 8)
    network = read_network(model, x)
    torch.testing.assert_close(network(x), model.double()(x.double()).detach(), rtol=1e-12, atol=1e-12)


def test_affine_operations_have_their_transpose_and_their_magnitude() -> None:
    model = _built(
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.AvgPool2d(2),
    )
    network = read_network(model, torch.rand(1, 2, 9, 8))
    for operation in network.operations[1:]:
        shape = network.operations[operation.inputs[0]].shape
        x, a = torch.randn(3, *shape).double(), torch.randn(3, *operation.shape).double()
        (back,) = operation.transpose(a)
        torch.testing.assert_close((back * x).flatten(1).sum(1), (a * operation.linear(x)).flatten(1).sum(1))
        assert bool((operation.magnitude(x.abs()) >= operation.apply(x).abs() - 1e-12).all())


def test_a_module_of_ones_own_is_read_by_the_functions_it_applies() -> None:
    model = Residual().eval()
    x = torch.rand(2, 1, 6, 6)
    network = read_network(model, x)
    assert [type(o).__name__ for o in network.operations].count("Add") == 1
    torch.testing.assert_close(network(x), model.double()(x.double()).detach(), rtol=1e-12, atol=1e-12)


class _Subclass(nn.Linear):
    def forward(self, x):
        return super().forward(x).abs()


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


class _Random(_Branches):
    def forward(self, x):
        return self.fc(x) + torch.rand(3)


class _Batch(_Branches):
    def forward(self, x):
        return self.fc(x - x.mean(0))


class _Escapes(_Branches):
    def forward(self, x):
        return self.fc(torch.from_numpy(x.detach().numpy()))


class _Counts(_Branches):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * (1.0 if self.calls < 2 else 2.0)


class _Alias(_Branches):
    def forward(self, x):
        y = self.fc(x)
        z = y.view(-1, 3)
        z.add_(1.0)
        return y


def _flat(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), layer).eval()


def _hooked() -> nn.Module:
    model = _flat(nn.Linear(4, 3))
    model[1].register_forward_hook(lambda module, args, result: result + 1)
    return model


def _parametrized() -> nn.Module:
    model = _flat(nn.Linear(4, 3))
    parametrize.register_parametrization(model[1], "weight", nn.Tanh())
    return model.eval()


def _weights(value: float) -> nn.Module:
    model = _flat(nn.Linear(4, 3))
    model[1].weight.data[0, 0] = value
    return model


def _child_training() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).eval()
    model[1].train()
    return model


def _own_forward() -> nn.Module:
    model = _flat(nn.Linear(4, 3))
    model[1].forward = lambda x: x[:, :3]
    return model


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda x: x, "torch module"),
        (_flat(_Subclass(4, 3)), "_Subclass.*subclass of Linear"),
        (_flat(_Branches().eval()), "Tensor.sum"),
        (_flat(_Random().eval()), "called again"),
        (_flat(_Batch().eval()), "mean"),
        (_flat(_Escapes().eval()), "detach"),
        (_flat(_Counts().eval()), "called again"),
        (_flat(_Alias().eval()), "in place"),
        (_hooked(), "hooks"),
        (_parametrized(), "parametri"),
        (_weights(float("nan")), "1.weight"),
        (_weights(float("inf")), "finite weights"),
        (_child_training(), "training mode"),
        (_own_forward(), "forward"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)).eval(), "Softmax"),
        (
            nn.Sequential(nn.Conv2d(1, 1, 2, padding=1, padding_mode="reflect"), nn.Flatten()).eval(),
            "reflect",
        ),
        (
            nn.Sequential(nn.MaxPool2d(2, padding=1, ceil_mode=True, stride=3), nn.Flatten()).eval(),
            "ceil_mode",
        ),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, track_running_stats=False)).eval(), "batch"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 2))).eval(), "mixes|apart"),
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).half().eval(), "float16"),
    ],
)
def test_what_is_not_known_is_refused_by_name(model: object, says: str) -> None:
    with pytest.raises(ArgumentError, match=f"model: .*({says})"):
        read_network(model, torch.rand(2, 1, 2, 2))


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().eval()
    x = torch.rand(2, 1, 6, 6)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    read_network(model, x)
    assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks
    assert all(bool((before[name] == value).all()) for name, value in model.state_dict().items())
    assert bool((torch.get_rng_state() == state).all())


def test_a_registered_layer_is_one_operation_or_a_plain_one() -> None:
    class Odd(nn.Linear):
        def forward(self, x):
            return (
                F.linear(x, self.weight, self.bias).sort(1).values
                if self.bias is not None
                else super().forward(x)
            )

    def plain(module: nn.Module) -> nn.Module | None:
        if module.bias is not None:
            return None
        same = nn.Linear(module.in_features, module.out_features, bias=False)
        same.weight = module.weight
        return same

    network_graph.register(Odd, plain)
    try:
        model = nn.Sequential(nn.Flatten(), Odd(4, 5), nn.ReLU(), Odd(5, 3, bias=False)).eval()
        network = read_network(model, torch.rand(1, 1, 2, 2))
        assert [type(o) for o in network.operations[2:]] == [Layer, Relu, Linear]
        x = torch.randn(4, 1, 2, 2)
        torch.testing.assert_close(network(x), model.double()(x.double()).detach())
    finally:
        network_graph._REGISTERED.pop(Odd)


def test_the_walk_finds_its_convolution() -> None:
    network = read_network(zn.models.load("digits"), torch.rand(1, 1, 8, 8))
    first = next(o for o in network.operations if isinstance(o, Conv2d))
    assert first.stride == (2, 2) and first.padding == (1, 1) and network.dtype == torch.float32
