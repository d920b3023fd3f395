"""The leaderboard: figures from counts, ranked; a stranger's file can neither lie about a run nor write the page."""

from __future__ import annotations

import json

import pytest

from zeronorm import ArgumentError, records, report
from zeronorm.cli.main import run
from zeronorm.records.results import ABOUT, read_result


@pytest.fixture
def result(runs):
    return records.result_of(runs["list"].path)


def write(folder, result, name="entry.json", **changes):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(result | changes))
    return folder / name


def other(result, name, **changes):
    """An entry of somebody else."""
    return result | {"about": {"name": name}, "plan_digest": f"sha256:{name}"} | changes


def test_a_result_says_what_the_report_says(runs, result):
    from zeronorm.records.folders import RunFolder

    folder = RunFolder(runs["list"].path)
    summary = report.summarise(folder.read(), folder.read_rows())
    assert result["n"] == summary.n and result["clean"] == summary.clean_accuracy.count
    assert result["robust"] == {str(k): summary.robust_accuracy[k].count for k in summary.budgets}
    assert list(result["about"]) == list(ABOUT)
    assert len(json.dumps(result)) < 4000


def test_saved_and_read_again(runs, result, tmp_path):
    path = records.save_result(result, tmp_path)
    assert read_result(path) == result and path.suffix == ".json" and path.name.startswith("digits")
    write(tmp_path, result | {"about": result["about"] | {"notes": "by hand"}}, path.name)
    records.save_result(records.result_of(runs["list"].path, {"name": "Mine"}), tmp_path)
    assert read_result(path)["about"] == dict.fromkeys(ABOUT, "") | {"notes": "by hand", "name": "Mine"}


def test_the_best_first_on_a_board_of_its_own_kind(result, tmp_path):
    k = max(result["robust"], key=int)
    least = {name: 0 for name in result["robust"]}
    best = {name: result["clean"] for name in result["robust"]}
    write(tmp_path, other(result, "worst", robust=least), "a.json")
    write(tmp_path, other(result, "best", robust=best), "b.json")
    write(tmp_path, other(result, "one budget", robust={"1": 0}), "c.json")
    write(tmp_path, other(result, "elsewhere", threat=result["threat"] | {"unit": "feature"}), "d.json")
    write(tmp_path, other(result, "on others", data=result["data"] | {"digest": "sha256:other"}), "e.json")
    write(tmp_path, other(result, "wider", threat=result["threat"] | {"low": -1.0}), "f.json")
    boards, problems = records.read_boards([tmp_path])
    assert not problems and len(boards) == 4
    titles = sorted(board.title for board in boards)
    (n, k_) = result["n"], max(board.ranked_by for board in boards)
    what = f"each by at most {result['threat']['linf']:g}, ranked at k = {k_}"
    assert f"digits (test), n = {n}: changed features, {what}" in titles
    assert f"digits (test), n = {n}: changed pixels, {what}, within [-1, 1]" in titles
    ours = next(board for board in boards if len(board.entries) == 3)
    assert [entry.name for entry in ours.entries] == ["best", "worst", "one budget"]
    assert ours.ranked_by in ours.budgets and not any(entry.checked for entry in ours.entries)
    told = records.leaderboard_json(boards)
    shares = {entry["name"]: entry["robust_accuracy"] for board in told for entry in board["entries"]}
    assert shares["best"][k] == result["clean"] / result["n"] and shares["worst"][k] == 0
    text = records.leaderboard_table(boards)
    assert text.index("best") < text.index("worst") and "as reported" in text


def test_what_is_proved_has_a_board_of_its_own(runs, tmp_path, capsys):
    """Counted by hand in the radii; ranked where the best proves half of what it reads."""
    import zeronorm as zn

    data = zn.data.load("digits", "test", 30)
    found = {}
    for name, seed in (("one", 0), ("other", 1)):
        model = zn.models.build(
            "l0_lipschitz", in_channels=1, image_size=8, classes=10, patches=2, seed=seed
        ).eval()
        found[name] = zn.certify(model, data, out=tmp_path / name, name=name)
    words = [str(tmp_path / name) for name in found] + [str(runs["list"].path)]
    assert run(["leaderboard", *words, "--html", str(tmp_path / "page.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["boards"]
    attacked, proved = told
    assert "robust_accuracy" in attacked["entries"][0]
    assert proved["title"].startswith(
        "digits (test), n = 30: proved, whatever k pixels become, ranked at k = "
    )
    for entry in proved["entries"]:
        summary = found[entry["name"]].summary
        for k, value in entry["certified_accuracy"].items():
            assert value == sum(radius >= int(k) for radius in summary.radii) / 30
    page = (tmp_path / "page.html").read_text()
    assert "Proved by" in page and "Searched by" in page and "Every figure is a lower bound" in page
    saved = records.save_result(records.result_of(tmp_path / "one"), tmp_path / "results")
    boards, problems = records.read_boards([tmp_path / "results", tmp_path / "one"])
    assert not problems and boards[0].proved and boards[0].entries[0].checked
    write(tmp_path / "results", read_result(saved) | {"claim": "attacked"}, saved.name)
    assert records.read_boards([tmp_path / "results", tmp_path / "one"])[1]


def test_a_run_speaks_for_its_file(runs, result, tmp_path):
    write(tmp_path, result | {"about": {"name": "Mine", "link": "https://example.org/paper"}})
    boards, problems = records.read_boards([tmp_path, runs["list"].path])
    (entry,) = boards[0].entries
    assert (
        entry.checked and entry.name == "Mine" and entry.link == "https://example.org/paper" and not problems
    )
    write(tmp_path, result | {"robust": {k: result["clean"] for k in result["robust"]}})
    boards, problems = records.read_boards([tmp_path, runs["list"].path])
    assert boards[0].entries[0].record["robust"] == result["robust"]
    assert len(problems) == 1 and "robust is" in problems[0]


def test_rows_that_were_changed_make_no_result(runs, tmp_path):
    import shutil

    import pyarrow.parquet as pq

    shutil.copytree(runs["list"].path, tmp_path / "run")
    rows = pq.read_table(tmp_path / "run/rows.parquet")
    pq.write_table(rows.slice(0, rows.num_rows - 1), tmp_path / "run/rows.parquet")
    with pytest.raises(ArgumentError, match=r"their digest is not that of run.json"):
        records.result_of(tmp_path / "run")
    with pytest.raises(ArgumentError, match="expected a complete run"):
        records.result_of(runs["unfinished_list"].path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "expected format zeronorm-result/1"),
        ({"claim": "sure"}, "expected claim in .* to be one of attacked, proved, got 'sure'"),
        ({"n": "60"}, "expected n in .* to be int, got '60'"),
        ({"n": True}, "expected n in .* to be int"),
        ({"n": 1}, "that fall from n"),
        ({"clean": -1, "robust": {"1": -2}}, "that fall from n"),
        ({"robust": {}}, "to count right answers by budget"),
        ({"robust": {"x": 1}}, "to count right answers by budget"),
        ({"robust": {"1": 0.5}}, "to count right answers by budget"),
        ({"robust": {"1": 2, "2": 3}}, "that fall from n"),
        ({"model": {}}, "expected model.name in .* to be str, got None"),
        ({"about": {"name": ["a"]}}, "about and warnings in .* to be text"),
        ({"command": "x" * 1_000_001}, "at most 1,000,000 bytes"),
        ({"about": {"name": "half \ud800"}}, "entry.json cannot be read: .*surrogates"),
        ({"seed": float("nan")}, "entry.json cannot be read: NaN is not a number"),
    ],
)
def test_files_that_are_not_results(result, tmp_path, changes, said):
    write(tmp_path, result, **changes)
    with pytest.raises(ArgumentError, match=said):
        records.read_boards([tmp_path])


def test_the_title_of_a_ball(result, tmp_path):
    """All features, each a little: the cap is the adversary, not the number of features."""
    entries = {str(8 * 8): 3}
    threat = result["threat"] | {"unit": "feature", "linf": 0.1}
    write(tmp_path, other(result, "one", threat=threat, robust=entries))
    ((board,), _) = records.read_boards([tmp_path])
    assert board.title.endswith(": every value by at most 0.1")


def test_nothing_to_read(tmp_path):
    with pytest.raises(ArgumentError, match="results: expected run folders or result files"):
        records.read_boards([tmp_path])
    (tmp_path / "bad.json").write_text("[" * 100_000)
    with pytest.raises(ArgumentError, match=r"bad.json cannot be read"):
        records.read_boards([tmp_path])


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[31m"


def test_strangers_cannot_write_the_page(result, tmp_path):
    hostile = result | {
        "about": dict.fromkeys([*ABOUT, "<b>"], HOSTILE) | {"link": "javascript:alert(3)"},
        "model": {"name": HOSTILE, "digest": HOSTILE, "architecture": HOSTILE},
        "data": {"name": HOSTILE, "split": HOSTILE},
        "attack": {"name": HOSTILE, "stages": [{"name": HOSTILE, "options": {HOSTILE: HOSTILE}}, HOSTILE]},
        "versions": {HOSTILE: HOSTILE}, "warnings": [HOSTILE], "command": HOSTILE, "rows_digest": HOSTILE,
    }  # fmt: skip
    write(tmp_path, hostile)
    boards, _ = records.read_boards([tmp_path])
    page = report.render_leaderboard(boards, [HOSTILE], tmp_path / "page.html").read_text()
    assert "<script" not in page and "<img" not in page and "javascript:" not in page and "<b>" not in page
    assert page.count("&lt;script&gt;") > 10
    assert "\x1b" not in records.leaderboard_table(boards)


def test_links_are_of_the_web(result, tmp_path):
    for number, link in enumerate(
        ["https://example.org/a?b=c", "http://x", "file:///etc", 'https://x"y', "//x"]
    ):
        write(
            tmp_path, other(result, str(number), about={"name": str(number), "link": link}), f"{number}.json"
        )
    boards, _ = records.read_boards([tmp_path])
    links = {entry.name: entry.link for entry in boards[0].entries}
    assert links == {"0": "https://example.org/a?b=c", "1": "http://x", "2": None, "3": None, "4": None}


def test_the_command(runs, result, tmp_path, capsys):
    words = [
        "leaderboard",
        str(runs["list"].path),
        "--save",
        str(tmp_path / "results"),
        "--about",
        "name=Mine",
        "--json",
    ]
    assert run([*words, "--html", str(tmp_path / "page.html")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["boards"][0]["entries"][0]["name"] == "Mine" and told["problems"] == []
    assert ">Mine<" in (tmp_path / "page.html").read_text().replace("<wbr>", "")
    (path,) = (tmp_path / "results").iterdir()
    write(tmp_path / "results", read_result(path) | {"clean": result["n"]}, path.name)
    assert run(["leaderboard", str(tmp_path / "results"), str(runs["list"].path)]) == 1
    assert "does not hold: Mine: clean is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--about", "name=x"], "about: expected one run and a folder"),
        (["--about", "name", "--save", "x"], "about: expected key=text, got 'name'"),
        (
            ["--about", "colour=red", "--save", "x"],
            "about: expected one of name, authors, link, venue, notes, got",
        ),
    ],
)
def test_what_cannot_be_said(runs, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert run(["leaderboard", str(runs["list"].path), *words]) == 2
    assert said in capsys.readouterr().err
