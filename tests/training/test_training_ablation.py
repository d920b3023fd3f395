"""Training on ablated images: it learns, in both encodings, is named by its seed, and goes on where it stopped."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.training import train
from zeronorm.training.encoding import Encoding

QUICK = {
    "method": "ablation", "model": "lenet_300_100", "model_arguments": {}, "retained": 24, "epochs": 6,
    "batch_size": 32, "limit": None, "weight_decay": 0.0, "validation": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("null", "channels"), [("multichannel", 2), ("mean", 1)])
def test_it_learns_what_is_shown(plan, null, channels):
    result = train(plan(**QUICK, null=null))
    model = zn.models.load(result.out)
    assert model.arguments["in_channels"] == channels and "mean" not in model.arguments
    encoding = model.facts["ablation"]
    assert (encoding["retained"], encoding["null"]) == (24, null)
    assert (encoding["mean"] is None) == (null == "multichannel")
    assert 0.6 < result.accuracy < 0.95 and result.n == 360
    # and votes are better than one look
    test = zn.data.load("digits", "test")
    smoothed = zn.defenses.RandomizedAblation(model, 24, null, mean=encoding["mean"])
    right = smoothed.vote_counts(test.x, 100).argmax(1) == test.y
    assert float(right.double().mean()) > result.accuracy
    assert (smoothed.certify(test.x[:50], 100, 400).radius >= 1).any()


def test_attacks_within_the_certified_radius_never_make_another_class_win(plan):
    """Sparse-RS on the smoothed classifier: it may make it unsure, but no other class may win a large vote."""
    test = zn.data.load("digits", "test", 60)
    smoothed = zn.defenses.RandomizedAblation(train(plan(**QUICK)).model, 24, votes=100)
    certificate = smoothed.certify(test.x, 200, 1000)
    assert certificate.failure_probability == 0.05
    tried = 0
    for radius in range(1, int(certificate.radius.max()) + 1):
        rows = certificate.radius == radius
        if rows.any():
            x, y = test.x[rows], certificate.prediction[rows]
            x_adv = zn.attacks.sparse_rs(smoothed, x, y, zn.L0(radius), queries=40)
            answers = smoothed.predict(x_adv, 1500, 1e-4)
            assert ((answers == y) | (answers == zn.certification.ABSTAIN)).all()
            tried += len(x)
    assert tried >= 8


def test_one_subset_for_a_mini_batch_and_one_for_each_image_when_measured():
    x = 0.1 + 0.8 * torch.rand(5, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    encoding = Encoding(10, "multichannel", None, seed=3)
    shared, own = encoding.shared(x, 1, 0), encoding.own(x, torch.arange(5))
    for encoded in (shared, own):
        assert encoded.shape == (5, 4, 6, 7)
        shown = (encoded != 0).all(1)
        assert (shown.flatten(1).sum(1) == 10).all()
        kept = shown[:, None].expand_as(x)
        assert torch.equal(encoded[:, :2][kept], x[kept])
        assert torch.equal(encoded[:, 2:][kept], 1 - x[kept])
    same = (shared != 0).any(1)
    assert (same == same[:1]).all() and not ((own != 0).any(1) == (own != 0).any(1)[:1]).all()
    assert torch.equal(encoding.shared(x, 1, 0), shared)
    others = [
        encoding.shared(x, 1, 1),
        encoding.shared(x, 2, 0),
        Encoding(10, "multichannel", None, 4).shared(x, 1, 0),
    ]
    assert not any(torch.equal(other, shared) for other in others)
    # an image's own look does not depend on its batch
    assert torch.equal(encoding.own(x[3:4], torch.tensor([3])), own[3:4])


def test_resumed_it_ends_at_the_same_weights(plan, tmp_path):
    short = QUICK | {"epochs": 3, "limit": 200, "validation": 0.1}
    whole = train(plan(**short))
    out = tmp_path / "stopped"

    def stop(now):
        if (now.epoch, now.step) == (2, 2):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(plan(**short, out=out), stop)
    resumed = train(plan(**short, out=out, resume=True))
    assert zn.models.digest(resumed.model) == zn.models.digest(whole.model)
    other = train(plan(**short, seed=1, out=tmp_path / "other"))
    assert zn.models.digest(other.model) != zn.models.digest(whole.model)


def test_a_trained_model_knows_what_it_is_to_be_shown(plan):
    result = train(plan(**(QUICK | {"limit": 100, "epochs": 1})))
    certified = zn.certify(zn.models.load(result.out), zn.data.load("digits", "test", 3), n0=20, n=40)
    assert certified.summary.run["plan"]["method"]["options"]["retained"] == 24


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"retained": 65}, "retained: expected an integer between 1 and 64"),
        ({"null": "zero"}, "null: expected one of multichannel, mean"),
        ({"k": 3}, "k: the method ablation takes no k"),
        ({"beta": 2.0}, "beta: the method ablation takes no beta"),
        ({"lr": 1e6}, "lr: expected a finite loss"),
    ],
)
def test_refusals(plan, changes, says):
    with pytest.raises(ArgumentError, match=says):
        train(plan(**(QUICK | {"limit": 100} | changes)))
