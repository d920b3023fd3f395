"""VFGA step by step, driven through the public function: its votes and amounts by hand."""

from __future__ import annotations

import math

import pytest
import torch

from zeronorm import L0
from zeronorm.attacks import vfga
from zeronorm.seeding import Streams

Y = torch.tensor([0])
X = torch.tensor([[0.2, 0.6, 0.5, 0.9]], dtype=torch.float64)
G = torch.tensor([1.0, -2.0, 3.0, -0.5], dtype=torch.float64)
# rising: 0.8, 1.5 (feature 2 first, then 0); falling: 1.2, 0.45 (feature 1 first, then 3)


class Linear:
    """Two classes: the log-odds are G x - lead.  Notes what it sees."""

    def __init__(self, lead=1000.0, g=G):
        self.lead, self.g, self.seen = lead, g, []

    def __call__(self, x):
        self.seen.append(x[0].detach().flatten().clone())
        z = x.flatten(1) @ self.g - self.lead
        return torch.stack([torch.zeros_like(z), z], dim=1)

    def moved(self, x=X):
        """Of every attempt the changed entries, and by how much."""
        changes = [seen - x.flatten() for seen in self.seen]
        return [{i: round(float(c[i]), 9) for i in c.nonzero().flatten().tolist()} for c in changes]


@pytest.fixture
def amounts(monkeypatch):
    """The normal numbers of each step."""
    given = {}

    def normal(self, step, n, dtype):
        return torch.tensor([given.get(step, [0.5] * n)], dtype=dtype)[:, :n].expand(len(self._keys), n)

    monkeypatch.setattr(Streams, "normal", normal)
    return given


def test_the_votes_of_a_step_and_their_amounts(amounts):
    amounts[0] = [0.5, -0.25, -2.0, 1.0]
    model = Linear()
    vfga(model, X, Y, L0(None), steps=1, samples=2)
    assert model.moved() == [
        {},  # the clean input
        {},  # and its slope
        {2: 0.25},  # half of the way up
        {1: -0.15},  # a quarter of the way down
        {2: 0.5},  # twice the way ends at the box
        {1: -0.6},
    ]


def test_the_best_attempt_is_kept_and_its_feature_is_done(amounts):
    amounts[0] = [0.1, 1.0, 0.2, 0.5]  # feature 1 down to 0: + 1.2; feature 2 at most + 0.3
    amounts[1] = [0.5, 1.0, 0.5, 0.5]
    model = Linear()
    vfga(model, X, Y, L0(None), steps=2, samples=2)
    assert model.moved()[6] == {1: -0.6}, "the second step starts there"
    assert model.moved()[7:9] == [{1: -0.6, 2: 0.25}, {1: -0.6, 3: -0.9}]


def test_a_kind_that_is_used_up_makes_room_for_the_other(amounts):
    model = Linear(g=G.abs())
    vfga(model, X, Y, L0(None), steps=1, samples=1)
    assert model.moved()[2:] == [{2: 0.25}, {2: 0.25}], "nothing falls: the best there is"


def test_the_first_success_is_the_result(amounts):
    amounts[0] = [0.5, 0.5, 1.0, 1.0]
    lead = float(X[0] @ G) + 1.4  # by feature 2 alone at its end
    model = Linear(lead)
    x_adv = vfga(model, X, Y, L0(None), samples=2)
    assert (x_adv != X).tolist() == [[False, False, True, False]] and x_adv[0, 2] == 1
    assert len(model.seen) == 2 + 3, "the fourth sample is not asked for"


def test_changes_pixels_until_none_is_left(amounts):
    model = Linear()
    x_adv = vfga(model, X, Y, L0(None), samples=3)
    assert torch.equal(x_adv, X), "nothing found"
    assert len(model.moved()[-1]) == 4
    assert len(model.seen) == 1 + 4 * (1 + 6)
    model = Linear()
    vfga(model, X, Y, L0(2), samples=3)
    assert len(model.moved()[-1]) == 2 and len(model.seen) == 1 + 2 * (1 + 6)


def test_a_pixel_promises_the_sum_of_its_channels(amounts):
    """Each channel goes towards the end that its slope points to, by the same share."""
    g = torch.tensor([[3.0, -1.0], [-1.0, -1.0], [0.0, 3.0]], dtype=torch.float64)  # channels by pixels
    x = torch.full((1, 3, 1, 2), 0.5, dtype=torch.float64)
    model = Linear(g=g.flatten())
    amounts[0] = [0.5, 1.0]
    vfga(model, x, Y, L0(None), steps=1, samples=1)
    # pixel 1 promises 2.5, of which 1.5 by rising; pixel 0 promises 2, of which 1.5 by rising
    assert model.moved(x)[2] == {1: -0.25, 3: -0.25, 5: 0.25}
    g[2, 1] = 1.0  # now it falls: 1 of 1.5
    model = Linear(g=g.flatten())
    vfga(model, x, Y, L0(None), steps=1, samples=1)
    assert model.moved(x)[2] == {0: 0.25, 2: -0.25, 4: -0.25}
    assert model.moved(x)[3] == {1: -0.5, 3: -0.5, 5: 0.5}


def test_votes_worth_nothing_are_left_alone(amounts):
    """Feature 2 leads where the model is not a number: so do both votes of that step, which are not tried again."""

    class Brittle(Linear):
        def __call__(self, x):
            z = super().__call__(x)
            touched = (x[:, 2] != 0.5) | (x[:, 1] != 0.6)
            return torch.where(touched[:, None], torch.nan, z)

    model = Brittle()
    vfga(model, X, Y, L0(None), samples=1)
    assert model.moved()[2:5] == [{2: 0.25}, {1: -0.3}, {}]
    assert model.moved()[5:7] == [{0: 0.4}, {3: -0.45}]
    # the position that lost is tried next; then none is free, and nothing else is touched
    assert model.moved()[8:10] == [{0: 0.4, 3: -0.45}] * 2
    assert all(not {1, 2} & set(moved) for moved in model.moved()[5:])


def test_a_rough_pass_that_errs_ends_no_search(amounts):
    """In full precision nothing is broken, whatever the faster passes say."""

    class Rough(Linear):
        def __call__(self, x):
            return super().__call__(x) + torch.tensor([0.0, 2000.0]) * (x != X).any()

        def exact(self, x):
            return Linear()(x)

    model = Rough()
    assert torch.equal(vfga(model, X, Y, L0(None), samples=1), X)
    assert len(model.seen) == 1 + 4 * (1 + 2), "all the way"


def test_amounts_are_folded_gaussians():
    """Of many samples: the median of |N(0, 1)| is 0.674, and the share beyond 1 is 0.317."""
    shown = []

    def model(x):
        shown.append(x.detach())
        z = x @ G - 1000.0
        return torch.stack([torch.zeros_like(z), z], dim=1)

    x = X.expand(400, -1)
    vfga(model, x, torch.zeros(400, dtype=torch.int64), L0(None), steps=1, samples=20)
    rising = torch.stack(shown[2::2])  # after the clean inputs and their slopes, each second attempt falls
    shares = (rising - x)[:, :, 2] / 0.5
    assert shares.shape == (20, 400)
    assert shares.median() == pytest.approx(0.674, abs=0.03)
    assert (shares == 1).double().mean() == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.03)
