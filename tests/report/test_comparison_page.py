"""The page and the table of a comparison: what they say, that the page stands alone, that no name speaks HTML."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from run_folders import COMPARISONS, digits, write_comparison
from test_page import EVIL, Page

from zeronorm import ArgumentError
from zeronorm.records import comparison_json, comparison_table, read_comparison
from zeronorm.records.comparison_figures import short_median
from zeronorm.records.figures import percent
from zeronorm.report import plots, render
from zeronorm.report.html import breakable, signed


def read(path):
    """A page, without the places where its names may be broken."""
    path.write_text(path.read_text().replace("<wbr>", ""))
    return Page(path)


@pytest.fixture(params=COMPARISONS)
def folder(comparisons, request):
    """Each kind of comparison in turn."""
    return comparisons[request.param]


def test_every_figure_is_on_the_page(folder, tmp_path):
    page = read(render(folder.path, tmp_path / "report.html"))
    comparison = read_comparison(folder)
    for model in comparison.models:
        shares = [model.clean_accuracy, *(model.robust_accuracy[k] for k in model.agreement)]
        shares += [e.summary.robust_accuracy[k] for e in model.entries for k in model.agreement]
        for share in shares:
            low, high = share.interval
            assert re.search(rf"{percent(share.value)} % ?\(?{percent(low)}–{percent(high)}", page.text)
        for i, entry in enumerate(model.entries):
            summary = entry.summary
            assert entry.path in page.text
            assert f"{short_median(summary.median, summary)} {summary.passes / summary.n:,.0f} " in page.text
            names = model.agreement[model.differ_at].names[i]
            if names and len(model.entries) > 1:
                at = f"alone at k = {model.differ_at}: {', '.join(names[:12])}"
                assert f"Broken by {entry.attack} {at}" in page.text
    for t in comparison.transfers:
        for k in plots.evenly(list(t.by_k), 4):
            success, (low, high) = t.by_k[k].success, t.by_k[k].success.interval
            if success.n:
                assert f"{success.count} of {success.n} {percent(low)}–{percent(high)}" in page.text
    assert ("Transfer" in page.text) == bool(comparison.transfers)
    assert (
        ("worst case" in page.text) == ("Agreement" in page.text) == (len(comparison.models[0].entries) > 1)
    )
    assert ("This comparison is unfinished." in page.text) == (not comparison.complete)
    assert "zeronorm verify" in page.text
    assert not re.findall(r"\b(?:nan|inf|None)\b", page.text.replace("mask_step_size None", ""))


def test_the_page_stands_alone(folder, tmp_path):
    page = Page(render(folder.path, tmp_path / "report.html"))
    assert "default-src 'none'" in page.source
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "img")
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("href", "#")[0] == "#" and attrs.get("href", "#")[1:] in {"", *anchors}
    assert "http:" not in page.source.replace("http-equiv", "") and "https:" not in page.source
    assert render(folder.path, tmp_path / "again.html").read_text() == page.source


def test_nothing_in_a_comparison_speaks_html(tmp_path):
    folder = write_comparison(tmp_path, *digits(12), models=["a", "b"], attacks=["one", "two"])
    record = folder.read()
    for run in record["runs"]:
        run["model"] += EVIL
        run["attack"] += EVIL
    folder.write(record | {"command": EVIL})
    transfers = folder.read_transfers().to_pylist()
    folder.write_transfers([row | {"target": row["target"] + EVIL} for row in transfers])
    page = read(render(folder.path, tmp_path / "page.html"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert f"a{EVIL}" in page.text and f"one{EVIL}" in page.text
    assert all(
        c.isprintable() for line in comparison_table(read_comparison(folder)).splitlines() for c in line
    )


def test_the_table_of_text(comparisons):
    said = comparison_table(read_comparison(comparisons["two_models"])).splitlines()
    assert said[0] == "digits (test), n = 40, L0 in pixels, each by at most 0.35; right answers in per cent"
    assert sum(line.startswith("   worst case ") for line in said) == 2
    assert sum(line.startswith("   95 % interval ") for line in said) == 2
    assert sum("of" in line and line.endswith("fooled it too") for line in said) == 8
    unfinished = comparison_table(read_comparison(comparisons["unfinished"])).splitlines()
    assert unfinished[1] == "unfinished: runs are missing, or their figures can still fall"
    assert (
        len([line for line in unfinished if "sparse_pgd" in line]) == 3
    )  # of the second model only the first


def test_for_a_machine(comparisons):
    comparison = read_comparison(comparisons["two_models"])
    told = comparison_json(comparison)
    assert told["n"] == 40 and list(told["models"]) == [model.name for model in comparison.models]
    for name, model in told["models"].items():
        for k in ("1", "2", "4", "8"):
            best = min(attack["robust_accuracy"][k] for attack in model["attacks"].values())
            assert model["worst_case"]["robust_accuracy"][k] <= best
            behind = [attack["behind_strongest"][k] for attack in model["attacks"].values()]
            assert behind.count(None) == 1, name
            for attack, value in zip(model["attacks"].values(), behind, strict=True):
                difference = attack["robust_accuracy"][k] - best
                assert (value[0] if value else 0) == pytest.approx(difference)
    assert (
        comparison_json(read_comparison(comparisons["nothing_broken"]))["transfer"][0]["success"]["1"] is None
    )


# -- charts ----------------------------------------------------------------------------------------------------


def test_one_colour_for_an_attack_in_every_chart(comparisons):
    (model,) = read_comparison(comparisons["many_attacks"]).models
    against_k, against_passes = plots.attacks_against_k(model), plots.attacks_against_passes(model)
    together, *lines = against_k.lines
    assert together.colour == "worst" and together.label == "all together"
    assert [(line.colour, line.label) for line in lines] == [
        (line.colour, line.label) for line in against_passes.lines
    ]
    assert [line.colour for line in lines] == [f"run{i}" for i in range(6)]
    strongest = sorted(
        model.entries, key=lambda e: [e.summary.robust_accuracy[k].count for k in (8, 4, 2, 1)]
    )[:6]
    assert {line.label for line in lines} == {entry.attack for entry in strongest}
    assert "The 6 strongest of 8 attacks." in against_k.note and "6 strongest" in against_passes.note


def test_the_lowest_line_is_that_of_all_together(comparisons):
    for model in read_comparison(comparisons["curve"]).models:
        ends = [corners(line.path)[-1] for line in plots.attacks_against_k(model).lines]
        assert ends[0][1] == max(y for _, y in ends)  # down is more in SVG
        assert ends[0][1] == pytest.approx(1000 * (1 - model.curve[-1] / model.n), abs=0.06)


def test_lines_against_passes_start_at_the_clean_accuracy(comparisons):
    for kind in ("two_models", "curve"):
        for model in read_comparison(comparisons[kind]).models:
            chart = plots.attacks_against_passes(model)
            assert f"at k = {model.half_k} " in chart.title
            for line, entry in zip(chart.lines, model.entries, strict=True):
                down = [y for _, y in corners(line.path)]
                assert down == sorted(down)
                assert down[0] == pytest.approx(1000 * (1 - model.clean_accuracy.value), abs=0.06)
                left = entry.summary.robust_accuracy[model.half_k].value
                assert down[-1] == pytest.approx(1000 * (1 - left), abs=0.06)


def test_passes_are_compared_where_half_is_left(comparisons, tmp_path):
    """Not at the smallest budget, where almost nothing breaks."""
    for kind in ("two_models", "curve"):
        for model in read_comparison(comparisons[kind]).models:
            half = model.clean_accuracy.count / 2
            away = {k: abs(model.robust_accuracy[k].count - half) for k in model.agreement}
            assert away[model.half_k] == min(away.values()) < away[1]
            note = plots.attacks_against_passes(model).note
            assert note.startswith(f"k = {model.half_k}: where")
            assert ("smaller budgets" in note) == (kind == "two_models")


def test_a_minimal_attack_counts_in_full(comparisons):
    (model,) = read_comparison(comparisons["one_attack"]).models
    said = "goes on once an example broke, and counts in full"
    assert said not in plots.attacks_against_passes(model).note
    model.entries[0].summary.run["plan"]["attack"]["stages"][0]["kind"] = "minimal"
    assert said in plots.attacks_against_passes(model).note


def test_bars_add_up_to_what_was_broken(comparisons):
    for kind in ("two_models", "curve", "many_attacks"):
        for model in read_comparison(comparisons[kind]).models:
            charts = plots.iterations_needed(model)
            assert [chart.title for chart in charts] == [entry.attack for entry in model.entries]
            assert len({tuple(chart.yticks) for chart in charts}) == 1
            for chart, broke in zip(charts, model.agreement[model.half_k].broke, strict=True):
                heights = [1000 - float(y) for y in re.findall(r"V([\d.]+)H", chart.lines[0].bars)]
                share = sum(heights) / 1000 * chart.yticks[-1]
                assert share == pytest.approx(100 * broke / model.n, abs=0.1 * len(heights))
                assert max(heights, default=0) <= 1000
                assert chart.note.startswith(f"Broke {broke} of {model.n}")


def test_bars_by_hand(comparisons):
    """Four bars to a decade: up to 1, 3, 5 and 10 passes, then 17, 31, 56 and 100."""
    (model,) = read_comparison(comparisons["one_attack"]).models
    (entry,) = model.entries
    effort = replace(entry.summary.reach[1], iterations=np.array([1, 2, 3, 10, 11, 100]))
    entry = replace(entry, summary=replace(entry.summary, reach={model.half_k: effort}))
    (chart,) = plots.iterations_needed(replace(model, entries=[entry]))
    assert [label for _, label in chart.xticks] == ["1", "10", "100"] and chart.yticks == [0, 5, 10]
    bars = re.findall(r"M([\d.]+) 1000V([\d.]+)H([\d.]+)V1000Z", chart.lines[0].bars)
    # of 40 examples, one is 2.5 %
    assert [tuple(map(float, bar)) for bar in bars] == [
        (0, 750, 125), (125, 500, 250), (375, 750, 500), (500, 750, 625), (875, 750, 1000),
    ]  # fmt: skip
    assert chart.note == "Broke 6 of 40, half of them within 3."


def corners(path):
    return [tuple(map(float, corner.split())) for corner in path[1:].split("L")]


# -- small things ------------------------------------------------------------------------------------------------


def test_nothing_broken_has_no_charts_of_breaking(comparisons):
    for model in read_comparison(comparisons["nothing_broken"]).models:
        assert plots.iterations_needed(model) == []
        assert model.agreement[8].by_any == 0 and model.median.median > 8


def test_words():
    assert plots.evenly([1, 2, 4, 8, 16, 32, 40], 4) == [1, 4, 16, 40] and plots.evenly([3, 5], 4) == [3, 5]
    assert signed(-1.26) == "−1.3" and signed(0.04) == "0.0" and signed(-0.04) == "0.0"
    assert breakable("a_b:c<d") == "a_<wbr>b:<wbr>c&lt;d"


def test_a_comparison_beside_a_run_stands_for_its_runs(comparisons, runs, tmp_path):
    page = Page(render([comparisons["unfinished"].path, runs["list"].path], tmp_path / "page.html"))
    assert "5 runs compared" in page.text


def test_transfers_of_other_examples(tmp_path):
    folder = write_comparison(tmp_path, *digits(8), attacks=["sparse_rs"])
    rows = folder.read_transfers().to_pylist()
    folder.write_transfers([row | {"example": 10**6, "outcome": "broken"} for row in rows])
    with pytest.raises(ArgumentError, match=r"transfer.parquet speaks of examples that the runs do not have"):
        read_comparison(folder)


def test_a_table_of_transfers_that_is_none(tmp_path):
    folder = write_comparison(tmp_path, *digits(8), attacks=["sparse_rs"])
    folder.transfers.write_bytes(b"no table")
    with pytest.raises(ArgumentError, match=r"transfer.parquet is damaged or not a table of rows"):
        read_comparison(folder)
