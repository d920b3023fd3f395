"""The sweep's page: what falls first, by hand."""

from __future__ import annotations

import json

import pytest

from zeronorm import ArgumentError, report
from zeronorm.report.sparsity import Measure, measures, read_rows, verdict

CLEAN = [[0.98, 0.96], [0.98, 0.98], [0.97, 0.97], [0.95, 0.93]]
R_2 = [[2.0, 2.2], [2.1, 2.3], [1.9, 1.95], [1.0, 1.2]]
ROBUST = [[0.5, 0.4], [0.6, 0.5], [0.6, 0.5], [0.5, 0.5]]


def row(reference, number, dead=None):
    scored = {
        "r_inf": {},
        "r_2": {"deepfool": R_2[number][reference]},
        "robust": {"1": ROBUST[number][reference]},
    }
    return {
        "reference": reference, "round": number, "sparsity": 1 - 0.5**number, "clean": CLEAN[number][reference],
        "n": 100, "activation_sparsity": 0.5, "dead": dead, "proved": None,
        **(dict.fromkeys(scored) if dead else scored),
    }  # fmt: skip


def write(folder, rows):
    (folder / "sweep.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_what_falls_first(tmp_path):
    rows = [row(r, n) for r in range(2) for n in range(4)]
    sparsities, found = measures(rows)
    assert sparsities == [0, 0.5, 0.75, 0.875]
    assert [m.name for m in found] == ["clean accuracy", "r2, deepfool", "robust accuracy, k = 1"]
    # r2: 2.1, 2.2, 1.925: less than 95 % of 2.1 in round 2, both below 2.0; accuracy falls nowhere by so much
    assert [m.last_unharmed() for m in found] == [3, 1, 3]
    assert verdict(rows, found) == (1, ["r2, deepfool"], {})
    page = report.render(write(tmp_path, rows), tmp_path / "page.html").read_text()
    assert "Do not prune beyond 50.0" in page and "2.100 ± 0.141" in page and "not beyond" in page
    assert page.count("<figure") == 2


@pytest.mark.parametrize(
    ("values", "falls", "last"),
    [
        ([[1.0, 1.1], [0.9, 0.95], [0.5, 0.6]], [False, True, True], 0),
        ([[1.0, 1.1], [0.8, 1.0], [0.5, 0.6]], [False, None, True], 1),  # 0.9, and the bands touch
        ([[1.0, 1.1], [0.5, 1.2], [0.4, 1.3]], [False, None, None], 2),  # never told apart
        (
            [[1.0, 1.0], [0.96, 0.99], [0.94, 0.94]],
            [False, False, True],
            1,
        ),  # told apart, but by less than 5 %
        ([[1.0], [0.96], [0.94], [1.2]], [False, False, True, False], 1),  # one reference: its value
        ([[0.0, 0.0], [0.0, 0.0]], [False, False], 1),
    ],
)
def test_bands_decide_what_has_fallen(values, falls, last):
    measure = Measure("r2", values, False)
    assert measure.falls() == falls and measure.last_unharmed() == last


def test_overlapping_bands_are_not_told_apart(tmp_path):
    rows = [row(r, n) for r in range(2) for n in range(3)]
    robust = {0: ["0.50", "0.40"], 1: ["0.45", "0.30"], 2: ["0.30", "0.20"]}
    for r in rows:
        r["robust"] = {"1": float(robust[r["round"]][r["reference"]])}
    found = measures(rows)[1]
    # r2 and robust accuracy fall together in round 2; in round 1 the latter is lower by a sixth, and its bands overlap
    told = verdict(rows, found)
    assert told == (1, ["r2, deepfool", "robust accuracy, k = 1"], {"robust accuracy, k = 1": 1})
    page = " ".join(report.render(write(tmp_path, rows), tmp_path / "page.html").read_text().split())
    assert "the next round costs r2, deepfool and robust accuracy, k = 1 5&nbsp;%" in page
    assert "so not told apart: robust accuracy, k = 1 from 50.0&nbsp;% on." in page
    assert "chance is not ruled out" not in page
    only = [r for r in rows if r["reference"] == 0]
    page = report.render(write(tmp_path, only), tmp_path / "page.html").read_text()
    assert "chance is not ruled out" in page


def test_nothing_falls(tmp_path):
    rows = [row(0, n) for n in range(2)]
    page = report.render(write(tmp_path, rows), tmp_path / "page.html").read_text()
    assert "the sweep ends too early" in page and "not beyond" not in page


def test_dead_networks_and_unfinished_references_are_left_out(tmp_path):
    rows = [row(0, 0), row(0, 1), row(0, 2), row(1, 0), row(1, 1, "model: a dead network")]
    sparsities, _ = measures(rows)
    assert sparsities == [0]
    page = report.render(write(tmp_path, rows), tmp_path / "page.html").read_text()
    assert "reference 1, round 1: model: a dead network" in page
    assert verdict(rows, measures(rows)[1]) == (0, ["the network itself"], {})
    assert "Do not prune beyond 0.0" in page and "after that the network is dead" in page
    with pytest.raises(ArgumentError, match="expected a first round without dead networks"):
        measures([row(0, 0, "dead")])


def test_damaged_rows(tmp_path):
    write(tmp_path, [row(0, 0)])
    text = (tmp_path / "sweep.jsonl").read_text()
    (tmp_path / "sweep.jsonl").write_text(text + '{"half')
    assert len(read_rows(tmp_path)) == 1
    (tmp_path / "sweep.jsonl").write_text('{"half\n' + text)
    with pytest.raises(ArgumentError, match="is damaged in line 1"):
        read_rows(tmp_path)
