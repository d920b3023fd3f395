"""`zeronorm compare` from outside: what it prints, what it refuses, killed and resumed, verified, reported."""

from __future__ import annotations

import json
import random
import re

import pytest
from cli_process import Command

from zeronorm import models
from zeronorm.records.folders import ComparisonFolder, RunFolder

SEARCH = ("--limit", 10, "--k", "1,2", "--steps", 6, "--queries", 8)
ATTACKS = "sparse_pgd:gradient=projected,sparse_rs"


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A checkpoint of another model of digits."""
    folder = tmp_path_factory.mktemp("models") / "other"
    models.save(models.build("lenet_300_100", image_size=8), folder)
    return folder


@pytest.fixture(scope="module")
def complete(second, tmp_path_factory):
    """A complete comparison of two models by two attacks, and what the command said."""
    home = tmp_path_factory.mktemp("complete")
    words = ("compare", "--model", "digits", "--model", second, *SEARCH, "--attack", ATTACKS, "--json")
    command = Command(home, *words, "--out", home / "c")
    assert command.wait() == 0, command.stderr
    return home / "c", words, command


def told(command):
    out = command.stdout if isinstance(command, Command) else command.out
    return json.loads(out.splitlines()[-1])


def test_what_it_says(complete, second):
    folder, _, command = complete
    figures = told(command)
    assert figures["n"] == 10 and figures["complete"] and figures["run"] == str(folder)
    assert list(figures["models"]) == ["digits", str(second)]
    assert list(figures["models"]["digits"]["attacks"]) == ATTACKS.split(",")
    worst = figures["models"]["digits"]["worst_case"]["robust_accuracy"]
    for attack in figures["models"]["digits"]["attacks"].values():
        assert all(0 <= worst[k] <= attack["robust_accuracy"][k] <= 1 for k in ("1", "2"))
    assert len(figures["transfer"]) == 6
    said = command.stdout
    assert "digits (test), n = 10, L0 in pixels" in said
    assert len(re.findall("worst case", said)) == len(re.findall("95 % interval", said)) == 2
    assert re.search(
        r"digits, all attacks, on \S+other +right +[\d.]+ \(.*\), \d+ of \d+ fooled it too", said
    )
    assert f"report: {folder / 'report.html'}" in said and (folder / "report.html").exists()
    assert max(len(line) for line in said.splitlines()[:12]) < 120


def test_progress_says_which_run(complete):
    lines = complete[2].stderr.splitlines()
    for run in ("1/4 digits", "2/4 digits", "3/4 ", "4/4 "):
        assert any(line.startswith(run) and "passes/s" in line for line in lines)
    assert any(
        re.fullmatch(r"transfer  digits/sparse_rs on \S+: (\d+)/\1 done, .* passes/s", s) for s in lines
    )


def test_again_only_reads(complete, zeronorm):
    folder, words, command = complete
    before = (folder / "comparison.json").read_bytes()
    said = zeronorm(*words, "--out", folder)
    assert said.status == 0 and said.out == command.stdout and not said.err
    assert (folder / "comparison.json").read_bytes() == before


def test_killed_and_resumed(complete, tmp_path):
    folder, words, command = complete
    draw = random.Random(3)
    for _ in range(4):
        if not Command(tmp_path, *words, "--out", tmp_path / "c").kill_after(draw.uniform(0.3, 1.5)):
            break
    again = Command(tmp_path, *words, "--out", tmp_path / "c")
    assert again.wait() == 0, again.stderr
    timeless = re.compile(r'"seconds": [\d.]+|"run": "[^"]*"')
    assert timeless.sub("", again.stdout.splitlines()[-1]) == timeless.sub(
        "", command.stdout.splitlines()[-1]
    )
    for run in ComparisonFolder(folder).read()["runs"]:
        rows = [RunFolder(home / run["path"]).read_rows() for home in (folder, tmp_path / "c")]
        assert rows[0].equals(rows[1])
    transfers = [ComparisonFolder(home).read_transfers() for home in (folder, tmp_path / "c")]
    assert transfers[0].equals(transfers[1]) and len(transfers[0])


def test_verified_as_a_whole_and_run_by_run(complete, zeronorm):
    folder, *_ = complete
    said = zeronorm("verify", folder, "--json")
    assert said.status == 0 and "every claim holds" in said.out
    assert told(said)["predictions"] == 40 and told(said)["ok"]
    for run in ComparisonFolder(folder).read()["runs"]:
        assert zeronorm("verify", folder / run["path"]).status == 0
    said = zeronorm("verify", folder, "--model", "digits")
    assert said.status == 2 and said.err.startswith("zeronorm: model: expected NAME=MODEL, a NAME of digits")
    assert zeronorm("verify", folder, "--model", "digits=digits").status == 0


def test_reported_again_without_a_model(complete, zeronorm, tmp_path):
    folder, *_ = complete
    assert zeronorm("report", folder, "--html", tmp_path / "page.html").status == 0
    assert (tmp_path / "page.html").read_text() == (folder / "report.html").read_text()
    # beside others it stands for its runs
    assert (
        zeronorm("report", folder, folder / "digits/sparse_rs", "--html", tmp_path / "all.html").status == 0
    )
    assert "5 runs compared" in (tmp_path / "all.html").read_text()


def test_a_folder_of_its_own_for_every_question(zeronorm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("compare", "--limit", 3, "--k", 1, "--attack", "sparse_rs", "--queries", 3, "--json")
    runs = [told(zeronorm(*words, "--seed", seed))["run"] for seed in (0, 1, 0)]
    assert runs[0] == runs[2] != runs[1]
    assert all(re.fullmatch(r"runs/compare-digits-digits-[0-9a-f]{8}", run) for run in runs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--attack", "strong,sparse_rs,weak"), r"attack: expected some of sparse_pgd, .*, got 'strong', 'weak'"),
        (("--attack", "sparse_rs,sparse_rs"), "attack: expected different attacks, got 'sparse_rs' twice"),
        (("--attack", "sparse_rs,"), "attack: expected attacks with commas between them, got 'sparse_rs,'"),
        (("--attack", "sparse_rs:loss"), "attack: expected name:option=value, got 'sparse_rs:loss'"),
        (("--attack", "sparse_rs:slope=1"), "sparse_rs:slope=1 on digits: slope: sparse_rs has no such option.*"),
        (("--attack", "sparse_rs:loss=none"), "sparse_rs:loss=none on digits: loss: expected one of .*"),
        (("--attack", "sparse_rs", "--steps", 5), "steps: none of the attacks asked for takes it, only queries"),
        (("--model", "digits", "--model", "digits"), "model: expected different models, got 'digits' twice"),
        (("--k", "x"), "k: expected integers with commas between them.*"),
        (("--curve", -1), "curve: expected an integer of at least 1, got -1"),
        (("--k", 65), "k: expected .*"),
    ],
)  # fmt: skip
def test_refused_in_one_line_before_any_work(words, said, zeronorm, tmp_path):
    refused = zeronorm("compare", "--limit", 4, *words, "--out", tmp_path / "c")
    assert refused.status == 2 and not refused.out
    assert re.fullmatch(f"zeronorm: {said}\n", refused.err) or re.fullmatch(
        rf"zeronorm: \(1\) .*{said}.*\n", refused.err
    ), refused.err
    assert not (tmp_path / "c").exists()


def test_options_of_attacks_reach_the_plan(zeronorm, tmp_path):
    attack = "sparse_rs:loss=margin:restarts=2,sparse_rs:initial_fraction=0.3"
    said = zeronorm("compare", *SEARCH[:4], "--attack", attack, "--queries", 5, "--out", tmp_path)
    assert said.status == 0, said.err
    runs = [RunFolder(tmp_path / run["path"]).read() for run in ComparisonFolder(tmp_path).read()["runs"]]
    first, second = (run["plan"]["attack"]["stages"][0]["options"] for run in runs)
    assert (first["loss"], first["restarts"], first["queries"]) == ("margin", 2, 5)
    assert second["initial_fraction"] == 0.3
