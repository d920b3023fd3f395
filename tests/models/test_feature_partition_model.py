"""Votes of disjoint groups of pixels: the groups, what each may see, and what a model of them says."""

from __future__ import annotations

import pytest
import torch

from zeronorm import models
from zeronorm.errors import ArgumentError
from zeronorm.models.feature_partition import UNIT

TWO = (((2, 0), (0, 4)), ((4, 0), (0, 2)))  # thumbnails of 4x2 and of 2x4 pixels in 8x8


def build(**arguments):
    small = {"in_channels": 2, "image_size": 8, "classes": 3, "partition": TWO, "widths": [9, 5]}
    return models.build("feature_partition", **(small | arguments)).double().eval()


KINDS = {
    "lattices": {},
    "one": {"partition": TWO[:1], "mirrored": False},
    "uneven": {"partition": "strided", "groups": 7},
    "random": {"partition": "random", "groups": 16, "shared": False, "votes": "hard"},
    "hard": {"partition": TWO[:1], "votes": "hard"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_is_in_one_group_and_only_that_group_sees_it(kind):
    network = build(**KINDS[kind]).network
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    for v in range(network.partitions):
        inside = network.members[v][network.members[v] < 64]
        assert sorted(inside.tolist()) == list(range(64))
        before = network.preferences(x, v)
        for pixel in (0, 7, 29, 63):
            changed = x.clone().flatten(2)
            changed[:, :, pixel] = torch.tensor([5.0, -3.0], dtype=torch.float64)
            after = network.preferences(changed.view_as(x), v)
            moved = (before != after).flatten(2).any(2)[0]
            assert moved.nonzero().flatten().tolist() == [int(network.owner[v, pixel])]
            assert network.owner[v, pixel] == (network.members[v] == pixel).nonzero()[0, 0]


def test_lattices_hold_pixels_that_are_whole_steps_apart():
    first, second = build().network.members
    assert first[0].tolist() == [0, 4, 16, 20, 32, 36, 48, 52]
    assert second[0].tolist() == [0, 2, 4, 6, 32, 34, 36, 38]
    assert build(partition="strided", groups=7).network.members[0, 1].tolist() == [*range(1, 64, 7), 64]
    one, other = (build(**KINDS["random"] | {"subset_seed": s}).network.members for s in (0, 1))
    assert not torch.equal(one, other)


def test_a_mirror_image_gets_the_same_answer():
    model, x = build(), torch.rand(5, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x), model(x.flip(3)))
    assert not torch.allclose(build(mirrored=False)(x), build(mirrored=False)(x.flip(3)))


def test_logits_are_leads_in_pixels_and_votes():
    x = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    model = build()
    s = sum((model.network.preferences(x, v) * UNIT).round().sum(1) for v in range(2)) / (4 * UNIT)
    s.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    torch.testing.assert_close(model(x), s.amin(2))
    votes = build(**KINDS["hard"])(x)
    torch.testing.assert_close(votes.sum(1), torch.full((4,), 8.0, dtype=torch.float64))
    torch.testing.assert_close(votes, votes.round())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_pixel_and_checkpoints_come_back(kind, tmp_path):
    model = build(**KINDS[kind])
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    assert (gradient != 0).double().mean() > 0.9
    models.save(model, tmp_path)
    assert torch.equal(models.load(tmp_path)(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"votes": "loud"}, "votes: expected one of soft, hard"),
        ({"partition": "blocks"}, "partition: expected one of strided, random"),
        ({"partition": ((2, 0), (0, 4))}, "partition: expected strided, random, or lattices of two steps"),
        (
            {"partition": (*TWO, ((4, 0), (0, 4)))},
            "partition: expected lattices with groups of one size, got 8",
        ),
        ({"partition": (((1, 0), (0, 1)),)}, "partition: expected at least 2 groups"),
        ({"votes": "hard"}, "partition: expected one for hard votes, got 2"),
        ({"partition": "random", "groups": 65}, "groups: expected"),
        ({"partition": (((2, 1), (0, 4)), ((2, 1), (0, 4)))}, "mirrored: expected lattices whose groups"),
        ({"widths": []}, "widths: expected at least one"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        build(**arguments)
