"""JSMA: saliency by hand, step by step, and what it is in pixels."""

from __future__ import annotations

import pytest
import torch
from small_problems import problem

from zeronorm import L0
from zeronorm.attacks import jsma
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.theory import minimal_changes


class Linear:
    """Logits weight x + bias; notes what it is shown."""

    def __init__(self, weight, bias):
        self.weight = torch.tensor(weight, dtype=torch.float64)
        self.bias = torch.tensor(bias, dtype=torch.float64)
        self.seen = []

    def __call__(self, x):
        self.seen.append(x.detach().clone())
        return x.flatten(1) @ self.weight.T + self.bias


def path(model, x, y, threat, **options):
    """What one run of one example was shown after the clean input, each as a list."""
    jsma(model, torch.tensor([x], dtype=torch.float64), torch.tensor([y]), threat, **options)
    return [v[0].flatten().tolist() for v in model.seen[1:]]


def saliency(F, x, t):
    """Papernot et al., equations 8 and 9, from the Jacobian of the probabilities: (increasing, decreasing)."""
    J = torch.autograd.functional.jacobian(F, x)
    own, others = J[t], J.sum(0) - J[t]
    up = torch.where((own < 0) | (others > 0), 0.0, own * others.abs())
    down = torch.where((own > 0) | (others < 0), 0.0, own.abs() * others)
    return up, down


@pytest.mark.parametrize("seed", range(8))
def test_each_step_moves_the_most_salient_feature(seed):
    """Against equations 8 and 9 on a network, with autograd through the softmax."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    V = torch.randn(4, 12, generator=generator, dtype=torch.float64)

    def logits(x):
        return torch.tanh(x @ W.T) @ V.T

    seen = []

    def model(x):
        seen.append(x.detach().clone())
        return logits(x)

    x = torch.rand(1, 8, generator=generator, dtype=torch.float64)
    z = logits(x)[0]
    y, t = z.argmax().view(1), z.argmin().view(1)
    jsma(model, x, y, L0(5), targeted=t)
    current, moved = x[0].clone(), set()
    for following in [v[0] for v in seen[2:] if len(v)]:
        up, down = saliency(lambda v: logits(v).softmax(0), current, int(t))
        room_up, room_down = current < 1, current > 0
        free = torch.tensor([i not in moved for i in range(8)])
        up, down = up * room_up * free, down * room_down * free
        both = torch.maximum(up, down)
        if both.max() == 0:
            break
        at = int(both.argmax())
        expected = current.clone()
        expected[at] = 1.0 if up[at] >= down[at] else 0.0
        assert torch.allclose(following, expected)
        current, moved = expected, moved | {at}
    assert len(moved) > 1


def test_by_hand_in_features():
    """Weights of 3, -2, 1 towards the target: up, then down, then up; the published order, whatever the room."""
    model = Linear([[0.0, 0.0, 0.0], [3.0, -2.0, 1.0]], [10.0, 0.0])
    shown = path(model, [0.9, 0.6, 0.5], 0, L0(3), targeted=torch.tensor([1]))
    assert shown[-3:] == [[1.0, 0.6, 0.5], [1.0, 0.0, 0.5], [1.0, 0.0, 1.0]]


def test_by_hand_in_pixels():
    """What a pixel promises counts: 0.1 * 3, 0.6 * 2 and 0.5 * 1 make the order 1, 2, 0."""
    model = Linear([[0.0, 0.0, 0.0], [3.0, -2.0, 1.0]], [10.0, 0.0])
    x = [[[0.9, 0.6, 0.5]]]
    shown = path(model, x, 0, L0(3), targeted=torch.tensor([1]))
    assert shown[-3:] == [[0.9, 0.0, 0.5], [0.9, 0.0, 1.0], [1.0, 0.0, 1.0]]


def test_all_channels_of_a_pixel_move():
    model = Linear([[0.0] * 4, [1.0, 1.5, -1.0, 1.5]], [10.0, 0.0])  # two channels of two pixels
    shown = path(model, [[0.5, 0.5], [0.5, 0.5]], 0, L0(1), targeted=torch.tensor([1]))
    assert shown[-1] == [0.5, 1.0, 0.5, 1.0]


def test_a_position_at_its_end_is_not_salient():
    model = Linear([[0.0, 0.0, 0.0], [3.0, -2.0, 1.0]], [10.0, 0.0])
    shown = path(model, [1.0, 0.0, 0.5], 0, L0(3), targeted=torch.tensor([1]))
    assert shown[-1] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 5)], ids=str)
def test_the_optimum_of_two_classes_in_pixels(shape):
    """On linear models of two classes the promise of a pixel is what it holds."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x = torch.rand(30, *shape, generator=generator, dtype=torch.float64)

    def model(v):
        return v.flatten(1) @ weight.flatten(1).T

    y = model(x).argmax(1)
    optimum, _ = minimal_changes(weight, torch.zeros(2), x, y, L0(None))
    x_adv = jsma(model, x, y, L0(None))
    assert (model(x_adv).argmax(1) != y).all()
    assert torch.equal(L0(None).distance(x, x_adv), optimum) and len(optimum.unique()) > 3


def test_the_first_target_of_several_wins():
    """Untargeted: the target of the second largest logit needs 3 changes, that of the third one; 1 is found."""
    model = Linear([[0.0] * 4, [0.4, 0.4, 0.4, 0.0], [0.0, 0.0, 0.0, 5.0]], [1.0, 0.0, -2.0])
    x = torch.full((1, 4), 0.1, dtype=torch.float64)
    x_adv = jsma(model, x, torch.tensor([0]), L0(None))
    assert x_adv.tolist() == [[0.1, 0.1, 0.1, 1.0]]
    only_one = jsma(model, x, torch.tensor([0]), L0(None), classes=2)
    assert only_one.tolist() == [[1.0, 1.0, 1.0, 0.1]]


def test_passes_are_one_of_each_kind_for_a_step_and_target():
    model = Linear([[0.0] * 6, [1.0] * 6, [0.9] * 6], [100.0, 0.0, 0.0])  # never broken
    x = torch.full((2, 6), 0.5, dtype=torch.float64)
    counter = QueryCounter(model, 2, x.device)
    jsma(counter, x, torch.tensor([0, 0]), L0(4))
    # the clean input, the targets' choice, and two targets at the start and after each of four steps
    assert counter.forwards.tolist() == [2 + 2 * 5] * 2
    assert counter.backwards.tolist() == [2 * 5] * 2


def test_what_one_pass_holds_does_not_matter():
    model, x, y, threat = problem("colour", n=12, dtype=torch.float64)
    threat = threat.with_k(None)
    expected = jsma(model, x, y, threat)
    assert (expected != x).any()
    for pass_size in (1, 4, 10):
        assert torch.equal(jsma(model, x, y, threat, pass_size=pass_size), expected)


def test_a_step_to_where_the_model_has_no_answer_is_taken_back():
    """The best feature leads to NaN: the next best is taken instead, and the clean one stays."""
    model = Linear([[0.0, 0.0, 0.0], [3.0, 2.0, 1.0]], [4.4, 0.0])

    def brittle(x):
        return torch.where(x[:, :1] > 0.9, torch.nan, model(x))

    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    x_adv = jsma(brittle, x, torch.tensor([0]), L0(None))
    assert x_adv.tolist() == [[0.5, 1.0, 1.0]]


def test_where_the_model_is_very_sure():
    """The probabilities' own derivatives are 0 in floating point; their direction is not."""
    model, x, y, threat = problem("grey", n=12, dtype=torch.float64)
    threat = threat.with_k(None)

    def sure(v):
        return 1e4 * model(v)

    assert (sure(x).softmax(1).amax(1) == 1).all()
    x_adv = jsma(sure, x, y, threat)
    assert torch.equal(sure(x_adv).argmax(1) != y, torch.ones(12, dtype=torch.bool))
