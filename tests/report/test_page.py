"""The page as text: what it says, that it stands alone, that nothing in a record can speak HTML."""

from __future__ import annotations

import base64
import copy
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_folders import digits, write_run

from zeronorm import ArgumentError
from zeronorm.records.figures import percent
from zeronorm.records.folders import RunFolder
from zeronorm.report import html, render, summarise

VOID = {"meta", "img", "br", "wbr", "link", "input"}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7*7 }}'


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag left open or closed twice."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def pictures(page: Page) -> list[np.ndarray]:
    """The page's PNGs, as arrays."""
    uris = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    prefix = "data:image/png;base64,"
    assert all(uri.startswith(prefix) for uri in uris)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri[len(prefix) :])))) for uri in uris]


def test_every_kind_of_run_makes_a_page_with_its_figures(folder, tmp_path):
    page = Page(render(folder.path, tmp_path / "report.html"))
    summary = summarise(folder.read(), folder.read_rows())
    if summary.n:
        for share in [summary.clean_accuracy, *(summary.robust_accuracy[k] for k in summary.budgets)]:
            low, high = share.interval
            assert f"{percent(share.value)} % {percent(low)}–{percent(high)}" in page.text
    for stage in summary.stages:
        assert stage.name in page.text
    for said in ("Diagnosis", "Nothing suspicious seen", "Provenance", "zeronorm verify", "sha256:"):
        assert said in page.text
    assert ("This run is unfinished." in page.text) == (not summary.complete)
    assert not re.findall(r"\b(?:nan|inf|None)\b", re.sub(r"base64,[^\"]*", "", page.source))


def test_page_stands_alone_and_runs_nothing(folder, tmp_path):
    page = Page(render(folder.path, tmp_path / "report.html"))
    assert "default-src 'none'" in page.source
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith(("data:image/png", "#"))
    assert "http:" not in page.source.replace("http-equiv", "") and "https:" not in page.source
    assert "url(" not in page.source and "@import" not in page.source


def test_same_records_same_bytes(runs, tmp_path):
    first = render([runs["list"].path], tmp_path / "a.html").read_bytes()
    assert render([runs["list"].path], tmp_path / "b.html").read_bytes() == first


def test_nothing_in_a_record_speaks_html(tmp_path):
    x, y = digits(12)
    folder = write_run(tmp_path / "run", x, y, budgets=[1])
    run = folder.read()
    plan = run["plan"]
    for place in (plan["model"], plan["data"], plan["attack"], run["versions"], run["execution"]):
        for key, value in place.items():
            if isinstance(value, str):
                place[key] = EVIL
    plan["data"] |= {"class_names": [EVIL + str(i) for i in range(10)], "note": EVIL}
    plan["attack"]["stages"] = [
        {"name": EVIL, "attack": EVIL, "options": {EVIL: EVIL}} for _ in plan["attack"]["stages"]
    ]
    finding = {"code": EVIL, "level": "warning", "seen": EVIL, "meaning": EVIL, "advice": EVIL}
    run |= {"command": EVIL, "created": EVIL, "diagnosis": [finding], "checks": [EVIL], "plan_digest": EVIL}
    folder.write(run)
    rows = [row | {"name": EVIL, "attack": EVIL} for row in folder.read_rows().to_pylist()]
    folder.fold(rows, [{"example": id_, "x": x_} for id_, x_ in folder.read_images().items()])
    for runs in ([folder.path], [folder.path, folder.path]):
        page = Page(render(runs, tmp_path / "report.html"))
        assert page.source.count("&lt;script&gt;") > 20
        assert {tag for tag, _ in page.tags}.isdisjoint({"script"})
        assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
        assert not any(attrs.get("src") == "x" for _, attrs in page.tags)
        assert EVIL in page.text  # said as it is, template marks and entities included


def test_gallery_shows_the_stored_change(runs, tmp_path):
    """The second picture of a card is the clean one with the row's values at its positions."""
    folder = runs["colour"]
    rows = [row for row in folder.read_rows().to_pylist() if row["outcome"] == "broken"]
    images = folder.read_images()
    easiest = min(
        (row for row in rows if row["example"] in images), key=lambda r: (r["distance"], r["example"])
    )
    expected = np.array(images[easiest["example"]]).reshape(3, 64)
    expected[:, easiest["positions"]] = np.array(easiest["values"]).reshape(-1, 3).T
    clean, adversarial, changed = pictures(Page(render(folder.path, tmp_path / "report.html")))[:3]
    as_bytes = np.rint(255 * expected).reshape(3, 8, 8).transpose(1, 2, 0)
    assert np.array_equal(adversarial, as_bytes)
    different = (clean != adversarial).any(-1)
    assert np.flatnonzero(different).tolist() == easiest["positions"]
    assert np.array_equal(changed[..., 3] == 255, different)


def test_gallery_of_features_in_images_and_of_tables(runs, tmp_path):
    for kind in ("features_of_images", "tabular"):
        folder = runs[kind]
        page = Page(render(folder.path, tmp_path / "report.html"))
        rows = folder.read_rows().to_pylist()
        images = folder.read_images()
        easiest = min(
            (r for r in rows if r["outcome"] == "broken" and r["example"] in images),
            key=lambda r: (r["distance"], r["example"]),
        )
        old, new = images[easiest["example"]][easiest["positions"][0]], easiest["values"][0]
        if kind == "tabular":
            assert not pictures(page)
            assert f"was became {easiest['positions'][0]} {old:.4g} {new:.4g}" in page.text
        else:
            clean, adversarial, _ = pictures(page)[:3]
            different = np.flatnonzero((clean != adversarial).transpose(2, 0, 1))
            assert set(different) <= set(easiest["positions"])  # below 1/255 nothing shows


def test_gallery_of_inputs_in_a_box_of_their_own(tmp_path):
    """Normalised inputs, bounds per channel as nested lists: shown as the images they were."""
    x, y = digits(15, colour=True)
    folder = write_run(tmp_path / "run", x, y, budgets=[2])
    plain = pictures(Page(render(folder.path, tmp_path / "plain.html")))
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    run = folder.read()
    run["plan"]["threat"] |= {
        "low": ((0 - mean) / std)[:, None, None].tolist(),
        "high": ((1 - mean) / std)[:, None, None].tolist(),
    }
    rows = folder.read_rows().to_pylist()
    for row in rows:
        if row["values"]:
            row["values"] = ((np.array(row["values"]).reshape(-1, 3) - mean) / std).ravel().tolist()
    images = [
        {"example": id_, "x": ((np.reshape(x_, (3, 64)) - mean[:, None]) / std[:, None]).ravel().tolist()}
        for id_, x_ in folder.read_images().items()
    ]
    folder.fold(rows, images)
    folder.write(run)
    page = Page(render(folder.path, tmp_path / "own.html"))
    assert all(np.array_equal(a, b) for a, b in zip(plain, pictures(page), strict=True))
    assert "to any value in [-2.5, 2.5], each within its own bounds." in page.text


def test_diagnosis_comes_warnings_first(tmp_path):
    notes = [{"code": "a", "level": "note", "seen": "Something small."}]
    warning = {
        "code": "b",
        "level": "warning",
        "seen": "Gradients are zero.",
        "meaning": "M.",
        "advice": "A.",
    }
    folder = write_run(tmp_path / "run", *digits(5), budgets=[1], diagnosis=[*notes, warning])
    text = Page(render(folder.path, tmp_path / "report.html")).text
    assert text.index("Warning Gradients are zero. M. A.") < text.index("Note Something small.")
    assert "Nothing suspicious" not in text


def test_checks_are_listed(tmp_path):
    folder = write_run(tmp_path / "run", *digits(5), budgets=[1], checks=["is any gradient zero"])
    assert (
        "Nothing suspicious seen Checked, with nothing found: is any gradient zero"
        in Page(render(folder.path, tmp_path / "report.html")).text
    )


def test_rows_that_contradict_run_json_are_said(tmp_path):
    folder = write_run(tmp_path / "run", *digits(20), budgets=[1])
    summary = summarise(folder.read(), folder.read_rows())
    told = {
        "n": 20,
        "clean_accuracy": summary.clean_accuracy.value,
        "robust_accuracy": {"1": summary.robust_accuracy[1].value},
    }
    folder.write(folder.read() | {"summary": told})
    assert "disagree" not in Page(render(folder.path, tmp_path / "report.html")).text
    told["robust_accuracy"]["1"] += 0.05
    folder.write(folder.read() | {"summary": told})
    assert (
        "The rows and run.json disagree. k = 1:" in Page(render(folder.path, tmp_path / "report.html")).text
    )


def test_several_runs_are_compared(runs, tmp_path):
    folders = [runs[kind] for kind in ("list", "curve", "unfinished_list", "nothing_yet", "tabular")]
    page = Page(render([f.path for f in folders], tmp_path / "report.html"))
    assert "5 runs compared" in page.text
    for said in ("Not like for like.", "number of examples", "unit", "progress"):
        assert said in page.text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) == 5
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} == set(ids)
    summary = summarise(folders[0].read(), folders[0].read_rows())
    first_row = page.text[page.text.index("digits (list) digits (test)") :]
    figures = [summary.clean_accuracy, *(summary.robust_accuracy[k] for k in (1, 2, 4, 8))]
    shown = re.findall(r"\d+\.\d", first_row)[: len(figures)]
    assert shown == [percent(share.value) for share in figures]


def test_runs_alike_are_not_called_unlike(runs, tmp_path):
    page = Page(render([runs["list"].path] * 2, tmp_path / "report.html"))
    assert "Not like for like" not in page.text


def test_runs_of_one_name_are_told_apart(tmp_path):
    for place in ("a/out", "b/out", "b/other"):
        write_run(tmp_path / place, *digits(5), budgets=[1])
    folders = [tmp_path / "a" / "out", tmp_path / "b" / "out", tmp_path / "b" / "other"]
    text = Page(render(folders, tmp_path / "report.html")).text
    for title in (f"digits ({folders[0]})", f"digits ({folders[1]})", "digits (other)"):
        assert text.count(title) == 3  # the table, the legend and its section


@pytest.mark.parametrize(
    ("name", "architecture", "title"),
    [
        ("sklearn.ensemble._forest.RandomForestClassifier", None, "RandomForestClassifier"),
        ("../runs/robust/", "lenet5", "robust"),
        ("package.module:load", "package.module.Net", "package.module:load"),
        ("digits", "small_cnn", "digits"),
    ],
)
def test_titles_are_short(tmp_path, name, architecture, title):
    """The whole name is in the provenance; data that were given as tensors are said once."""
    folder = write_run(tmp_path / "run", *digits(5), budgets=[1])
    run = folder.read()
    run["plan"]["model"] |= {"name": name, "architecture": architecture or name}
    run["plan"]["data"] |= {"name": "given", "split": "given"}
    folder.write(run)
    page = Page(render(folder.path, tmp_path / "report.html"))
    assert f"<title>{title} on given · zeronorm report</title>" in page.source
    assert f"<h1>{title}</h1>" in page.source and f"<p>{name}</p>" in page.source
    assert "given (given)" not in page.text


def test_what_a_class_is_read_as(runs, tmp_path):
    """A class, and how many of the broken ones were read so."""
    folder = runs["list"]
    text = Page(render(folder.path, tmp_path / "report.html")).text
    assert "broken within k = 8: most often read as" in text and "×" not in text.partition("Examples")[0]
    for one in summarise(folder.read(), folder.read_rows()).classes:
        if one.mistaken_for is not None:
            read_as, times = one.mistaken_for
            broken = one.clean.count - one.robust[8].count
            assert times <= broken and f" {read_as} in {times} of {broken}" in text


def test_allowed_positions_and_caps_are_told(tmp_path):
    threat = {"allowed": [1, 2, 3], "linf": 0.25}
    folder = write_run(tmp_path / "run", *digits(5), budgets=[1], threat=threat)
    text = Page(render(folder.path, tmp_path / "report.html")).text
    assert "of 64 pixels, to any value in [0, 1], by at most 0.25 each, and only among 3 of them." in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (250.0, "4 min 10 s"), (7500.0, "2 h 5 min")]
)
def test_durations(seconds, text):
    assert html.duration(seconds) == text


def test_no_runs_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"^runs: expected at least one run folder, got none"):
        render([], tmp_path / "report.html")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"^run: expected the folder of a run"):
        render([tmp_path], tmp_path / "report.html")


def test_an_unwritable_place_is_refused_and_nothing_is_left(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"^out: cannot write the report to "):
        render(runs["list"].path, tmp_path / "file" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArgumentError, match=r"^out: cannot write the report to "):
        render(runs["list"].path, tmp_path / "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row | {"values": row["values"][:-1]}, "run: expected 1 values for each"),
        (lambda row: row | {"positions": [64] * len(row["positions"])}, "run: expected 1 values for each"),
        (lambda row: row | {"positions": [-1] * len(row["positions"])}, "run: expected 1 values for each"),
    ],
)
def test_a_change_that_cannot_be_drawn_is_named(tmp_path, change, message):
    folder = write_run(tmp_path / "run", *digits(9), budgets=[30])
    rows = [change(row) if row["values"] else row for row in folder.read_rows().to_pylist()]
    folder.fold(rows, [{"example": id_, "x": x} for id_, x in folder.read_images().items()])
    with pytest.raises(ArgumentError, match=f"^{message}"):
        render(folder.path, tmp_path / "report.html")


def test_images_of_another_shape_are_named(tmp_path):
    folder = write_run(tmp_path / "run", *digits(9), budgets=[2])
    run = copy.deepcopy(folder.read())
    run["plan"]["data"]["shape"] = [1, 8, 9]
    folder.write(run)
    with pytest.raises(
        ArgumentError, match=r"^run: expected 72 values of example \d+ in images.parquet, got 64"
    ):
        render(RunFolder(folder.path).path, tmp_path / "report.html")


def test_colours_have_enough_contrast():
    """WCAG AA: 4.5 for text, 3 for the lines of charts, in light, dark and print."""
    css = (Path(html.__file__).parent / "templates" / "style.css").read_text()
    palettes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(palettes) == 3
    texts = [("ink", "paper"), ("soft", "paper"), ("accent", "paper"), ("wrong", "paper"), ("fine", "paper")]
    texts += [("warn-ink", "warn-paper"), ("warn-ink", "paper")]
    lines = [(f"{kind}{i}", "paper") for kind in ("ramp", "run") for i in range(6)] + [("accent", "track")]
    for palette in palettes:
        for pairs, least in ((texts, 4.5), (lines, 3.0)):
            for ink, paper in pairs:
                assert _contrast(palette[ink], palette[paper]) >= least, (ink, paper)


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits_ = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits_[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
