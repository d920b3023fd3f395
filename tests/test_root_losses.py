"""Per-example losses: against torch's cross-entropy, and where float32 leaves that one without a direction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, softplus

from zeronorm import losses


@st.composite
def logits_and_labels(draw, spread=30.0):
    b, classes = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    values = st.floats(-spread, spread, allow_nan=False)
    z = torch.tensor(draw(st.lists(values, min_size=b * classes, max_size=b * classes)), dtype=torch.float64)
    y = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=b, max_size=b)))
    return z.view(b, classes), y


@given(logits_and_labels())
@settings(deadline=None)
def test_cross_entropy_is_softplus_of_the_log_odds(case):
    z, y = case
    torch.testing.assert_close(softplus(losses.log_odds(z, y)), cross_entropy(z, y, reduction="none"))


@given(logits_and_labels())
@settings(deadline=None)
def test_value_and_gradient_are_those_of_autograd(case):
    z, y = case
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(losses.log_odds(leaf, y).sum(), leaf)
    value, gradient = losses.log_odds_and_gradient(z, y)
    torch.testing.assert_close(value, losses.log_odds(z, y))
    torch.testing.assert_close(gradient, expected)


@given(logits_and_labels(spread=10.0))
@settings(deadline=None)
def test_the_gradient_is_cross_entropys_up_to_a_positive_factor(case):
    z, y = case
    leaf = z.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(cross_entropy(leaf, y, reduction="sum"), leaf)
    _, ours = losses.log_odds_and_gradient(z, y)
    odds_against = 1 - z.softmax(1).gather(1, y[:, None])
    torch.testing.assert_close(ours * odds_against, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("lead", [20.0, 50.0, 1e4])
def test_a_sure_model_still_has_a_gradient(lead):
    z = torch.tensor([[lead, 0.0, -1.0]], requires_grad=True)
    y = torch.tensor([0])
    assert cross_entropy(z, y).item() == pytest.approx(0, abs=1e-8)
    (vanished,) = torch.autograd.grad(cross_entropy(z, y), z)
    assert vanished.abs().max() < 1e-8
    value, gradient = losses.log_odds_and_gradient(z.detach(), y)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1)) - lead, rel=1e-6)
    assert gradient[0].tolist() == pytest.approx([-1, 1 / (1 + math.exp(-1)), 1 / (1 + math.e)])


@given(logits_and_labels())
@settings(deadline=None)
def test_margin_by_hand(case):
    z, y = case
    for row, label, found in zip(z.tolist(), y.tolist(), losses.margin(z, y).tolist(), strict=True):
        assert found == max(v for j, v in enumerate(row) if j != label) - row[label]


@given(logits_and_labels())
@settings(deadline=None)
def test_margin_and_log_odds_agree_on_the_sign_up_to_the_number_of_classes(case):
    z, y = case
    difference = losses.log_odds(z, y) - losses.margin(z, y)
    assert (difference >= -1e-9).all() and (difference <= math.log(z.shape[1] - 1) + 1e-9).all()


@given(st.lists(st.integers(0, 2), min_size=3, max_size=3), st.integers(0, 2))
def test_the_first_largest_logit_is_the_prediction(row, label):
    """Few levels: ties are everywhere."""
    z, y = torch.tensor([row], dtype=torch.float32), torch.tensor([label])
    prediction = row.index(max(row))
    assert losses.is_wrong(z, y).item() == (prediction != label)
    assert losses.is_class(z, y).item() == (prediction == label)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_logits_that_are_not_numbers_decide_nothing(bad, place):
    z = torch.tensor([[1.0, 2.0, 3.0]])
    z[0, place] = bad
    for label in range(3):
        y = torch.tensor([label])
        assert not losses.is_wrong(z, y) and not losses.is_class(z, y)


def test_a_class_ruled_out_is_no_trouble():
    z = torch.tensor([[2.0, -torch.inf, 1.0]])
    y = torch.tensor([0])
    assert losses.margin(z, y).item() == -1 and losses.log_odds(z, y).item() == -1
    assert losses.log_odds_and_gradient(z, y)[1].tolist() == [[-1.0, 0.0, 1.0]]
    assert losses.is_class(z, y) and not losses.is_wrong(z, y)


def test_what_the_model_returned_is_not_written_to():
    z = torch.randn(4, 3)
    before, y = z.clone(), torch.tensor([0, 1, 2, 0])
    for function in (
        losses.margin,
        losses.log_odds,
        losses.log_odds_and_gradient,
        losses.is_wrong,
        losses.is_class,
    ):
        function(z, y)
        assert torch.equal(z, before)


def test_each_example_on_its_own():
    z, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    for function in (losses.margin, losses.log_odds):
        assert torch.equal(
            function(z, y), torch.cat([function(z[i : i + 1], y[i : i + 1]) for i in range(6)])
        )
    assert losses.margin(z[:0], y[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_gives_what_its_twin_gives(monkeypatch, dtype):
    z = 20 * torch.randn(60, 7, dtype=dtype)
    z[0, 1], z[1, 2], z[2, 3] = torch.inf, -torch.inf, torch.nan
    z[3] = 1e30
    y = torch.arange(60) % 7
    fast = losses.log_odds(z, y), *losses.log_odds_and_gradient(z, y)
    monkeypatch.setattr(losses, "serves", lambda *tensors: False)
    slow = losses.log_odds(z, y), *losses.log_odds_and_gradient(z, y)
    assert torch.equal(fast[0], fast[1]) or fast[0].isnan().any()
    assert torch.equal(fast[1].isfinite(), slow[1].isfinite())
    finite = fast[1].isfinite()
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a[finite], b[finite])
