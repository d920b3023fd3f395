"""Training by appending: only what breaks the model joins, with its true label, and stays."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.training import train
from zeronorm.training.adversary import Adversary
from zeronorm.training.append import _changed, _changes, grow
from zeronorm.training.method import Setting, TrainingExamples

QUICK = {
    "method": "truncated", "model": "mlp", "model_arguments": {"widths": [32]}, "k": 3, "steps": 40,
    "limit": 150, "epochs": 6, "append_every": 2, "append_limit": 60, "batch_size": 20,
}  # fmt: skip


def test_only_what_breaks_the_model_joins_and_it_stays(plan):
    data = zn.data.load("digits", "test", 60)
    asked = plan(**(QUICK | {"append_limit": None, "box_factor": 9.0, "batch_size": 128}))
    model = zn.models.load("digits").train()
    setting = Setting(asked, Adversary(asked, model), data.y, 10, {})
    examples, rows = TrainingExamples(data.x, data.y, data.ids), torch.arange(50)

    before, same = grow(setting, examples, rows, 2)
    assert before is examples and same is rows and not setting.memory

    grown, learnt = grow(setting, examples, rows, 3)
    joined = len(grown.x) - 60
    assert model.training and 0 < joined <= 50
    assert torch.equal(learnt, torch.cat([rows, 60 + torch.arange(joined)]))
    origin = setting.memory["rows"]
    new = TrainingExamples(grown.x[60:], grown.y[60:], grown.ids[60:])
    model.eval()
    assert bool((model(new.x).argmax(1) != new.y).all()) and torch.equal(new.y, data.y[origin])
    assert bool(zn.L0(3, low=-4.0, high=5.0).contains(data.x[origin], new.x).all())
    assert float(new.x.min()) < 0.0  # the box is wider than the images'
    # none of those left out was broken by the same attack
    broken = setting.adversary.broken(data.x[:50], data.y[:50], data.ids[:50], 3)[1]
    assert int(broken.sum()) == joined

    # the epoch begun again, as after a resume: nothing is attacked anew
    setting.adversary.broken = None
    again, learnt_again = grow(setting, examples, rows, 3)
    assert torch.equal(again.x, grown.x) and torch.equal(learnt_again, learnt)
    del setting.adversary.broken

    model.train()
    later, _ = grow(setting, examples, rows, 5)
    assert torch.equal(later.x[: len(grown.x)], grown.x) and len(later.x) == 60 + 2 * joined
    assert len(later.ids.unique()) == len(later.ids)


def test_what_differs_is_kept_exactly():
    torch.manual_seed(0)
    x = torch.rand(4, 3, 5, 6)
    x_adv = x.clone()
    for i in range(4):
        for j in torch.randperm(30)[: 2 * i].tolist():
            x_adv[i, :, j // 6, j % 6] = torch.rand(3)
    pixels, values = _changes(x, x_adv, 6)
    assert pixels.shape == (4, 6) and values.shape == (4, 3, 6)
    assert torch.equal(_changed(x, pixels, values), x_adv)


def test_trained_stopped_and_resumed(plan, tmp_path):
    whole = train(plan(**QUICK))
    assert whole.model.arguments["truncation"] == 3
    assert whole.accuracy > 0.5 and whole.history[-1]["robust_accuracy"] is not None
    out = tmp_path / "stopped"

    def stop(now):  # in the third epoch, once the adversarials have joined
        if (now.epoch, now.step) == (4, 2):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(plan(**QUICK, out=out), stop)
    resumed = train(plan(**QUICK, out=out, resume=True))
    assert zn.models.digest(resumed.model) == zn.models.digest(whole.model)
    without_seconds = [[{**row, "seconds": 0} for row in result.history] for result in (whole, resumed)]
    assert without_seconds[0] == without_seconds[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"k": None}, "k: expected a value, which truncated needs, got None"),
        ({"k": 33}, "k|truncation"),
        ({"multi_k": 2.0}, "multi_k: the method truncated takes no multi_k"),
        ({"attack": {"pointwise": {}}}, "attack: expected an attack that searches within a budget"),
    ],
)
def test_refusals(plan, changes, says):
    with pytest.raises(ArgumentError, match=says):
        train(plan(**(QUICK | changes)))
