"""The figures of a run, against a slow twin and by hand."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import STAGES
from slow_summary import SlowSummary

from zeronorm import ArgumentError
from zeronorm.metrics import interval, median_magnitude
from zeronorm.records import text_table
from zeronorm.records.figures import percent
from zeronorm.records.folders import ROWS
from zeronorm.report import summarise


def check_against_the_twin(run, rows: pa.Table) -> None:
    fast, slow = summarise(run, rows), SlowSummary(run, rows.to_pylist())
    assert fast.n == len(slow.clean)
    assert dict(zip(fast.examples.tolist(), fast.smallest.tolist(), strict=True)) == slow.smallest
    assert fast.clean_accuracy.count == slow.left(0)
    assert fast.curve.tolist() == [slow.left(k) for k in range(slow.budgets[-1] + 1)]
    every = range(slow.budgets[-1] + 1) if slow.curve else slow.budgets
    assert {k: share.count for k, share in fast.robust_accuracy.items()} == {k: slow.left(k) for k in every}
    assert fast.budgets[-1] == slow.budgets[-1]
    for k in fast.budgets:
        stages = range(-1, len(STAGES))
        assert [share.count for share in fast.after_stage[k]] == [slow.after_stage(k, s) for s in stages]
        assert fast.after_stage[k][-1] == fast.robust_accuracy[k]
        effort = fast.effort[k]
        assert (effort.start, effort.fell.tolist(), effort.most) == slow.effort(k)
        assert effort.start - len(effort.fell) == fast.robust_accuracy[k].count
    if not fast.complete:
        assert fast.settled == slow.settled()
    labels = [row["label"] for row in slow.clean.values()]
    assert [c.label for c in fast.classes] == sorted(set(labels))
    for c in fast.classes:
        ids = [id_ for id_, row in slow.clean.items() if row["label"] == c.label]
        assert c.clean.n == len(ids)
        assert c.clean.count == sum(slow.right(id_) for id_ in ids)
        assert all(c.robust[k].count == sum(slow.smallest[id_] > k for id_ in ids) for k in fast.budgets)
        answers = slow.mistakes(c.label)
        if c.mistaken_for is None:
            assert not answers
        else:
            answer, times = c.mistaken_for
            assert answers[int(answer)] == times == max(answers.values())
    searched = [row for rows in slow.searches.values() for row in rows]
    assert fast.passes == sum(row["forwards"] + row["backwards"] for row in searched)
    for i, stage in enumerate(fast.stages):
        mine = [row for row in searched if row["stage"] == i]
        assert stage.searches == len(mine)
        assert stage.broke == sum(row["outcome"] == "broken" for row in mine)
        assert (stage.forwards, stage.backwards) == (
            sum(row["forwards"] for row in mine),
            sum(row["backwards"] for row in mine),
        )
    broken = sum(0 < d < math.inf for d in slow.smallest.values())
    assert sum(stage.kept for stage in fast.stages) == broken
    for k, reach in fast.reach.items():
        assert reach.start == fast.clean_accuracy.count
        assert len(reach.fell) == reach.start - fast.robust_accuracy[k].count
    assert fast.median == (median_magnitude(list(slow.smallest.values())) if slow.clean else None)


def test_every_kind_of_run_agrees_with_the_twin(folder):
    check_against_the_twin(folder.read(), folder.read_rows())


def test_every_point_of_an_interrupted_run_agrees_with_the_twin(runs):
    for kind in ("list", "curve", "minimal_list", "minimal_curve"):
        run, rows = runs[kind].read() | {"status": "running"}, runs[kind].read_rows()
        for cut in range(0, rows.num_rows, 23):
            check_against_the_twin(run, rows.slice(0, cut))


ROW = st.tuples(
    st.integers(0, 5),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(0, 9),
    st.integers(0, 9),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(ROW, max_size=25, unique_by=lambda row: row[:3]),
    st.booleans(),
    st.sets(st.integers(0, 2)),
    st.randoms(),
)
def test_any_rows_in_any_order_agree_with_the_twin(searches, curve, minimal, random):
    """Rows no runner writes, too: a larger budget's search that finds a smaller change, say."""
    rows = [
        {
            "example": id_,
            "label": id_ % 2,
            "stage": -1,
            "outcome": "wrong" if id_ == 5 else "correct",
            "forwards": 1,
        }
        | {"attack": "clean", "backwards": 0, "prediction": 0}
        for id_ in range(6)
    ]
    once = {(id_, stage): k for id_, k, stage, *_ in searches if stage in minimal}
    for id_, k, stage, distance, forwards, backwards in searches:
        if once.get((id_, stage), k) != k:
            continue
        found = 0 < distance <= k and id_ != 5
        rows.append(
            {"example": id_, "label": id_ % 2, "k": k, "stage": stage, "attack": STAGES[stage]["name"]}
            | {"outcome": "broken" if found else "robust", "distance": distance if found else None}
            | {"forwards": forwards, "backwards": backwards, "prediction": 1 - id_ % 2}
        )
    random.shuffle(rows)
    run = a_run([1, 2, 4], curve)
    for stage in minimal:
        run["plan"]["attack"]["stages"][stage]["kind"] = "minimal"
    check_against_the_twin(run, pa.Table.from_pylist(rows, schema=ROWS))


def a_run(budgets: list[int], curve: bool = False, status: str = "complete") -> dict:
    return {
        "status": status,
        "plan": {
            "model": {"name": "m"},
            "data": {"name": "d", "n": 6, "shape": [1, 8, 8]},
            "threat": {"unit": "pixel", "low": 0.0, "high": 1.0, "budgets": budgets, "curve": curve},
            "attack": {"name": "a", "stages": [dict(stage) for stage in STAGES]},
        },
    }


def rows_by_hand(*lines: tuple) -> pa.Table:
    """(example, k or None, stage, distance or 0, passes)"""
    return pa.Table.from_pylist(
        [
            {
                "example": e,
                "label": 0,
                "k": k,
                "stage": s,
                "distance": d or None,
                "forwards": p,
                "backwards": 0,
            }
            | {"prediction": int(d > 0), "attack": "clean" if s < 0 else STAGES[s]["name"]}
            | {"outcome": ("correct" if d else "wrong") if s < 0 else "broken" if d else "robust"}
            for e, k, s, d, p in lines
        ],
        schema=ROWS,
    )


def test_the_cascade_by_hand():
    # sheet of sparse_autoattack, 5: 10 examples, 2 clean errors, stages break 3, 2 and 1: 80, 50, 30, 20 %
    lines = [(i, None, -1, int(i < 8), 1) for i in range(10)]
    for stage, alive, falls in ((0, 8, 3), (1, 5, 2), (2, 3, 1)):
        lines += [(i, 20, stage, 20 if i >= alive - falls else 0, 5) for i in range(alive)]
    summary = summarise(a_run([20]), rows_by_hand(*lines))
    assert [share.value for share in summary.after_stage[20]] == [0.8, 0.5, 0.3, 0.2]
    assert [stage.broke for stage in summary.stages] == [3, 2, 1]
    assert summary.effort[20].fell.tolist() == [5, 5, 5, 10, 10, 15]
    assert summary.robust_accuracy[20].interval == interval(2, 10)
    assert float(summary.clean_accuracy) == 0.8
    assert str(summary.robust_accuracy[20]) == "20.0 % [2.5, 55.6] (n=10)"


def test_a_smaller_change_found_late_counts_at_the_smaller_budget():
    summary = summarise(
        a_run([1, 4]),
        rows_by_hand((7, None, -1, 1, 1), (7, 1, 0, 0, 9), (7, 1, 1, 0, 9), (7, 1, 2, 0, 9), (7, 4, 0, 1, 3)),
    )
    assert summary.robust_accuracy[1].count == 0
    assert summary.effort[1].fell.tolist() == [30]


def test_a_minimal_attack_answers_at_every_budget():
    run = a_run([1, 2, 4])
    run["plan"]["attack"]["stages"][1]["kind"] = "minimal"
    clean = [(i, None, -1, 1, 1) for i in range(4)]
    turns = {
        1: [(i, 1, 0, 0, 10) for i in range(4)]
        + [(0, 4, 1, 1, 7), (1, 4, 1, 2, 7), (2, 4, 1, 4, 7), (3, 4, 1, 0, 7)]
        + [(i, 1, 2, 0, 3) for i in (1, 2, 3)],
        2: [(2, 2, 0, 2, 5), (3, 2, 0, 0, 10), (3, 2, 2, 0, 3)],
        4: [(3, 4, 0, 0, 10), (3, 4, 2, 0, 3)],
    }
    summary = summarise(run, rows_by_hand(*clean, *turns[1], *turns[2], *turns[4]))
    assert {k: share.count for k, share in summary.robust_accuracy.items()} == {1: 3, 2: 1, 4: 1}
    assert [share.count for share in summary.after_stage[1]] == [4, 4, 3, 3]
    assert [share.count for share in summary.after_stage[2]] == [4, 3, 1, 1]
    assert [stage.searches for stage in summary.stages] == [7, 4, 5]
    assert summary.effort[1].fell.tolist() == [17], "after the first stage"
    assert summary.effort[2].fell.tolist() == [5, 7, 7], "at any budget the passes of the one search"
    assert (summary.effort[2].start, summary.effort[2].most) == (4, 20)
    assert summary.reach[1].fell.tolist() == [17]
    assert summary.reach[2].fell.tolist() == [17, 17, 25], "the passes of the smaller budgets too"
    assert (summary.reach[2].start, summary.reach[2].most) == (4, 33)
    # without the last turn only those are settled that it has nothing to do for
    unfinished = run | {"status": "running"}
    for turn, settled in ((1, 2), (2, 3), (4, 4)):
        lines = [line for k, some in turns.items() if k <= turn for line in some]
        assert summarise(unfinished, rows_by_hand(*clean, *lines)).settled == settled


def test_only_lists_name_their_budgets_and_curves_every_k(runs):
    list_ = summarise(runs["list"].read(), runs["list"].read_rows())
    curve = summarise(runs["curve"].read(), runs["curve"].read_rows())
    assert list(list_.robust_accuracy) == list_.budgets == [1, 2, 4, 8]
    assert list(curve.robust_accuracy) == list(range(13))
    assert curve.budgets == [1, 2, 4, 8, 12]


def test_flat_inputs_have_features_whatever_the_plan_says(runs):
    run = copy.deepcopy(runs["tabular"].read())
    run["plan"]["threat"]["unit"] = "pixel"
    assert summarise(run, runs["tabular"].read_rows()).unit == "feature"


def test_stage_times_add_up_over_sessions():
    session = {"seconds": 4.0, "stages": {"sparse_rs": {"seconds": 1.5}}}
    summary = summarise(a_run([1]) | {"sessions": [session, session]}, ROWS.empty_table())
    assert [stage.seconds for stage in summary.stages] == [None, None, 3.0]
    assert summary.seconds == 8.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("plan.threat.budgets", None, "run: expected plan.threat.budgets in run.json to be list, got None"),
        ("plan.threat.budgets", [], "run: expected plan.threat.budgets in run.json to be integers"),
        ("plan.threat.budgets", ["4"], "run: expected plan.threat.budgets in run.json to be integers"),
        ("plan.data", "digits", "run: expected plan.data.name in run.json to be str, got None"),
        ("plan.attack.stages", [{}], "run: expected plan.attack.stages in run.json to be named"),
        ("status", 3, "run: expected status in run.json to be str, got 3"),
    ],
)
def test_a_damaged_run_json_is_named(path, value, message):
    run = a_run([1])
    *parents, last = path.split(".")
    place = run
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(ArgumentError, match=f"^{message}"):
        summarise(run, ROWS.empty_table())


def test_rows_that_do_not_belong_together_are_named():
    with pytest.raises(
        ArgumentError, match=r"^rows: expected a clean prediction of every example, got none of 8"
    ):
        summarise(a_run([1]), rows_by_hand((7, None, -1, 1, 1), (8, 1, 0, 0, 9)))
    with pytest.raises(ArgumentError, match=r"^rows: expected one clean prediction per example, got two"):
        summarise(a_run([1]), rows_by_hand((7, None, -1, 1, 1), (7, None, -1, 1, 1)))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0.0"), (1.0, "100.0"), (0.99999, "99.9"), (0.0001, "0.1"), (0.97, "97.0"), (math.nan, "–")],
)
def test_per_cent_says_none_and_all_only_when_so(share, text):
    assert percent(share) == text


def test_text_table_says_the_figures(folder):
    run = folder.read()
    summary = summarise(run, folder.read_rows())
    text = text_table(summary)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split()[:2] == ["none", percent(summary.clean_accuracy.value)] for line in lines)
    for k in summary.budgets:
        figures = [str(k), percent(summary.robust_accuracy[k].value)]
        assert any(line.split()[:2] == figures for line in lines)
    for stage in summary.stages:
        assert any(line.strip().startswith(stage.name) for line in lines)
    assert ("unfinished" in text) == (run["status"] != "complete")


def test_text_table_lets_no_control_character_through(runs):
    run = runs["list"].read()
    run["plan"]["model"]["name"] = "evil\x1b[2J\nname"
    text = text_table(summarise(run, runs["list"].read_rows()))
    assert "\x1b" not in text
    assert text.startswith("evil�[2J�name on digits (test), n = 60")


def test_fifty_thousand_examples_take_a_second_or_two():
    rng = np.random.default_rng(0)
    n = 50_000
    parts, alive = [], np.arange(n)
    for k, stage in [(None, -1)] + [(k, stage) for k in (1, 2, 4, 8) for stage in range(3)]:
        m = len(alive)
        fell = rng.random(m) < (0.95 if stage < 0 else 0.08)
        names = ("correct", "wrong") if stage < 0 else ("broken", "robust")
        columns = {
            "example": alive,
            "label": alive % 100,
            "k": [k] * m,
            "stage": [stage] * m,
            "outcome": np.where(fell, *names),
            "prediction": alive % 7,
            "distance": np.where(fell, k or 0, 0),
            "forwards": rng.integers(1, 999, m),
            "backwards": rng.integers(1, 999, m),
        }
        full = {f.name: columns.get(f.name, [None] * m) for f in ROWS}
        parts.append(pa.table({f.name: pa.array(full[f.name], f.type) for f in ROWS}))
        alive = alive[fell] if stage < 0 else alive[~fell]
    rows = pa.concat_tables(parts)
    assert rows.num_rows > 300_000
    started = time.process_time()
    summary = summarise(a_run([1, 2, 4, 8]), rows)
    assert time.process_time() - started < 4  # about 0.5 s here; slower machines and busy ones exist
    assert summary.n == n


@pytest.mark.parametrize("module", ["zeronorm.report", "zeronorm.metrics"])
def test_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'scipy')))"
    subprocess.run([sys.executable, "-c", code], check=True)
