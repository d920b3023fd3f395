"""AutoAttack's interface: code written for it, with one line changed."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.integrations import AutoAttack


def test_the_call_that_everyone_writes(model, x, y, capsys, tmp_path):
    adversary = AutoAttack(
        model, norm="L0", eps=3, log_path=tmp_path / "log.txt", device="cpu", steps=20, queries=40
    )
    x_adv = adversary.run_standard_evaluation(x, y, bs=5)
    threat = zn.L0(3)
    assert threat.contains(x, x_adv).all() and x_adv.dtype == x.dtype
    said = capsys.readouterr().out
    assert said == (tmp_path / "log.txt").read_text()
    evaluation = zn.evaluate(model, (x, y), threat, steps=20, queries=40)
    with torch.no_grad():
        robust = (model(x_adv).argmax(1) == y).float().mean()
    assert float(robust) == pytest.approx(float(evaluation.robust_accuracy))
    assert "initial accuracy: 100.00%" in said and f"robust accuracy: {float(robust):.2%}" in said
    assert "robust accuracy after sparse_pgd (unprojected): " in said
    assert adversary.clean_accuracy(x_adv, y, bs=5) == pytest.approx(float(robust))


def test_labels_and_state(model, x, y, capsys, tmp_path):
    adversary = AutoAttack(model, eps=2, steps=10, queries=10, verbose=False, seed=1)
    x_adv, labels = adversary.run_standard_evaluation(x, y, return_labels=True, state_path=tmp_path / "state")
    assert torch.equal(labels, model(x_adv).argmax(1)) and (tmp_path / "state/run.json").exists()
    again = adversary.run_standard_evaluation(x, y, state_path=tmp_path / "state")
    assert torch.equal(again, x_adv) and not capsys.readouterr().out
    with pytest.raises(ArgumentError, match="holds another run"):
        AutoAttack(model, eps=2, steps=11, queries=10, verbose=False, seed=1).run_standard_evaluation(
            x, y, state_path=tmp_path / "state"
        )


def test_each_attack_alone(model, x, y):
    adversary = AutoAttack(model, eps=2, steps=10, queries=10, verbose=False)
    found = adversary.run_standard_evaluation_individual(x, y)
    assert list(found) == ["sparse_pgd (unprojected)", "sparse_pgd (projected)", "sparse_rs"]
    alone = zn.attacks.sparse_rs(model, x, y, zn.L0(2), queries=10)
    broken = model(alone).argmax(1) != y
    assert torch.equal(found["sparse_rs"][broken], alone[broken])
    assert torch.equal(found["sparse_rs"][~broken], x[~broken])


def test_attacks_to_run_and_the_plus_version(model, x, y):
    chosen = AutoAttack(
        model, eps=2, attacks_to_run=["sparse_rs"], version="custom", queries=10, verbose=False
    )
    asked = x.clone().requires_grad_()
    x_adv = chosen.run_standard_evaluation(asked, y)
    assert not x_adv.requires_grad and torch.equal(x_adv, chosen.run_standard_evaluation(x, y, bs=3))
    with pytest.raises(ArgumentError, match="bs: expected an integer of at least 1, got 0"):
        chosen.run_standard_evaluation(x, y, bs=0)
    assert list(chosen.run_standard_evaluation_individual(x, y)) == ["sparse_rs"]
    plus = AutoAttack(model, eps=2, version="plus", steps=4, queries=10, verbose=False)
    assert list(plus.run_standard_evaluation_individual(x, y)) == ["guided_exchange", "sparse_rs"]


def test_what_it_does_not_do(model, tmp_path):
    with pytest.raises(ArgumentError, match=r"norm: expected L0, got 'Linf'.*AutoAttack itself"):
        AutoAttack(model, norm="Linf", eps=8 / 255)
    with pytest.raises(ArgumentError, match="whole number"):
        AutoAttack(model, eps=8 / 255)
    with pytest.raises(ArgumentError, match="version: expected one of standard, plus, custom, got 'rand'"):
        AutoAttack(model, version="rand")
    with pytest.raises(ArgumentError, match="attacks_to_run: expected names of attacks"):
        AutoAttack(model, version="custom")
    with pytest.raises(ArgumentError, match=r"eps: expected a number .* got \[1, 2\]"):
        AutoAttack(model, eps=[1, 2])
    with pytest.raises(ArgumentError, match=r"attack: .*, got 'apgd_ce'"):
        AutoAttack(model, attacks_to_run=["apgd-ce"])
    with pytest.raises(ArgumentError, match=r"log_path: cannot write .*nowhere.*: No such file"):
        AutoAttack(model, log_path=tmp_path / "nowhere" / "log.txt")
