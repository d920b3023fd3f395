"""Attacks of one's own in a run: told what they take, shown as what they are, continued only if they are the same."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from small_runs import codes, greedy, rows

import zeronorm as zn
from zeronorm import records
from zeronorm.attacks import custom
from zeronorm.cli.main import run as command_line
from zeronorm.integrations import from_torch_class


def searching(model, x, y, threat, *, steps=40, seed=0, ids=None):
    return zn.attacks.sparse_pgd(model, x, y, threat, steps=steps, seed=seed, ids=ids)


def nothing(model, x, y, threat):
    return x


def test_options_are_part_of_the_run(model, data, tmp_path):
    first = zn.evaluate(model, data, zn.L0(3), partial(searching, steps=0), tmp_path)
    with pytest.raises(
        zn.ArgumentError, match=r"holds another run \(attack.stages\[0\].options.steps is 0 there, 100"
    ):
        zn.evaluate(model, data, zn.L0(3), partial(searching, steps=100), tmp_path)
    assert first.robust_accuracy > zn.evaluate(model, data, zn.L0(3), searching).robust_accuracy


def test_source_is_part_of_the_run(model, data, tmp_path):
    def made(body):
        space = {"zn": zn}
        exec(f"def attack(model, x, y, threat):\n    return {body}", space)
        return space["attack"]

    zn.evaluate(model, data, zn.L0(3), made("zn.attacks.sparse_pgd(model, x, y, threat, steps=20)"), tmp_path)
    with pytest.raises(zn.ArgumentError, match=r"another run \(attack.stages\[0\].custom.source is "):
        zn.evaluate(model, data, zn.L0(3), made("x"), tmp_path)


def test_it_is_shown_as_custom(model, data, tmp_path):
    found = zn.evaluate(model, data, zn.L0(3), custom(nothing, name="the best"), tmp_path / "run")
    assert codes(found) == ["no-passes"]
    assert "custom the best" in found.table() and "Nothing suspicious" not in repr(found)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "custom the best" in page and "did not ask the model once" in page
    stage = found.summary.run["plan"]["attack"]["stages"][0]
    assert stage["custom"]["function"] == "nothing" and stage["custom"]["source"].startswith("sha256:")


@pytest.mark.parametrize("kind", ["budget", "minimal"])
@pytest.mark.parametrize("how", ["one budget", "several budgets", "a curve"])
@pytest.mark.parametrize("returns", ["the inputs", "one pixel"])
def test_a_search_without_a_pass_is_named(model, data, kind, how, returns):
    """In a curve, what makes an adversarial sparser asks the model: that is not the attack's doing."""

    def fixed(model, x, y, threat):
        x = x.clone()
        if returns == "one pixel":
            x[:, :, 2, 2] = 1 - x[:, :, 2, 2].round()
        return x

    threat = zn.L0(4) if how != "several budgets" else [zn.L0(k) for k in (1, 2, 4)]
    found = zn.evaluate(model, data, threat, custom(fixed, kind=kind), curve=how == "a curve")
    assert codes(found) == ["no-passes"]
    assert zn.verify(found.run, model, data)


@pytest.mark.parametrize("curve", [False, True])
def test_a_search_without_a_pass_within_some_budgets_is_named(model, data, curve):
    def seldom(model, x, y, threat):
        if threat.k != 2:
            model(x)
        return x

    threats = zn.L0(2) if curve else [zn.L0(1), zn.L0(2)]
    found = zn.evaluate(model, data, threats, ["sparse_rs", seldom], queries=20, curve=curve)
    assert "no-passes" in codes(found)
    told = next(f for f in found.diagnosis if f["code"] == "no-passes")["seen"]
    left = sum(row["stage"] == 1 and row["k"] == 2 for row in rows(found))
    assert told == f"custom seldom did not ask the model once in its searches of {left} examples"


def test_leaderboards_set_them_apart(model, data, tmp_path):
    for name, attack in (("own", nothing), ("ours", "sparse_rs")):
        zn.evaluate(
            model, data, zn.L0(1), attack, tmp_path / name, **({"queries": 5} if name == "ours" else {})
        )
    boards, problems = records.read_boards([tmp_path / "own", tmp_path / "ours"])
    assert not problems and sorted(len(board.entries) for board in boards) == [1, 1]
    assert [board.title.endswith("by attacks of their own") for board in boards].count(True) == 1
    assert "custom nothing" in records.leaderboard_table(boards)


def test_lengths_reach_those_who_take_them(model, data):
    told = []

    def own(model, x, y, threat, *, steps=9, queries=4, ids, seed):
        told.append((steps, queries, seed, len(ids)))
        model(x)
        return x

    compared = zn.compare(model, data, zn.L0(1), [own, "sparse_pgd"], steps=50, seed=3)
    assert told == [(50, 4, 3, 18)]
    assert {run["attack"] for run in compared.figures.record["runs"]} == {"custom own", "sparse_pgd"}
    zn.evaluate(model, data, zn.L0(1), custom(own, options={"steps": 2}), queries=7)
    assert told[1][:2] == (2, 7)
    with pytest.raises(zn.ArgumentError, match=r"^steps: each attack that takes steps was given its own"):
        zn.evaluate(model, data, zn.L0(1), custom(own, options={"steps": 2}), steps=7)
    with pytest.raises(zn.ArgumentError, match=r"^steps: the attack asked for takes no steps, only none"):
        zn.evaluate(model, data, zn.L0(1), nothing, steps=7)


def test_a_minimal_attack_of_ones_own(model, data):
    """As the same one in the catalogue: run once, up to the largest budget, for all of them."""
    own = custom(greedy, name="mine", kind="minimal", knowledge="white")
    threats = [zn.L0(k) for k in (1, 2, 4, 8)]
    found = zn.evaluate(model, data, threats, own, steps=30)
    searched = [row for row in rows(found) if row["stage"] == 0]
    assert {row["k"] for row in searched} == {8}
    shares = [float(found.robust_accuracy[k]) for k in (1, 2, 4, 8)]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    assert zn.verify(found.run, model, data)
    curve = zn.evaluate(model, data, zn.L0(8), own, steps=30, curve=True)
    assert zn.verify(curve.run, model, data)


def test_what_it_may_know_is_heeded(model, data):
    box = zn.models.BlackBox(lambda a: model(torch.from_numpy(a)).detach().numpy())
    with pytest.raises(
        zn.ArgumentError, match=r"^attack: searching needs gradients, and this model gives none"
    ):
        zn.evaluate(box, data, zn.L0(1), custom(searching, knowledge="white"))
    black = custom(
        lambda m, x, y, t: zn.attacks.sparse_rs(m, x, y, t, queries=200), name="black", knowledge="black"
    )
    weak = zn.attacks.Stage("sparse_pgd", {"steps": 0})
    assert "black-box-beats-white-box" in codes(zn.evaluate(model, data, zn.L0(3), [weak, black]))


def test_an_attack_of_another_library_is_known_by_its_source(model, data):
    class Theirs:
        def __init__(self, model, strength=1.0):
            self.model, self.strength = model, strength

        def __call__(self, x, y):
            self.model(x)
            return x

    stage = zn.evaluate(model, data, zn.L0(1), from_torch_class(Theirs)).summary.run["plan"]["attack"][
        "stages"
    ][0]
    assert stage["custom"]["function"].endswith("Theirs") and stage["custom"]["source"].startswith("sha256:")


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "theirs.py").write_text(
        "import zeronorm as zn\n"
        "def attack(model, x, y, threat, *, queries=9, width=1):\n"
        "    return zn.attacks.sparse_rs(model, x, y, threat, queries=queries)\n"
        "known = zn.attacks.custom(attack, name='known', knowledge='black', options={'width': 5})\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    common = ["evaluate", "--limit", "20", "--k", "1", "--queries", "30"]
    assert command_line([*common, "--attack", "theirs:attack:width=3", "--out", "a"]) == 0
    stage = records.folders.RunFolder("a").read()["plan"]["attack"]["stages"][0]
    assert stage["name"] == "custom attack" and stage["options"] == {"queries": 30, "width": 3}
    assert stage["custom"]["module"] == "theirs"
    assert command_line([*common, "--attack", "theirs:known,sparse_rs", "--out", "b"]) == 0
    stages = records.folders.RunFolder("b").read()["plan"]["attack"]["stages"]
    assert [stage["name"] for stage in stages] == ["custom known", "sparse_rs"]
    assert stages[0]["options"] == {"queries": 30, "width": 5} and stages[0]["knowledge"] == "black"
    capsys.readouterr()
    for words, said in (
        ("theirs:nobody", "attack: 'theirs' has no 'nobody'"),
        ("nowhere:attack", "attack: cannot import 'nowhere'"),
        ("sparse_pgd:steps", "attack: expected name:option=value, got 'sparse_pgd:steps'"),
        ("theirs:attack:height=3", "height: attack has no such option"),
    ):
        assert command_line([*common, "--attack", words, "--out", "c"]) == 2
        assert said in capsys.readouterr().err


def test_an_attack_that_changes_modes_has_changed_nothing_for_others(model, data):
    """Its own passes are as it wants them; the model is then as its owner left it."""

    def switching(model, x, y, threat):
        model.train()
        return zn.attacks.sparse_rs(model, x, y, threat, queries=60)

    own = zn.evaluate(model, data, zn.L0(2), switching)
    assert not any(layer.training for layer in model.modules())
    assert (
        own.robust_accuracy
        == zn.evaluate(model, data, zn.L0(2), partial(queried, queries=60)).robust_accuracy
    )
    assert zn.verify(own.run, model, data)


def queried(model, x, y, threat, *, queries):
    return zn.attacks.sparse_rs(model, x, y, threat, queries=queries)


def test_an_attack_that_changes_weights_is_named_after_however_few_passes(model, data):
    mine = copy.deepcopy(model)

    def spoiling(model, x, y, threat):
        model(x)
        for parameter in model.parameters():
            parameter.data.neg_()
        return x

    found = zn.evaluate(mine, data, zn.L0(2), spoiling)
    assert codes(found) == ["model-changed"]
    told = next(f["seen"] for f in found.diagnosis if f["code"] == "model-changed")
    assert told == "4 of 4 clean inputs were answered otherwise after the search than before it"


def outside(x):
    return x + 5


def wholly(x):
    return 1 - x


def undefined(x):
    return x.masked_fill(torch.arange(25).view(5, 5) == 3, float("nan"))


@pytest.mark.parametrize("end", [outside, wholly, undefined])
@pytest.mark.parametrize("how", ["budget", "minimal", "curve"])
def test_what_is_outside_the_threat_model_breaks_nobody(model, data, end, how):
    def own(model, x, y, threat):
        model(x)
        return end(x)

    attack = custom(own, kind="minimal" if how == "minimal" else "budget")
    found = zn.evaluate(model, data, zn.L0(2), attack, curve=how == "curve")
    assert "outside-threat-model" in codes(found)
    broke = float(found.robust_accuracy[2]) < float(found.clean_accuracy)
    assert broke == (end is wholly and how == "curve"), (
        "there what is found is made sparser until it is inside"
    )
    assert zn.verify(found.run, model, data)


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda x: x[:, :, :2], r"got shape \(\d+, 1, 2, 5\)"),
        (lambda x: None, "got NoneType"),
        (lambda x: x.to_sparse(), "expected dense inputs from custom own, got the layout torch.sparse_coo"),
    ],
)
def test_what_is_no_batch_of_inputs_is_refused(model, data, answer, said, unchecked):
    def own(model, x, y, threat):
        model(x)
        return answer(x)

    with pytest.raises(zn.ArgumentError, match=rf"^attack: .*{said}"):
        zn.evaluate(model, data, zn.L0(2), own)


def test_an_attack_that_writes_where_it_reads_is_measured_against_what_was_given(model, data):
    def writing(model, x, y, threat):
        x.copy_(zn.attacks.sparse_rs(model, x, y, threat, queries=60))
        y.zero_()
        return x

    before = data.x.clone(), data.y.clone()
    found = zn.evaluate(model, data, zn.L0(2), writing)
    assert torch.equal(data.x, before[0]) and torch.equal(data.y, before[1])
    assert (
        found.robust_accuracy
        == zn.evaluate(model, data, zn.L0(2), partial(queried, queries=60)).robust_accuracy
    )


def test_on_a_table_what_cannot_be_is_made_possible():
    schema = zn.data.Schema(
        (
            zn.data.Column("age", "whole", 0, 90, changes="up"),
            zn.data.Column("kind", "category", categories=("a", "b")),
        )
    )
    x, y = torch.tensor([[20.0, 0], [50.0, 1]], dtype=torch.float64), torch.tensor([0, 0])

    def older(model, x, y, threat):
        return x + torch.tensor([[30.4, 0.2]], dtype=x.dtype)

    def younger(model, x, y, threat):
        return x - torch.tensor([[30.0, 0]], dtype=x.dtype)

    def score(rows):
        return torch.stack([35.5 - rows[:, 0], rows[:, 0] - 35.5], 1)

    threat = zn.L0(1, unit="column", schema=schema)
    data = (x[:1], y[:1])
    (row,) = (r for r in rows(zn.evaluate(score, data, threat, older)) if r["outcome"] == "broken")
    assert row["positions"] == [0] and row["values"] == [50.0]
    assert zn.evaluate(score, data, threat, younger).robust_accuracy[1] == 1
