"""The main job from inside Python: what is attacked, what is believed, what the figures mean."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from small_runs import SHORT, codes, dataset, images, network, rows
from torch import nn

import zeronorm as zn
from zeronorm import attacks
from zeronorm.attacks.shrink import shrink
from zeronorm.attacks.sparse_autoattack import Stage, stages
from zeronorm.data import Dataset
from zeronorm.evaluation import attack_batch as batch_search
from zeronorm.evaluation.fresh_pass import rebuild
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.records.folders import ROWS


def answers(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


# -- the cascade -------------------------------------------------------------------------------------------


def by_hand(model, data, budgets, seed):
    """The attacks one after the other on whoever is left: {(id, k, stage): (adversarial or None, passes)}."""
    smallest = torch.where(answers(model, data.x) == data.y, math.inf, 0.0)
    results = {}
    for k in budgets:
        for index, stage in enumerate(stages(**SHORT)):
            left = (smallest > k).nonzero().flatten()
            if not len(left):
                continue
            counter = QueryCounter(model, len(left), data.x.device)
            x, y, ids = data.x[left], data.y[left], data.ids[left]
            attack = attacks.catalogue[stage.attack].function
            x_adv = attack(counter, x, y, zn.L0(k), seed=seed, ids=ids, **stage.options)
            wrong = answers(model, x_adv) != y
            for j in range(len(left)):
                passes = int(counter.forwards[j]), int(counter.backwards[j])
                results[int(ids[j]), k, index] = (x_adv[j] if wrong[j] else None), passes
            smallest[left] = torch.where(wrong, (x != x_adv).any(1).flatten(1).sum(1), smallest[left])
    return results


@pytest.mark.parametrize("seed", [0, 3])
def test_the_cascade_is_the_attacks_by_hand(model, data, seed):
    evaluation = zn.evaluate(model, data, [zn.L0(2), zn.L0(1)], **SHORT, seed=seed)
    expected = by_hand(model, data, (1, 2), seed)
    searches = {(r["example"], r["k"], r["stage"]): r for r in rows(evaluation) if r["stage"] >= 0}
    assert searches.keys() == expected.keys()
    assert {row["outcome"] for row in searches.values()} == {"broken", "robust"}
    clean = dict(zip(data.ids.tolist(), data.x.split(1), strict=True))
    for key, (x_adv, passes) in expected.items():
        row = searches[key]
        assert (row["forwards"], row["backwards"]) == passes
        assert (row["outcome"] == "broken") == (x_adv is not None)
        if x_adv is not None:
            assert torch.equal(rebuild(clean[key[0]], row, zn.L0(None))[0], x_adv)


def test_the_rows_say_what_a_fresh_pass_says(model, data):
    evaluation = zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], **SHORT)
    assert evaluation.records.schema == ROWS
    label = dict(zip(data.ids.tolist(), data.y.tolist(), strict=True))
    clean = dict(zip(data.ids.tolist(), data.x.split(1), strict=True))
    for row in rows(evaluation):
        assert row["label"] == label[row["example"]]
        x = clean[row["example"]]
        if row["outcome"] == "robust":
            assert row["prediction"] == row["label"] and row["margin"] >= 0 and row["positions"] is None
            continue
        if row["outcome"] == "broken":
            x_adv = rebuild(x, row, zn.L0(None))
            assert row["distance"] == int((x != x_adv).sum()) == len(row["positions"]) <= row["k"]
            assert row["linf"] == pytest.approx(float((x - x_adv).abs().max()))
            x = x_adv
        with torch.no_grad():
            (z,) = model(x).tolist()
        assert row["prediction"] == int(np.argmax(z))
        others = max(v for j, v in enumerate(z) if j != row["label"])
        assert row["margin"] == pytest.approx(z[row["label"]] - others, abs=1e-5)
        assert (row["margin"] >= 0) == (row["outcome"] == "correct")


@pytest.mark.parametrize("budgets", [[1], [2, 1], [0, 1, 3], [5]])
def test_robust_accuracy_is_what_it_says(model, data, budgets):
    evaluation = zn.evaluate(model, data, [zn.L0(k) for k in budgets], **SHORT)
    found = rows(evaluation)
    right = [row["example"] for row in found if row["outcome"] == "correct"]
    assert evaluation.clean_accuracy == len(right) / 20 == 0.9
    assert [k for k, _ in evaluation.robust_accuracy.items()] == sorted(budgets)
    for k in budgets:
        fallen = {row["example"] for row in found if row["outcome"] == "broken" and row["distance"] <= k}
        assert fallen <= set(right)
        share = evaluation.robust_accuracy[k]
        assert share == (len(right) - len(fallen)) / 20
        assert share.n == 20 and share.interval[0] <= share <= share.interval[1]
    assert evaluation.robust_accuracy == evaluation.robust_accuracy[max(budgets)]
    with pytest.raises(zn.ArgumentError, match=r"k: expected one of the budgets .*, got 4"):
        evaluation.robust_accuracy[4]


def test_who_is_wrong_already_is_not_attacked(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(1), **SHORT)
    wrong = {row["example"] for row in rows(evaluation) if row["outcome"] == "wrong"}
    assert wrong == set(data.ids[6::7].tolist())
    assert not any(row["example"] in wrong for row in rows(evaluation) if row["stage"] >= 0)


def test_ways_to_name_an_attack(model, data):
    def stages_of(attack, **cost):
        told = zn.evaluate(model, data, zn.L0(1), attack, **cost).summary.run["plan"]["attack"]["stages"]
        return [
            (stage["name"], stage["options"].get("steps", stage["options"].get("queries"))) for stage in told
        ]

    assert stages_of("sparse_rs", queries=3) == [("sparse_rs", 3)]
    assert stages_of("sparse-rs", queries=3) == [("sparse_rs", 3)]
    assert stages_of(zn.attacks.sparse_rs, queries=3) == [("sparse_rs", 3)]
    both = ["sparse_rs", Stage("sparse_pgd", {"gradient": "projected", "steps": 9})]
    assert stages_of(both, queries=3) == [("sparse_rs", 3), ("sparse_pgd (projected)", 9)]
    assert [name for name, _ in stages_of("sparse_autoattack", steps=2, queries=3)] == [
        stage.name for stage in stages()
    ]


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_are_numbers(model, data):
    plain = zn.evaluate(model, data, zn.L0(1), **SHORT, seed=3, batch_size=8)
    numpy = zn.evaluate(
        model,
        data,
        zn.L0(np.int64(1)),
        steps=np.int64(12),
        queries=np.int32(16),
        seed=np.int64(3),
        batch_size=np.int64(8),
    )
    assert rows(numpy) == rows(plain)


# -- attacks of one's own ----------------------------------------------------------------------------------


def one_pixel(model, x, y, threat):
    """Every pixel to both ends of the box, one at a time: exact for k = 1."""
    best = x.clone()
    for pixel in range(x[0].numel()):
        for value in (0.0, 1.0):
            tried = x.clone()
            tried.flatten(1)[:, pixel] = value
            with torch.no_grad():
                wrong = model(tried).argmax(1) != y
            best[wrong] = tried[wrong]
    return best


def test_an_attack_of_ones_own(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(1), one_pixel)
    assert evaluation.summary.run["plan"]["attack"]["name"] == "custom one_pixel"
    found = rows(evaluation)
    assert all(row["distance"] == 1 for row in found if row["outcome"] == "broken")
    assert {(row["forwards"], row["backwards"]) for row in found if row["stage"] == 0} == {(50, 0)}
    strong = zn.evaluate(model, data, zn.L0(1), [one_pixel, "sparse_autoattack"], steps=100, queries=300)
    assert strong.robust_accuracy == evaluation.robust_accuracy, "nothing is left after all of them"
    assert zn.verify(evaluation.run, model, data)


def test_it_is_told_what_it_asks_for(model, data):
    told = []

    def attack(model, x, y, threat, *, seed, ids):
        told.append((seed, ids.tolist(), threat.k))
        return x

    zn.evaluate(model, data, zn.L0(3), attack, seed=5, batch_size=10)
    right = [i for i in data.ids.tolist() if i not in data.ids[6::7]]
    assert told == [(5, right[:10], 3), (5, right[10:], 3)]


def test_a_name_of_the_catalogue_is_not_its_attack(model, data):
    def sparse_pgd(model, x, y, threat):
        return x

    with pytest.raises(
        zn.ArgumentError, match=r"^attack: sparse_pgd is an attack of the catalogue, and this"
    ):
        zn.evaluate(model, data, zn.L0(3), sparse_pgd)
    with pytest.raises(
        zn.ArgumentError, match=r"^attacks: sparse-pgd is an attack of the catalogue, and what"
    ):
        zn.compare(model, data, zn.L0(3), {"sparse-pgd": "sparse_rs"}, queries=3)


def over_budget(model, x, y, threat):
    return 1 - x


def outside_the_box(model, x, y, threat):
    x_adv = x.clone()
    x_adv[:, 0, 2, 2] = 99.0
    return x_adv


def no_numbers(model, x, y, threat):
    return x * float("nan")


def in_place(model, x, y, threat):
    x.mul_(-1).add_(1)
    y.add_(1)
    return x


@pytest.mark.parametrize("cheat", [over_budget, outside_the_box, no_numbers, in_place])
@pytest.mark.parametrize("batch_size", [256, 4])
def test_cheats_gain_nothing(model, data, cheat, batch_size):
    assert int((answers(model, 1 - data.x) != data.y).sum()) > 5
    evaluation = zn.evaluate(model, data, zn.L0(3), cheat, batch_size=batch_size)
    assert evaluation.robust_accuracy == evaluation.clean_accuracy == 0.9
    assert codes(evaluation) == ["outside-threat-model", "no-passes"]
    assert "18 results of an attack were outside" in evaluation.diagnosis[0]["seen"]
    assert zn.verify(evaluation.run, model, data)


def test_a_cheat_does_not_spoil_the_next_stage(model, data):
    honest = zn.evaluate(model, data, zn.L0(1), "sparse_rs", queries=16)
    after = zn.evaluate(model, data, zn.L0(1), [in_place, "sparse_rs"], queries=16)
    assert after.robust_accuracy == honest.robust_accuracy < 0.9


def test_the_cap_and_the_mask_are_measured_too(model, data):
    allowed = torch.ones(5, 5, dtype=torch.bool)
    allowed[2, 2] = False

    def touch(model, x, y, threat):
        x_adv = x.clone()
        x_adv[:, 0, 2, 2] = (x_adv[:, 0, 2, 2] + 0.5) % 1
        return x_adv

    for threat in (zn.L0(1, linf=0.4), zn.L0(1, allowed=allowed)):
        assert codes(zn.evaluate(model, data, threat, touch)) == ["outside-threat-model", "no-passes"]


def test_false_claims_are_counted_not_believed(model, data):
    def liar(model, x, y, threat):
        model.broken(torch.arange(len(x)), x)
        return x

    evaluation = zn.evaluate(model, data, zn.L0(3), liar)
    assert evaluation.robust_accuracy == 0.9
    assert codes(evaluation) == ["unconfirmed-adversarials", "no-passes"]
    assert "18 results" in evaluation.diagnosis[0]["seen"]


@pytest.mark.parametrize(
    "returned, got",
    [
        (lambda x: x[:1], r"shape \(1, 1, 5, 5\)"),
        (lambda x: x.flatten(1), r"shape \(18, 25\)"),
        (lambda x: None, "NoneType"),
        (lambda x: x.numpy(), "ndarray"),
        (lambda x: (x, x), "tuple"),
    ],
    ids=["fewer", "flat", "nothing", "array", "two"],
)
def test_what_is_no_batch_of_inputs(model, data, returned, got):
    def careless(model, x, y, threat):
        return returned(x)

    expected = r"attack: expected inputs of shape \(18, 1, 5, 5\) from custom careless, got "
    with pytest.raises(zn.ArgumentError, match=expected + got):
        zn.evaluate(model, data, zn.L0(1), careless)


def test_other_dtypes_are_measured_as_the_inputs(model, data):
    def doubled(model, x, y, threat):
        return zn.attacks.sparse_rs(model, x, y, threat, queries=16).double()

    evaluation = zn.evaluate(model, data, zn.L0(1), doubled)
    assert evaluation.robust_accuracy < 0.9 and zn.verify(evaluation.run, model, data)


# -- precision ---------------------------------------------------------------------------------------------


class Told(nn.Module):
    """Notes in which precision each pass runs."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.passes = inner, []
        self.eval()

    def forward(self, x):
        z = self.inner(x)
        self.passes.append(z.dtype)
        return z


def test_searched_in_bfloat16_judged_in_float32(model, data):
    told = Told(model)
    evaluation = zn.evaluate(told, data, zn.L0(2), **SHORT, precision="bfloat16")
    assert {torch.bfloat16, torch.float32} == set(told.passes)
    assert told.passes.count(torch.bfloat16) > 30
    assert zn.verify(evaluation.run, told, data), "float32 passes agree with every row"
    full = zn.evaluate(model, data, zn.L0(2), **SHORT)
    assert abs(evaluation.robust_accuracy - full.robust_accuracy) <= 0.2


def test_what_fools_only_the_rough_passes_is_not_broken(data):
    """Logits too close for bfloat16: a tie there goes to the first class, in float32 nothing ever breaks."""

    class Close(nn.Module):
        def forward(self, x):
            z = x.new_tensor([1.0, 1.0 + 1e-4]).expand(len(x), 2) + 1e-9 * x.flatten(1).sum(1, keepdim=True)
            return z.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else z

    model = Close().eval()
    y = torch.ones(20, dtype=torch.int64)
    assert (model(data.x).argmax(1) == y).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(data.x).argmax(1) == 0).all()
    evaluation = zn.evaluate(model, (data.x, y), zn.L0(2), **SHORT, precision="bfloat16")
    assert evaluation.robust_accuracy == 1


# -- curve -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")  # twice as fast
def test_the_whole_curve_from_one_run(model, data):
    longer = {"steps": 60, "queries": 120}
    curve = zn.evaluate(model, data, zn.L0(6), **longer, curve=True)
    apart = zn.evaluate(model, data, [zn.L0(k) for k in range(1, 7)], **longer)
    values = [float(accuracy) for _, accuracy in curve.robust_accuracy.items()]
    assert len(values) == 7 and values[0] == curve.clean_accuracy
    assert values == sorted(values, reverse=True)
    for k in range(1, 7):
        assert curve.robust_accuracy[k] <= apart.robust_accuracy[k] + 0.1, "one or two of twenty"
    assert sum(values[1:]) <= sum(float(a) for _, a in apart.robust_accuracy.items()) + 0.15
    assert zn.verify(curve.run, model, data)


def test_searches_go_down_from_what_was_found(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(8), **SHORT, curve=True)
    searches: dict[int, list] = {}
    for row in rows(evaluation):
        if row["stage"] >= 0:
            searches.setdefault(row["example"], []).append(row)
    sparser = 0
    for mine in searches.values():
        mine.sort(key=lambda row: (-row["k"], row["stage"]))
        assert mine[0]["k"] == 8
        for row, following in pairwise(mine):
            if row["outcome"] == "broken":
                assert following["k"] == row["distance"] - 1 and following["stage"] == 0
            else:
                assert following["k"] == row["k"] and following["stage"] == row["stage"] + 1
        last = mine[-1]
        assert last["distance"] == 1 or (last["outcome"] == "robust" and last["stage"] == 2)
        sparser += any(row["outcome"] == "broken" and row["distance"] < row["k"] for row in mine)
    assert sparser > 10, "most do not need all eight"


def test_a_smaller_search_begins_where_the_last_one_ended(model, data):
    starts = []

    def attack(model, x, y, threat, *, ids, start=None):
        starts.append((threat.k, None if start is None else (start != x).flatten(1).sum(1)))
        return zn.attacks.sparse_pgd(model, x, y, threat, ids=ids, steps=12)

    zn.evaluate(model, data, zn.L0(4), attack, curve=True)
    assert starts[0] == (4, None)
    assert len(starts) > 2
    assert all((changed == k + 1).all() for k, changed in starts[1:])


def test_attacks_that_know_no_start_have_curves_too(model, data):
    evaluation = zn.evaluate(model, data, zn.L0(3), one_pixel, curve=True)
    assert evaluation.robust_accuracy == evaluation.robust_accuracy[1]


def test_cheats_gain_nothing_in_a_curve(model, data):
    for cheat in (outside_the_box, no_numbers):
        evaluation = zn.evaluate(model, data, zn.L0(3), cheat, curve=True)
        assert evaluation.robust_accuracy == 0.9
        # an input of no numbers has no answer in numbers either
        own = ["undefined-logits"] if cheat is no_numbers else []
        assert codes(evaluation) == [*own, "outside-threat-model", "no-passes"]
    # with too many changes, what can be put back is: an adversarial within the budget may remain
    evaluation = zn.evaluate(model, data, zn.L0(3), over_budget, curve=True)
    assert all(row["distance"] <= 3 for row in rows(evaluation) if row["outcome"] == "broken")
    assert zn.verify(evaluation.run, model, data)


def test_passes_of_a_curve_do_not_depend_on_the_batch(model):
    """Images in black and white: many a changed pixel keeps its value, so examples differ in how many they change."""
    x = images(20).round()
    data = Dataset(x, answers(model, x), torch.arange(20), "black and white", "test", tuple("abcd"))
    passes = [
        [
            (row["forwards"], row["backwards"])
            for row in rows(zn.evaluate(model, data, zn.L0(6), **SHORT, **options))
        ]
        for options in ({"curve": True}, {"curve": True, "batch_size": 1})
    ]
    assert passes[0] == passes[1]


def test_making_it_sparser_in_bfloat16_loses_nobody(model, monkeypatch):
    """Logits that bfloat16 rounds to whole numbers: what only those say is no reason to put a pixel back."""

    class Coarse(nn.Module):
        def forward(self, x):
            z = model(x)
            return z + 200 - 200 if z.dtype == torch.bfloat16 else z

    lost = []

    def watched(counter, x, x_adv, y, threat):
        sparser = shrink(counter, x, x_adv, y, threat)
        lost.append((answers(model, x_adv) != y) & (answers(model, sparser) == y))
        return sparser

    monkeypatch.setattr(batch_search, "shrink", watched)
    longer = {"steps": 40, "queries": 60}
    zn.evaluate(Coarse().eval(), dataset(model), zn.L0(8), **longer, curve=True, precision="bfloat16")
    assert not any(bool(some.any()) for some in lost)


def test_no_budget_at_all(model, data):
    for options in ({}, {"curve": True}):
        assert zn.evaluate(model, data, zn.L0(0), **SHORT, **options).robust_accuracy == 0.9


# -- surroundings ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")  # those checks draw random numbers
def test_nothing_else_is_touched(model, data):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    weights = [p.clone() for p in model.parameters()]
    x, y = data.x.clone(), data.y.clone()
    for options in ({}, {"curve": True}):
        zn.evaluate(model, data, zn.L0(2), **SHORT, **options)
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert all((p.grad == 1).all() for p in model.parameters())
    assert torch.equal(x, data.x) and torch.equal(y, data.y)
    for parameter in model.parameters():
        parameter.grad = None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_in_every_gradient_mode(model, data, mode):
    expected = rows(zn.evaluate(model, data, zn.L0(2), **SHORT))
    with mode():
        assert rows(zn.evaluate(model, data, zn.L0(2), **SHORT)) == expected


@pytest.mark.usefixtures("unchecked")
def test_inputs_as_people_have_them(model, data):
    """With gradients wanted, in float64, in channels-last order, labels in int32; a pair or a list."""
    expected = zn.evaluate(model, (data.x, data.y), zn.L0(1), **SHORT).robust_accuracy
    x, y = data.x.clone().requires_grad_(), data.y.int()
    assert zn.evaluate(model, [x, y], zn.L0(1), **SHORT).robust_accuracy == expected
    last = data.x.to(memory_format=torch.channels_last)
    assert zn.evaluate(model, (last, data.y), zn.L0(1), **SHORT).robust_accuracy == expected
    double = zn.evaluate(network().double(), (data.x.double(), data.y), zn.L0(1), **SHORT)
    assert abs(double.robust_accuracy - expected) <= 0.1
    assert zn.verify(double.run, network().double(), (data.x.double(), data.y))


def test_a_plain_function_is_a_model_too(model, data):
    evaluation = zn.evaluate(lambda x: model(x), data, zn.L0(1), **SHORT)
    assert evaluation.robust_accuracy == zn.evaluate(model, data, zn.L0(1), **SHORT).robust_accuracy
    assert [stage.name for stage in evaluation.summary.stages] == [stage.name for stage in stages()]


def test_one_example(model, data):
    evaluation = zn.evaluate(model, (data.x[:1], data.y[:1]), [zn.L0(1), zn.L0(25)], **SHORT)
    assert evaluation.summary.n == 1 and evaluation.robust_accuracy == 0


def test_progress(model, data):
    states = []
    evaluation = zn.evaluate(
        model, data, [zn.L0(1), zn.L0(2)], **SHORT, batch_size=7, on_progress=states.append
    )
    assert [s.stage for s in states[:3]] == ["clean predictions"] * 3
    assert [s.done for s in states[:3]] == [7, 14, 20] and states[2].robust == 18
    for before, after in pairwise(states):
        assert after.seconds >= before.seconds and after.passes >= before.passes
        if (before.stage, before.k) == (after.stage, after.k):
            assert after.done >= before.done
            assert after.robust <= before.robust or before.k is None
        elif before.k is not None:
            assert before.done == before.todo
    assert all(0 <= s.done <= s.todo and s.robust <= s.n == 20 for s in states)
    last = states[-1]
    assert last.robust / 20 == evaluation.robust_accuracy
    assert last.passes == sum(row["forwards"] for row in rows(evaluation) if row["stage"] >= 0)


def test_the_result_speaks_for_itself(model, data, tmp_path):
    evaluation = zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], **SHORT, name="mine", out=tmp_path / "run")
    assert repr(evaluation).startswith(evaluation.table())
    assert "mine on random (test), n = 20" in evaluation.table()
    assert "90.0 %" in evaluation.table()
    page = evaluation.to_html(tmp_path / "page.html")
    assert page.read_text() == (tmp_path / "run/report.html").read_text()
    again = zn.Evaluation(tmp_path / "run")
    assert again.as_json() == evaluation.as_json()
    told = evaluation.as_json()
    assert told["clean_accuracy"] == 0.9 and told["n"] == 20 and told["complete"] is True
    assert told["robust_accuracy"].keys() == {"1", "2"} and told["run"] == str(tmp_path / "run")
