"""Truncated layers: the fact sheet's vectors, laws, and what they do to a network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.defenses import (
    TruncatedConv2d,
    TruncatedInput,
    TruncatedLinear,
    truncate,
    truncated_inner_product,
)

W = torch.tensor([1, -2, 0.5, 3, 0, -1, 2, 1])
X = torch.tensor([2, 1, 4, -1, 5, 3, 0.5, -2])


def test_by_hand():
    # products 2 -2 2 -3 0 -3 1 -2
    assert [truncated_inner_product(W, X, k).item() for k in range(5)] == [-5, -4, -3, -2, 0]
    layer = TruncatedLinear(8, 1, 1)
    layer.weight.data = W[None]
    assert layer(X).tolist() == [-4]
    attacked = X.clone()
    attacked[0] = -1e6
    assert truncated_inner_product(W, attacked, 1).item() == layer(attacked).item() == -9


def test_the_gradient_by_hand():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    to_w, to_x = torch.autograd.grad(truncated_inner_product(w, x, 1), (w, x))
    # of the products equal to 2 the later one is dropped, of those equal to -3 the earlier
    assert to_x.tolist() == [1, -2, 0, 0, 0, -1, 2, 1]
    assert to_w.tolist() == [2, 1, 0, 0, 5, 3, 0.5, -2]


def test_leading_dimensions_broadcast():
    w, x = torch.randn(7, 1, 12), torch.randn(3, 12)
    values = truncated_inner_product(w, x, 3)
    assert values.shape == (7, 3)
    assert torch.equal(values[2, 1], truncated_inner_product(w[2, 0], x[1], 3))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_inner_products(bias):
    layer, x = TruncatedLinear(20, 6, 4, bias), torch.randn(2, 3, 20)
    shift = layer.bias if bias else 0
    expected = truncated_inner_product(layer.weight, x[..., None, :], 4) + shift
    torch.testing.assert_close(layer(x), expected)
    plain = nn.Linear(20, 6, bias)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(TruncatedLinear(20, 6, 0)(x) * 0 + plain(x), plain(x))
    layer.k = 0
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1, "stride": 2},
        {"padding": "same", "dilation": 2},
        {"padding": (1, 2), "padding_mode": "reflect", "bias": True},
    ],
)
def test_a_convolution_is_the_inner_products_of_its_patches(options):
    conv, x = TruncatedConv2d(2, 5, 3, 4, **options), torch.randn(3, 2, 8, 9, requires_grad=True)
    plain = nn.Conv2d(2, 5, 3, **({"bias": False} | options))
    plain.load_state_dict(conv.state_dict())
    out = conv(x)
    assert out.shape == plain(x).shape
    padded = F.pad(
        x,
        conv._reversed_padding_repeated_twice,
        mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode,
    )
    patches = F.unfold(padded, 3, conv.dilation, 0, conv.stride).transpose(1, 2)
    expected = truncated_inner_product(conv.weight.flatten(1), patches[:, :, None], 4)
    expected = expected.transpose(1, 2).reshape(out.shape)
    if conv.bias is not None:
        expected = expected + conv.bias[:, None, None]
    torch.testing.assert_close(out, expected)
    g = torch.randn_like(out)
    mine = torch.autograd.grad(out, (x, conv.weight), g)
    theirs = torch.autograd.grad(expected, (x, conv.weight), g)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    conv.k = 0
    torch.testing.assert_close(conv(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_convolution_in_pieces(monkeypatch):
    conv, x = TruncatedConv2d(2, 5, 3, 4), torch.randn(7, 2, 8, 9)
    whole = conv(x)
    monkeypatch.setattr("zeronorm.layers.truncation._PATCHES", 1500)
    assert torch.equal(conv(x), whole)


def test_half_precision_is_compared_in_float32():
    layer, x = TruncatedLinear(30, 4, 3, dtype=torch.bfloat16), torch.randn(5, 30).bfloat16()
    out = layer(x)
    assert out.dtype == torch.bfloat16
    exact = truncated_inner_product(layer.weight.float(), x[:, None].float(), 3)
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(TruncatedLinear(30, 4, 3)(nn.Linear(30, 30)(x.float()))).all()


def test_input_by_hand():
    x = torch.tensor([[0.1, 0.9, 0.5, 0.3]], requires_grad=True)
    y = TruncatedInput(1)(x)
    assert torch.equal(y, torch.tensor([[0, 0, 0.5, 0.3]]))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [[0, 0, 1, 1]]


def test_input_by_channel_or_all_together():
    x = torch.rand(4, 3, 5, 5)
    before = x.clone()
    by_channel, together = TruncatedInput(2)(x), TruncatedInput(2, per_channel=False)(x)
    assert torch.equal(x, before)  # the authors' code writes into the caller's batch
    assert ((by_channel == 0).flatten(2).sum(2) == 4).all()
    assert ((together == 0).flatten(1).sum(1) == 4).all()
    assert together.flatten(1).max() < 1 and x.flatten(1).topk(2).values.min() > together.max() - 1
    assert torch.equal(by_channel[by_channel != 0], x[by_channel != 0])


def test_a_learned_window_starts_as_none():
    x = torch.rand(4, 1, 5, 5)
    windowed = TruncatedInput(2, window=(1, 5, 5))
    assert torch.equal(windowed(x), TruncatedInput(2)(x))
    windowed(x).sum().backward()
    assert windowed.window.grad.shape == (1, 5, 5) and bool(windowed.window.grad.any())


def test_truncate_replaces_the_first_layer_of_a_copy():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 5), nn.ReLU()), nn.Linear(5, 3))
    x = torch.rand(2, 1, 8, 8)
    robust = truncate(model, 7)
    assert isinstance(robust[1][0], TruncatedLinear) and isinstance(robust[2], nn.Linear)
    assert isinstance(model[1][0], nn.Linear) and not isinstance(model[1][0], TruncatedLinear)
    hidden = truncated_inner_product(model[1][0].weight, x.view(2, 1, 64), 7) + model[1][0].bias
    torch.testing.assert_close(robust(x), model[2](hidden.relu()))
    torch.testing.assert_close(truncate(model, 0)(x), model(x))
    conv = truncate(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, stride=2)).eval(), 4)
    assert isinstance(conv[0], TruncatedConv2d) and conv[0].stride == (2, 2) and not conv[0].training
    assert isinstance(truncate(nn.Linear(4, 2), 1), TruncatedLinear)


def test_a_truncated_checkpoint_stays_truncated(tmp_path):
    mlp = zn.models.build("mlp", image_size=8, widths=[20])
    x = torch.rand(5, 1, 8, 8)
    robust = truncate(mlp, 4)
    assert not torch.allclose(robust(x), mlp(x))
    zn.models.save(robust, tmp_path)
    assert torch.equal(zn.models.load(tmp_path)(x), robust(x))
    # also of an architecture that does not know truncation
    digits = zn.models.load("digits")
    zn.models.save(truncate(digits, 3), tmp_path / "other")
    loaded = zn.models.load(tmp_path / "other")
    assert torch.equal(loaded(x), truncate(digits, 3)(x)) and not torch.allclose(loaded(x), digits(x))
    # its weights alone do not make it another model, but k does
    assert loaded.state_dict().keys() == digits.state_dict().keys()
    digests = [zn.models.digest(m) for m in (digits, loaded, truncate(digits, 4), truncate(digits, 0))]
    assert len(set(digests)) == 3 and digests[3] == digests[0]


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "small_cnn", "resnet20", "vgg19"])
def test_every_architecture_takes_truncation(name):
    model, plain = zn.models.build(name, truncation=4), zn.models.build(name)
    kinds = TruncatedLinear | TruncatedConv2d | TruncatedInput
    assert [layer.k for layer in model.modules() if isinstance(layer, kinds)] == [4]
    assert model.arguments["truncation"] == 4
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_errors():
    for k in (5, -1, True):
        with pytest.raises(ArgumentError, match="k: expected an integer between 0 and 4, half of the 8"):
            truncated_inner_product(W, X, k)
    with pytest.raises(ArgumentError, match=r"w, x: expected shapes .* got \(8,\) and \(7,\)"):
        truncated_inner_product(W, X[:7], 1)
    with pytest.raises(ArgumentError, match="w: expected a floating point tensor"):
        truncated_inner_product(W.long(), X, 1)
    bad = X.clone()
    bad[3] = torch.inf
    with pytest.raises(ArgumentError, match="x: expected finite values"):
        truncated_inner_product(W, bad, 1)
    with pytest.raises(ArgumentError, match="x: expected finite values"):
        TruncatedLinear(8, 2, 1)(bad)
    with pytest.raises(ArgumentError, match="half of the 8 input features, got 5"):
        TruncatedLinear(8, 2, 5)
    with pytest.raises(ArgumentError, match="half of the 9 entries of a patch, got 5"):
        TruncatedConv2d(1, 2, 3, 5)
    with pytest.raises(ArgumentError, match="groups: expected 1, got 2"):
        TruncatedConv2d(2, 2, 3, 1, groups=2)
    with pytest.raises(ArgumentError, match="half of the 4 values, got 3"):
        TruncatedInput(3)(torch.rand(1, 1, 2, 2))
    with pytest.raises(ArgumentError, match="x: expected 8 features"):
        TruncatedLinear(8, 2, 1)(X[:7])
    with pytest.raises(ArgumentError, match="with a linear or convolutional layer, got none"):
        truncate(nn.ReLU(), 1)
