"""`verify` believes nothing: honest runs pass, and whatever was changed afterwards is named."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import CLASSES, SHORT, dataset, images, network, rows

import zeronorm as zn
from zeronorm.data import Dataset
from zeronorm.evaluation.result import summary_of
from zeronorm.records.folders import ROWS, RunFolder, digest_rows

pytestmark = pytest.mark.usefixtures("unchecked", "minimal_attack")

CENTRE = torch.zeros(5, 5, dtype=torch.bool)
CENTRE[1:4, 1:4] = True
LOW = -torch.arange(25.0).reshape(1, 5, 5) / 50


HONEST = {
    "list": {"threat": [zn.L0(1), zn.L0(2)]},
    "curve": {"threat": zn.L0(4), "curve": True},
    "feature": {"threat": zn.L0(2, unit="feature"), "channels": 2},
    "colour": {"threat": zn.L0(1), "channels": 3},
    "mask": {"threat": zn.L0(2, allowed=CENTRE)},
    "cap": {"threat": zn.L0(5, linf=0.3)},
    "tensors": {"threat": zn.L0(2, low=LOW, high=1.5)},
    "decimal": {"threat": zn.L0(2, low=-0.1, high=1.3)},
    "nothing": {"threat": [zn.L0(0), zn.L0(1)]},
    "black": {"threat": zn.L0(2), "attack": "sparse_rs", "steps": None},
    "minimal": {"threat": [zn.L0(1), zn.L0(3)], "attack": ["sparse_rs", "greedy", "sparse_pgd"]},
    "minimal curve": {"threat": zn.L0(4), "attack": ["sparse_rs", "greedy", "sparse_pgd"], "curve": True},
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_runs_hold(kind, tmp_path):
    options = SHORT | HONEST[kind]
    channels = options.pop("channels", 1)
    model = network(channels=channels)
    data = dataset(model, channels=channels)
    evaluation = zn.evaluate(model, data, **options, out=tmp_path / "run")
    result = zn.verify(tmp_path / "run", model, data)
    assert result and result.ok and not result.problems
    assert result.predictions == 20
    broken = sum(row["outcome"] == "broken" for row in rows(evaluation))
    assert result.adversarials == broken > 0


@pytest.fixture(scope="module")
def runs(model, data, tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return {
        kind: RunFolder(zn.evaluate(model, data, **HONEST[kind], **SHORT, out=home / kind).run)
        for kind in ("list", "curve", "minimal", "minimal curve")
    }


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run to spoil."""
    shutil.copytree(runs["list"].path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def rewrite(folder, new_rows, *, forged):
    """Other rows in the table; `forged`, run.json agrees with them."""
    table = pa.Table.from_pylist(new_rows, schema=ROWS)
    pq.write_table(table, folder.table, write_page_checksum=True)
    if forged:
        told = folder.read() | {"rows_digest": digest_rows(table)}
        with contextlib.suppress(LookupError, ValueError, TypeError):  # some rows give no figures
            told["summary"] = summary_of(told, table)
        folder.write(told)


# -- one field of one row ----------------------------------------------------------------------------------


def lies(row):
    """Other values for each field of a row, that are not what it says: (field, value)."""
    other = {
        "example": [5, 8, 11, 999, -1, None],
        "name": ["a.png"],
        "label": [0, 1, 2, 3, 7, -1, None],
        "k": [0, 1, 2, 3, None],
        "stage": [-1, 0, 1, 2, 3, 99, None],
        "attack": ["clean", "sparse_rs", "sparse_pgd (projected)", "mine", None],
        "outcome": ["correct", "wrong", "broken", "robust", "survived", None],
        "prediction": [0, 1, 2, 3, 7, -1, None],
        "margin": [None, float("nan"), float("inf")],
        "distance": [0, 1, 2, 3, 99, -1, None],
        "linf": [0.0, 0.5, 2.0, -1.0, None, float("nan")],
        "forwards": [-1, None],
        "backwards": [-1, None],
        "positions": [None, [], [0], [24], [25], [-1], [0, 1], [3, 2], [0, 1, 2]],
        "values": [None, [], [0.5], [1.5], [-1.0], [None], [0.0, 1.0], [float("nan")], [1e300]],
    }
    if row["margin"] is not None:
        other["margin"] += [-row["margin"] - 0.1] if row["outcome"] == "robust" else [row["margin"] + 0.1]
    if row["outcome"] == "robust":
        other["margin"] = other["margin"][
            -1:
        ]  # of an attempt that failed nothing is kept to measure it again
    if row["positions"]:
        other["positions"] += [row["positions"][:-1], [(p + 1) % 25 for p in row["positions"]]]
        other["values"] += [row["values"][:-1], [1 - v for v in row["values"]]]
    return [(field, value) for field, values in other.items() for value in values if value != row[field]]


@pytest.mark.parametrize("forged", [False, True], ids=["changed", "forged"])
@pytest.mark.parametrize("kind", ["list", "curve", "minimal"])
def test_any_lie_in_any_row(kind, forged, runs, model, data, tmp_path):
    shutil.copytree(runs[kind].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    told, honest = folder.read(), rows(folder.path)

    @given(st.data())
    @settings(max_examples=30 if forged else 10, deadline=None)  # the digest betrays any change
    def check(draw):
        index = draw.draw(st.integers(0, len(honest) - 1))
        field, value = draw.draw(st.sampled_from(lies(honest[index])))
        folder.write(told)
        rewrite(
            folder, [*honest[:index], honest[index] | {field: value}, *honest[index + 1 :]], forged=forged
        )
        result = zn.verify(folder.path, model, data)
        assert not result.ok, f"row {index}: {field} is {value}"
        if not forged:
            assert any("rows: their digest differs" in problem for problem in result.problems)

    check()


def test_passes_are_under_the_digest(run, model, data):
    """How much an attack cost cannot be measured again; that nobody changed it can."""
    changed = rows(run.path)
    changed[30]["forwards"] += 1
    rewrite(run, changed, forged=False)
    assert zn.verify(run.path, model, data).problems == [
        "rows: their digest differs from the one in run.json: rows were changed"
    ]


@pytest.mark.parametrize(
    "outcome, field, value, problem",
    [
        ("broken", "outcome", "robust", "distance is None, the run says 1"),
        ("robust", "outcome", "broken", "its adversarial cannot be rebuilt"),
        ("wrong", "outcome", "correct", "clean outcome is wrong, the run says correct"),
        ("correct", "outcome", "wrong", "clean outcome is correct, the run says wrong"),
        ("broken", "distance", 0, "1 positions changed, the run says 0"),
        ("broken", "prediction", 9, r"predicted \d, the run says 9"),
        ("correct", "prediction", 9, r"clean prediction is \d, the run says 9"),
        ("broken", "label", 9, r"label is \d, the run says 9"),
        ("correct", "label", 9, r"label is \d, the run says 9"),
        ("broken", "positions", [30], "its adversarial cannot be rebuilt"),
        ("broken", "values", [7.0], "the adversarial leaves the box"),
        ("broken", "linf", 0.123, "largest change is .*, the run says 0.123"),
        ("broken", "margin", 5.0, r"margin is -.*, the run says 5\.0"),
        ("correct", "margin", 99.0, r"margin is .*, the run says 99\.0"),
    ],
)
def test_the_claim_is_named(run, model, data, outcome, field, value, problem):
    changed = rows(run.path)
    row = next(row for row in changed if row["outcome"] == outcome)
    row[field] = value
    rewrite(run, changed, forged=True)
    problems = zn.verify(run.path, model, data).problems
    assert any(re.search(f"^example {row['example']}.*: {problem}", text) for text in problems), problems


# -- the rows together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "curve", "minimal", "minimal curve"])
def test_any_row_deleted_doubled_or_invented(kind, runs, model, data, tmp_path):
    shutil.copytree(runs[kind].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    told, honest = folder.read(), rows(folder.path)
    for index in random.Random(0).sample(range(len(honest)), 12):
        for changed, problem in (
            (honest[:index] + honest[index + 1 :], r"rows: \d+ are missing"),
            (honest[:index] + honest[index : index + 1] + honest[index:], "has two rows"),
        ):
            folder.write(told)
            rewrite(folder, changed, forged=True)
            problems = zn.verify(folder.path, model, data).problems
            assert any(re.search(problem, text) for text in problems), problems
    searched = next(row for row in honest if row["outcome"] == "robust")
    folder.write(told)
    rewrite(folder, [*honest, searched | {"k": 9}], forged=True)
    problems = zn.verify(folder.path, model, data).problems
    assert "rows: 1 are of searches that the plan does not ask for" in problems


def test_rows_in_another_order(run, model, data):
    rewrite(run, rows(run.path)[::-1], forged=False)
    assert len(zn.verify(run.path, model, data).problems) == 1


# -- run.json, pictures, model, data -----------------------------------------------------------------------


def changed_run(folder, change):
    told = folder.read()
    change(told)
    folder.write(told)


@pytest.mark.parametrize(
    "change, problem",
    [
        (
            lambda told: told["summary"]["robust_accuracy"].update({"2": 0.99}),
            "summary: run.json says .*0.99",
        ),
        (lambda told: told["summary"].update(clean_accuracy=1.0), "summary: run.json says"),
        (lambda told: told["summary"].update(n=200), "summary: run.json says"),
        (lambda told: told.update(summary=None), "summary: run.json says None"),
        (
            lambda told: told["plan"]["attack"]["stages"][0]["options"].update(steps=10_000),
            "plan: its digest",
        ),
        (lambda told: told["plan"]["threat"].update(budgets=[1, 3]), "plan: its digest"),
        (lambda told: told["plan"].update(seed=3), "plan: its digest"),
        (lambda told: told.update(plan={}), "plan: its digest"),
        (lambda told: told.update(rows_digest="sha256:0"), "rows: their digest differs"),
        (lambda told: told.pop("rows_digest"), "rows: their digest differs"),
    ],
)
def test_a_changed_run_json(run, model, data, change, problem):
    changed_run(run, change)
    result = zn.verify(run.path, model, data)
    assert not result and re.search(problem, result.problems[0])


def test_a_changed_picture(run, model, data):
    pictures = pq.read_table(run.images).to_pylist()
    pictures[3]["x"][7] = 0.5
    pq.write_table(pa.Table.from_pylist(pictures), run.images)
    example = pictures[3]["example"]
    problems = zn.verify(run.path, model, data).problems
    assert problems == [f"example {example}: its picture is not the input of the data"]


def test_another_model(run, data):
    other = network()
    with torch.no_grad():
        other[1].weight[0, 0] += 1e-6
    problems = zn.verify(run.path, other, data).problems
    assert len(problems) == 1 and problems[0].startswith("model: digest is sha256:")
    problems = zn.verify(run.path, network(seed=3), data).problems
    assert sum("clean prediction is" in problem for problem in problems) > 5
    assert any("the model answers right on the adversarial" in problem for problem in problems)


def test_other_data(run, model, data):
    x = data.x.clone()
    x[2, 0, 0, 0] += 1e-6
    problems = zn.verify(run.path, model, dataclasses.replace(data, x=x)).problems
    assert problems[0].startswith("data: digest of its 20 examples is sha256:")
    y = data.y.clone()
    y[2] = (y[2] + 1) % CLASSES
    problems = zn.verify(run.path, model, dataclasses.replace(data, y=y)).problems
    assert any("example 11: label is" in problem for problem in problems)
    fewer = Dataset(data.x[:9], data.y[:9], data.ids[:9], data.name, data.split, data.class_names)
    problems = zn.verify(run.path, model, fewer).problems
    absent = data.ids[9:].tolist()
    assert any(re.fullmatch(rf"rows: the data lacks 11 examples, such as {absent[0]}", p) for p in problems)
    wider = dataclasses.replace(data, x=images(20, side=6))
    assert (
        "data: inputs are of shape (1, 6, 6), the run's of (1, 5, 5)"
        in zn.verify(run.path, model, wider).problems
    )


def test_the_model_may_be_in_training_mode(run, data):
    model = network().train()
    assert zn.verify(run.path, model, data)
    assert all(module.training for module in model.modules())


# -- records that cannot be read ---------------------------------------------------------------------------


def test_an_unfinished_run_is_refused(run, model, data):
    changed_run(run, lambda told: told.update(status="running"))
    with pytest.raises(zn.ArgumentError, match="run: expected a complete run, got one that stopped early"):
        zn.verify(run.path, model, data)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda run: run.json.unlink(), "found no run.json in"),
        (lambda run: run.json.write_text('{"format'), "run.json cannot be read"),
        (lambda run: run.json.write_bytes(b"\xff\xfe\x00"), "run.json cannot be read"),
        (lambda run: run.json.write_text("[]"), "expected format zeronorm-run/1 in .*, got 'list'"),
        (lambda run: run.json.write_text('{"format": "other/2"}'), "got 'other/2'"),
        (lambda run: run.json.write_text('{"format": "zeronorm-run/1"}'), "it has no status, plan"),
        (lambda run: run.table.unlink(), "expected rows.parquet of the complete run"),
        (lambda run: run.table.write_bytes(b""), "rows.parquet is damaged"),
        (lambda run: run.table.write_bytes(run.table.read_bytes()[:-20]), "rows.parquet is damaged"),
        (lambda run: run.table.write_bytes(run.table.read_bytes()[:200]), "rows.parquet is damaged"),
        (lambda run: run.images.write_bytes(b"PAR1"), "images.parquet is damaged"),
    ],
)
def test_damaged_files_are_one_clear_line(run, model, data, spoil, message):
    spoil(run)
    with pytest.raises(zn.ArgumentError, match=f"^run: .*{message}") as raised:
        zn.verify(run.path, model, data)
    assert "\n" not in str(raised.value)


def test_not_a_folder(run, model, data):
    with pytest.raises(zn.ArgumentError, match=r"run: expected the folder of a run, found no run\.json"):
        zn.verify(run.path / "nowhere", model, data)
    with pytest.raises(zn.ArgumentError, match="run: expected the folder of a run, got the file"):
        zn.verify(run.json, model, data)


def test_any_changed_byte_of_the_table(run, model, data):
    """Noticed, or it was none that says anything."""
    whole, honest = run.table.read_bytes(), rows(run.path)
    draw = random.Random(0)
    for at in draw.sample(range(len(whole)), 100):
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        run.table.write_bytes(bytes(changed))
        try:
            result = zn.verify(run.path, model, data)
        except zn.ArgumentError as error:
            assert "is damaged" in str(error) and "\n" not in str(error)
        else:
            assert not result.ok or rows(run.path) == honest
