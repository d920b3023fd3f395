"""Several attacks, several models: the runs, what is carried over, what is said of them, and what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_runs import SHORT, dataset, network, rows
from torch import nn

import zeronorm as zn
from zeronorm.attacks.sparse_autoattack import Stage
from zeronorm.metrics import interval
from zeronorm.records.folders import TRANSFERS, ComparisonFolder, RunFolder
from zeronorm.report import render

BUDGETS = [zn.L0(1), zn.L0(2)]
ATTACKS = ["sparse_pgd", "sparse_rs"]


@pytest.fixture(scope="module")
def models():
    return {"plain": network(), "other": network(seed=3)}


@pytest.fixture(scope="module")
def data(models):
    return dataset(models["plain"], 24)


@pytest.fixture(scope="module")
def made(models, data, tmp_path_factory):
    """A complete comparison, to look at."""
    return zn.compare(models, data, BUDGETS, ATTACKS, tmp_path_factory.mktemp("made") / "c", **SHORT)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it, to spoil or to go on with."""
    shutil.copytree(made.path, tmp_path / "c")
    return tmp_path / "c"


def files(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def smallest(run):
    """Per example, the fewest changes found, by a plain loop."""
    found = {}
    for row in rows(run):
        start = 0 if row["outcome"] == "wrong" else math.inf
        found.setdefault(row["example"], start)
        if row["outcome"] == "broken":
            found[row["example"]] = min(found[row["example"]], row["distance"])
    return found


# -- the runs ----------------------------------------------------------------------------------------------


def test_every_run_is_an_ordinary_run(made, models, data, tmp_path):
    for (model, attack), evaluation in made.evaluations.items():
        assert evaluation.run == made.path / model / attack
        alone = zn.evaluate(
            models[model], data, BUDGETS, attack, tmp_path / model / attack, name=model,
            **{"sparse_pgd": {"steps": SHORT["steps"]}, "sparse_rs": {"queries": SHORT["queries"]}}[attack],
        )  # fmt: skip
        assert rows(evaluation) == rows(alone)
        assert zn.verify(evaluation.run, models[model], data)
    assert len(made.evaluations) == 4


def test_worst_case_and_agreement(made):
    for model in made.figures.models:
        found = [smallest(made.path / entry.path) for entry in model.entries]
        examples = sorted(found[0])
        for k in (1, 2):
            robust = sum(all(each[e] > k for each in found) for e in examples)
            share = made.worst_case[model.name][k]
            assert share == robust / 24 and share.n == 24
            assert share.interval == interval(robust, 24)
            agreement = model.agreement[k]
            first, second = ([0 < each[e] <= k for e in examples] for each in found)
            assert agreement.broke == [sum(first), sum(second)]
            only = [[str(e) for e, a, b in zip(examples, x, y, strict=True) if a and not b]
                    for x, y in ((first, second), (second, first))]  # fmt: skip
            assert agreement.names == only and agreement.alone == [len(names) for names in only]
            assert agreement.first_only == [[0, len(only[0])], [len(only[1]), 0]]
            assert (agreement.by_any, agreement.by_all) == (
                sum(a or b for a, b in zip(first, second, strict=True)),
                sum(a and b for a, b in zip(first, second, strict=True)),
            )
            behind = [value for value in agreement.behind if value is not None]
            assert len(behind) == 1 and behind[0].value == abs(len(only[0]) - len(only[1])) / 24
        assert model.median.median == sorted(min(each[e] for each in found) for e in examples)[11]
    alone = [sum(map(sum, (a.alone for a in m.agreement.values()))) for m in made.figures.models]
    assert min(alone) > 0, "the attacks disagree, or this says nothing"


# -- transfer ----------------------------------------------------------------------------------------------


def test_every_adversarial_is_tried_on_the_other_model(made, models, data):
    told = pq.read_table(made.path / "transfer.parquet").to_pylist()
    at = {int(e): i for i, e in enumerate(data.ids)}
    expected = []
    for (model, attack), evaluation in made.evaluations.items():
        target = next(name for name in models if name != model)
        for row in rows(evaluation):
            if row["outcome"] != "broken":
                continue
            x = data.x[at[row["example"]]].clone()
            x.view(-1)[row["positions"]] = torch.tensor(row["values"])
            with torch.no_grad():
                z = models[target](x[None])[0]
            wrong = int(z.argmax()) != row["label"]
            key = (f"{model}/{attack}", target, row["example"], row["k"], row["stage"], row["distance"])
            expected.append((*key, "broken" if wrong else "robust", int(z.argmax())))
    keys = ("source", "target", "example", "k", "stage", "distance", "outcome", "prediction")
    assert sorted(tuple(row[key] for key in keys) for row in told) == sorted(expected)
    assert {row["outcome"] for row in told} == {"broken", "robust"}


def test_transfer_figures(made, models, data):
    told = pq.read_table(made.path / "transfer.parquet").to_pylist()
    with torch.no_grad():
        clean = {name: dict(zip(data.ids.tolist(), (m(data.x).argmax(1) == data.y).tolist(), strict=True))
                 for name, m in models.items()}  # fmt: skip
    seen = set()
    for t in made.figures.transfers:
        seen.add((t.source, t.attack, t.target))
        for k in (1, 2):
            mine = [row for row in told if row["target"] == t.target and row["distance"] <= k]
            if t.attack:
                mine = [row for row in mine if row["source"] == f"{t.source}/{t.attack}"]
            right = clean[t.target]
            tried = {row["example"] for row in mine if right[row["example"]]}
            fooled = {row["example"] for row in mine if right[row["example"]] and row["outcome"] == "broken"}
            carried = t.by_k[k]
            assert (carried.success.count, carried.success.n) == (len(fooled), len(tried))
            assert (carried.right.count, carried.right.n) == (sum(right.values()) - len(fooled), 24)
    both = [(a, b) for a in models for b in models if a != b]
    assert seen == {(a, attack, b) for a, b in both for attack in [*ATTACKS, None]}
    assert any(t.by_k[2].success.count for t in made.figures.transfers)


def test_one_model_has_nobody_to_carry_over_to(models, data, tmp_path):
    one = zn.compare(models["plain"], data, zn.L0(1), ["sparse_rs"], tmp_path, queries=3)
    assert one.figures.transfers == [] and not (tmp_path / "transfer.parquet").exists()
    assert [model.name for model in one.figures.models] == ["torch.nn.modules.container.Sequential"]
    assert "transfer" not in one.table() and "tried on another" not in one.table()


# -- going on ----------------------------------------------------------------------------------------------


def test_a_complete_comparison_is_only_read(copy, models, data):
    before = files(copy)
    again = zn.compare(models, data, BUDGETS, ATTACKS, copy, **SHORT)
    assert files(copy) == before and again.figures.complete


@pytest.mark.parametrize("where", ["1/4 plain", "2/4 plain", "4/4 other", "transfer"])
def test_stopped_and_continued(where, made, models, data, tmp_path):
    class Stop(Exception):
        pass

    def stop(run, state):
        if run == where and (state.k is not None or where == "transfer"):
            raise Stop

    with pytest.raises(Stop):
        zn.compare(models, data, BUDGETS, ATTACKS, tmp_path / "c", **SHORT, on_progress=stop)
    stopped = ComparisonFolder(tmp_path / "c").read()
    assert stopped["status"] == "running" and stopped["summary"] is None
    so_far = zn.Comparison(tmp_path / "c")
    assert not so_far.figures.complete and so_far.figures.transfers == [] and "unfinished" in so_far.table()
    assert "This comparison is unfinished." in so_far.to_html(tmp_path / "so_far.html").read_text()
    finished = files(tmp_path / "c/plain/sparse_pgd") if where != "1/4 plain" else {}

    done = zn.compare(models, data, BUDGETS, ATTACKS, tmp_path / "c", **SHORT)
    for path, when in finished.items():
        assert (tmp_path / "c/plain/sparse_pgd" / path).stat().st_mtime_ns == when
    assert without_times(done) == without_times(made)
    transfers = [pq.read_table(c.path / "transfer.parquet") for c in (done, made)]
    assert transfers[0].equals(transfers[1])
    assert zn.verify_comparison(done.path, models, data)


def without_times(comparison):
    told = comparison.as_json() | {"run": None}
    return json.loads(json.dumps(told), object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


def test_another_attack_is_added(copy, models, data):
    before = files(copy / "plain/sparse_rs")
    stages = ["sparse_pgd", Stage("sparse_pgd", {"gradient": "projected"}), "sparse_rs"]
    more = zn.compare(models, data, BUDGETS, stages, copy, **SHORT)
    assert files(copy / "plain/sparse_rs") == before
    assert [entry.attack for entry in more.figures.models[0].entries] == [
        "sparse_pgd", "sparse_pgd (projected)", "sparse_rs",
    ]  # fmt: skip
    assert len(more.figures.transfers) == 8 and zn.verify_comparison(copy, models, data)
    one = {"plain": models["plain"]}
    fewer = zn.compare(one, data, BUDGETS, "sparse_rs", copy, queries=SHORT["queries"])
    assert len(fewer.evaluations) == 1 and not (copy / "transfer.parquet").exists()


def test_another_question_in_the_same_folder(copy, models, data):
    with pytest.raises(zn.ArgumentError, match="holds another run"):
        zn.compare(models, data, BUDGETS, ATTACKS, copy, **SHORT, seed=1)
    with pytest.raises(zn.ArgumentError, match=r"expected the folder of a comparison, .* holds a run"):
        zn.compare(models, data, BUDGETS, ATTACKS, copy / "plain/sparse_rs", **SHORT)


def test_a_folder_of_its_own_while_it_lives(models, data):
    kept = zn.compare(models["plain"], data, zn.L0(1), "sparse_rs", queries=3)
    path = kept.path
    assert (path / "report.html").exists() and "worst case" in str(kept)
    del kept
    assert not path.exists()


# -- ways to ask --------------------------------------------------------------------------------------------


def test_attacks_of_ones_own_cascades_and_names_that_are_no_folders(models, data, tmp_path):
    def first_pixel(model, x, y, threat):
        x = x.clone()
        x[:, :, 0, 0] = 1
        return x

    named = {"mine": first_pixel, "a/b: c": ["sparse_rs", first_pixel], "../up": "sparse_rs"}
    done = zn.compare({"../x": models["plain"]}, data, zn.L0(1), named, tmp_path / "c", queries=8)
    assert [entry.attack for entry in done.figures.entries] == list(named)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    for entry in done.figures.entries:
        assert (tmp_path / "c" / entry.path / "run.json").exists() and entry.path.count("/") == 1
    robust = [entry.summary.robust_accuracy[1].count for entry in done.figures.entries]
    assert robust[1] == done.figures.models[0].robust_accuracy[1].count <= min(robust)


def test_a_curve(models, data, tmp_path):
    done = zn.compare(models, data, zn.L0(4), ATTACKS, tmp_path, **SHORT, curve=True)
    assert list(done.worst_case["plain"].by_k) == [0, 1, 2, 3, 4]
    assert list(done.figures.models[0].agreement) == [1, 2, 4]
    assert zn.verify_comparison(tmp_path, models, data)


def test_models_that_can_only_be_called(models, data, tmp_path):
    box = zn.models.BlackBox(lambda x: models["plain"](torch.as_tensor(x)).detach().numpy())
    done = zn.compare(
        {"box": box, "plain": models["plain"]}, data, zn.L0(1), ["sparse_rs"], tmp_path, queries=6
    )
    box_run, plain = (done.evaluations[name, "sparse_rs"] for name in ("box", "plain"))
    assert smallest(box_run) == smallest(plain)
    carried = next(t for t in done.figures.transfers if t.source == "box")
    assert carried.by_k[1].success.value == 1.0, "the same model under another name"


def test_the_search_is_as_long_as_asked_for(made):
    for (_, attack), evaluation in made.evaluations.items():
        (stage,) = evaluation.summary.run["plan"]["attack"]["stages"]
        name = {"sparse_pgd": "steps", "sparse_rs": "queries"}[attack]
        assert stage["options"][name] == SHORT[name]


# -- refused -------------------------------------------------------------------------------------------------


class Narrow(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :3]


def test_everything_that_stands_in_the_way_is_named_before_any_work(models, data, tmp_path, unchecked):
    box = zn.models.BlackBox(lambda x: x.reshape(len(x), -1)[:, :4])
    wrong = {"plain": models["plain"], "narrow": Narrow(), "training": network().train(), "box": box}
    with pytest.raises(zn.ArgumentError) as error:
        zn.compare(wrong, data, zn.L0(2), ATTACKS, tmp_path / "c", **SHORT)
    first, second, third = re.split(r"; (?=\(\d\) )", str(error.value))
    assert first.startswith("(1) narrow: model: expected ")
    assert second.startswith("(2) training: model: expected a model in evaluation mode")
    assert (
        third.startswith("(3) sparse_pgd on box: attack: sparse_pgd needs gradients") and "sparse_rs" in third
    )
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("attacks", "options", "said"),
    [
        (["sparse_pgd", "strong", "weak"], {}, "attack: expected some of sparse_pgd, .*, got 'strong', 'weak'"),
        ([Stage("strong", {})], {}, "attack: expected some of sparse_pgd, .*, got 'strong'"),
        (["sparse_rs"], {"steps": 5}, "steps: none of the attacks asked for takes it, only queries"),
        (["sparse_rs"], {"queries": 0}, "queries: expected an integer of at least 1, got 0"),
        ([Stage("sparse_pgd", {"gradient": "up"})], {}, r"sparse_pgd \(up\) on .*: gradient: expected one of"),
        ([Stage("sparse_pgd", {"slope": 1})], {}, "slope: sparse_pgd has no such option"),
        (["sparse_rs", "sparse-rs"], {}, "attacks: expected different attacks, or names for them, got sparse_rs"),
        ([], {}, "attacks: expected at least one attack"),
        ([3], {}, "attacks: expected names, Stages or functions, got int"),
        ({"": "sparse_rs"}, {}, "attacks: expected at least one attack, each by its name"),
    ],
)  # fmt: skip
def test_attacks_that_cannot_be_used(attacks, options, said, models, data, tmp_path, unchecked):
    with pytest.raises(zn.ArgumentError, match=said):
        zn.compare(models, data, zn.L0(1), attacks, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_a_command_that_is_refused_changes_nothing(copy, models, data):
    before = files(copy)
    content = (copy / "comparison.json").read_bytes()
    with pytest.raises(zn.ArgumentError, match="another run"):
        zn.compare(models, data, BUDGETS, [*ATTACKS, "pgd0"], copy, seed=99, **SHORT)
    assert (copy / "comparison.json").read_bytes() == content
    assert files(copy).keys() == before.keys()


def test_other_things_that_cannot_be_used(models, data, tmp_path, unchecked):
    for arguments, said in (
        (({}, data, zn.L0(1)), "model: expected at least one model"),
        ((models, data, zn.L0(None)), "threat: expected a budget k, got None"),
        ((models, (data.x[:0], data.y[:0]), zn.L0(1)), "data: expected at least one example"),
        ((models, (data.x / 0, data.y), zn.L0(1)), "x: expected finite values"),
        ((models, data, zn.L0(99)), "k: expected"),
    ):
        with pytest.raises(zn.ArgumentError, match=said):
            zn.compare(*arguments, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


# -- verifying ------------------------------------------------------------------------------------------------


def test_every_claim_holds(made, models, data):
    checked = zn.verify_comparison(made.path, models, data)
    transfers = pq.read_table(made.path / "transfer.parquet").num_rows
    broken = sum(row["outcome"] == "broken" for e in made.evaluations.values() for row in rows(e))
    assert checked and (checked.predictions, checked.adversarials) == (4 * 24, broken + transfers)


def change_transfers(folder, change):
    table = pq.read_table(folder / "transfer.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(change(table), schema=TRANSFERS), folder / "transfer.parquet")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: [t[0] | {"prediction": (t[0]["prediction"] + 1) % 4}, *t[1:]], "prediction is "),
        (lambda t: [t[0] | {"distance": 9}, *t[1:]], "distance is "),
        (lambda t: [t[0] | {"margin": 77.0}, *t[1:]], "margin is "),
        (lambda t: t[1:], "transfer: 1 rows are missing"),
        (lambda t: [*t, t[0]], "transfer: 1 rows are doubled"),
        (lambda t: [*t, t[0] | {"stage": 5}], "transfer: 1 rows are of adversarials that the runs do not have"),
        (lambda t: [r | {"outcome": "broken"} for r in t], "outcome is robust, the comparison says broken"),
    ],
)  # fmt: skip
def test_transfers_that_were_changed(change, said, copy, models, data):
    change_transfers(copy, change)
    checked = zn.verify_comparison(copy, models, data)
    assert any(said in problem for problem in checked.problems)
    assert "transfer: the digest of its rows differs from the one in comparison.json" in checked.problems


def test_other_claims_that_were_changed(copy, models, data):
    folder = ComparisonFolder(copy)
    record = folder.read()
    record["summary"]["models"]["plain"]["worst_case"]["robust_accuracy"]["1"] = 1.0
    folder.write(record)
    assert zn.verify_comparison(copy, models, data).problems == [
        "summary: comparison.json says other figures than the rows"
    ]
    other = zn.verify_comparison(copy, {"plain": models["other"], "other": models["plain"]}, data)
    assert any(problem.startswith("plain/sparse_pgd: model: digest is ") for problem in other.problems)
    with pytest.raises(
        zn.ArgumentError, match="models: expected all that were compared, got none called other"
    ):
        zn.verify_comparison(copy, {"plain": models["plain"]}, data)
    folder.write(record | {"status": "running"})
    with pytest.raises(zn.ArgumentError, match="expected a complete comparison, got one that stopped early"):
        zn.verify_comparison(copy, models, data)


def test_a_run_put_in_the_place_of_another(copy, models, data, tmp_path):
    shutil.rmtree(copy / "plain/sparse_rs")
    zn.evaluate(
        models["plain"], data, BUDGETS, "sparse_rs", copy / "plain/sparse_rs", queries=3, name="plain"
    )
    problems = zn.verify_comparison(copy, models, data).problems
    assert problems == ["plain/sparse_rs: it is another run than the one compared"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"format": "zeronorm-run/1"}, "expected format zeronorm-comparison/1"),
        ({"runs": []}, "is damaged: it names no runs"),
        ({"runs": [{"model": "a", "attack": "b", "path": "../../elsewhere"}]}, "expected a path within"),
        ({"runs": [{"model": "a", "attack": "b", "path": "nothing"}]}, "expected at least one run that has begun"),
    ],
)  # fmt: skip
def test_damaged_comparisons(record, said, copy):
    folder = ComparisonFolder(copy)
    folder.write(folder.read() | record)
    with pytest.raises(zn.ArgumentError, match=said):
        zn.Comparison(copy)


def test_runs_that_cannot_be_compared(copy, models, data, tmp_path):
    shutil.rmtree(copy / "plain/sparse_rs")
    zn.evaluate(models["plain"], data, zn.L0(2), "sparse_rs", copy / "plain/sparse_rs", queries=3)
    with pytest.raises(zn.ArgumentError, match="expected runs of the same data and threat model"):
        render([copy], tmp_path / "page.html")
    assert RunFolder(copy / "plain/sparse_rs").exists()
