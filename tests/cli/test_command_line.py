"""Every verb from outside: help, output, exit status, and one line when something cannot be used."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image

from zeronorm import data, models
from zeronorm.attacks import catalogue
from zeronorm.cli.list import LISTING, collect
from zeronorm.cli.main import app
from zeronorm.records.folders import ROWS, RunFolder

COMMANDS = typer.main.get_command(app).commands
SHORT = ("--limit", 12, "--k", "1,2", "--steps", 8, "--queries", 10)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A complete run, to look at."""
    import zeronorm as zn

    home = tmp_path_factory.mktemp("complete") / "run"
    digits = data.load("digits", "test", 12)
    zn.evaluate(
        models.load("digits"), digits, [zn.L0(1), zn.L0(2)], out=home, steps=8, queries=10, name="digits"
    )
    return home


@pytest.fixture
def run(complete, tmp_path):
    """A copy of it, to spoil."""
    shutil.copytree(complete, tmp_path / "run")
    return tmp_path / "run"


# -- help --------------------------------------------------------------------------------------------------


def test_the_verbs(zeronorm):
    said = zeronorm("--help")
    assert said.status == 0 and not said.err
    for verb in ("evaluate", "train", "report", "verify", "list", "bench"):
        assert verb in COMMANDS and re.search(rf"\b{verb}\b", said.out)


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_has_an_example_that_can_be_given(zeronorm, verb):
    said = zeronorm(verb, "--help")
    assert said.status == 0 and not said.err
    (example,) = re.findall(r"Example: (zeronorm .*)", said.out)
    program, first, *rest = shlex.split(example)
    assert (program, first) == ("zeronorm", verb)
    COMMANDS[verb].make_context(verb, rest)  # parses, and runs nothing


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_says_what_it_is_for(verb):
    for parameter in COMMANDS[verb].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evaluate", "--limit", "1.5"), "limit: expected an integer, got '1.5'"),
        (("compare", "--linf", "y"), "linf: expected a number, got 'y'"),
        (("matrix",), "Missing option '--out'."),
        (("list", "--frob"), "No such option: --frob"),
    ],
)
def test_a_value_of_the_wrong_kind(zeronorm, words, says):
    said = zeronorm(*words)
    assert said.status == 2 and said.err == f"zeronorm: {says}\n" and not said.out


@pytest.mark.parametrize("verb", ["leaderboard", "report", "verify"])
def test_a_path_that_is_none(zeronorm, verb):
    said = zeronorm(verb, "9" * 400)
    assert said.status == 2 and said.err.count("\n") == 1 and len(said.err) < 600, said.err


def test_version(zeronorm):
    from zeronorm import __version__

    assert zeronorm("--version").out == f"zeronorm {__version__}\n"


# -- evaluate ----------------------------------------------------------------------------------------------


def test_the_last_line_is_json(zeronorm, tmp_path):
    said = zeronorm("evaluate", *SHORT, "--out", tmp_path / "run", "--json")
    assert said.status == 0
    told = json.loads(said.out.splitlines()[-1])
    assert told["clean_accuracy"] == 1.0 and told["n"] == 12 and told["run"] == str(tmp_path / "run")
    assert told["robust_accuracy"].keys() == {"1", "2"}
    assert 0 <= told["robust_accuracy"]["2"] <= told["robust_accuracy"]["1"] <= 1
    assert "digits on digits (test), n = 12" in said.out
    assert f"report: {tmp_path / 'run/report.html'}" in said.out and (tmp_path / "run/report.html").exists()
    again = zeronorm("evaluate", *SHORT, "--out", tmp_path / "run", "--json")
    assert again.status == 0 and again.out == said.out and not again.err, "nothing is left to do"


def test_progress_where_there_is_no_terminal(zeronorm, tmp_path):
    said = zeronorm("evaluate", *SHORT, "--out", tmp_path / "run")
    lines = said.err.splitlines()
    assert lines[0].startswith("clean predictions: 12/12 done, correct 12")
    for line in lines[1:]:
        assert re.fullmatch(
            r"k=[12]  sparse_\S+( \(\w+\))?: (\d+)/\2 done, robust \d+/12  [\d,]+ passes/s", line
        )
    assert {line.partition(":")[0] for line in lines[1:4]} == {
        "k=1  sparse_pgd (unprojected)",
        "k=1  sparse_pgd (projected)",
        "k=1  sparse_rs",
    }


def test_lines_are_not_wrapped_where_there_is_no_terminal(zeronorm, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    said = zeronorm("evaluate", *SHORT, "--out", tmp_path / "run")
    assert all(line.startswith(("k=", "clean")) for line in said.err.splitlines())


def test_what_it_will_cost(zeronorm):
    words = ("bench", "--limit", 12, "--k", 1, "--steps", 6, "--queries", 9, "--rounds", 1, "--json")
    said = zeronorm(*words)
    assert said.status == 0 and "digits on digits (test), n = 12, k = 1" in said.out
    assert "1,000 examples like these take at most about" in said.out
    told = json.loads(said.out.splitlines()[-1])
    names = [f"sparse_pgd ({g})" for g in ("unprojected", "projected")] + ["sparse_rs"]
    assert [cost["attack"] for cost in told["costs"]] == names and told["n"] == 12
    for name, cost in zip(names, told["costs"], strict=True):
        assert re.search(rf"^{re.escape(name)} .* {100 * cost['right']:.1f} %", said.out, re.MULTILINE)
        assert cost["passes"] > 12 and cost["passes_per_second"] > 0
    refused = zeronorm("bench", "--attack", "sparse_rs", "--steps", 6)
    assert refused.status == 2 and "takes no steps" in refused.err
    none = zeronorm("bench", "--k", 0, "--limit", 4, "--attack", "sparse_rs,sparse_pgd", "--json")
    assert [cost["overhead"] for cost in json.loads(none.out.splitlines()[-1])["costs"]] == [None, None]


def test_a_curve(zeronorm, tmp_path):
    words = ("--limit", 12, "--curve", 5, "--steps", 8, "--queries", 10, "--out", tmp_path / "run", "--json")
    said = zeronorm("evaluate", *words)
    told = json.loads(said.out.splitlines()[-1])
    assert list(told["robust_accuracy"]) == ["0", "1", "2", "3", "4", "5"]
    assert told["median_distance"] >= 1
    assert RunFolder(tmp_path / "run").read()["plan"]["threat"]["curve"] is True


def test_options_reach_the_plan(zeronorm, tmp_path):
    words = "--k 3 --unit feature --low -0.5 --high 1.5 --linf 0.9 --seed 7 --precision bfloat16"
    attack = ("--attack", "sparse_rs, sparse-pgd", "--steps", 4, "--queries", 5, "--batch-size", 3)
    said = zeronorm(
        "evaluate", "--limit", 4, *words.split(), *attack, "--device", "cpu", "--out", tmp_path / "run"
    )
    assert said.status == 0, said.err
    run = RunFolder(tmp_path / "run").read()
    threat = run["plan"]["threat"]
    assert (threat["unit"], threat["low"], threat["high"], threat["linf"]) == ("feature", -0.5, 1.5, 0.9)
    assert threat["budgets"] == [3] and run["plan"]["seed"] == 7 and run["plan"]["precision"] == "bfloat16"
    stages = run["plan"]["attack"]["stages"]
    assert [stage["name"] for stage in stages] == ["sparse_rs", "sparse_pgd (unprojected)"]
    assert stages[0]["options"]["queries"] == 5 and stages[1]["options"]["steps"] == 4
    assert run["execution"]["batch_size"] == 3 and run["execution"]["device"] == "cpu"
    assert run["plan"]["model"]["name"] == "digits" and run["plan"]["data"]["n"] == 4


def test_a_folder_of_its_own_for_every_question(zeronorm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("evaluate", "--limit", 3, "--k", 1, "--attack", "sparse_rs", "--queries", 3, "--json")
    told = [json.loads(zeronorm(*words, "--seed", seed).out.splitlines()[-1])["run"] for seed in (0, 1, 0)]
    assert told[0] == told[2] != told[1]
    assert sorted(map(str, (tmp_path / "runs").iterdir())) == sorted(str(tmp_path / run) for run in told[:2])


MODULE = """
    import torch
    from torch import nn
    from zeronorm import models

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = models.load("digits")
        def forward(self, x):
            return self.inner(x)

    class Shop:
        model = Net()

    instance = Net()  # in training mode, as modules are born
    box = models.BlackBox(lambda a: instance.eval()(torch.from_numpy(a)).detach().numpy())

    def factory(pretrained=True):
        return models.load("digits")

    def function(x):
        return instance(x)

    def lazy():
        import another_module_of_mine
        return another_module_of_mine.instance

    def failing():
        raise KeyError("weights.bin")

    class Needy(nn.Module):
        def __init__(self, width):
            super().__init__()

    def of_width(width):
        return Net()

    def number():
        return 3

    def runs_out(x, asked=[]):
        asked.append(1)
        if len(asked) > 60:
            raise MemoryError("of this machine")
        return instance(x)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a module of one's own, to work in."""
    (tmp_path / "module_of_mine.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "another_module_of_mine.py").write_text("from module_of_mine import instance")
    (tmp_path / "broken_module_of_mine.py").write_text("def f(:")
    (tmp_path / "absent_module_of_mine.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("module_of_mine")]:
        del sys.modules[name]


@pytest.mark.parametrize("form", ["Net", "instance", "factory", "function", "box", "Shop.model", "lazy"])
def test_a_model_of_ones_own(zeronorm, mine, form):
    words = (
        "evaluate",
        "--model",
        f"module_of_mine:{form}",
        "--limit",
        6,
        "--k",
        2,
        "--queries",
        5,
        "--json",
    )
    said = zeronorm(*words, "--steps", 5, "--out", "run")
    assert said.status == 0, said.err
    assert json.loads(said.out.splitlines()[-1])["clean_accuracy"] == 1.0
    assert RunFolder("run").read()["plan"]["model"]["name"] == f"module_of_mine:{form}"
    assert "--trust" in zeronorm("verify", "run").err  # records may be anyone's
    assert zeronorm("verify", "run", "--trust").status == 0


def test_a_checkpoint_folder(zeronorm, tmp_path):
    digits = models.load("digits")
    models.save(digits, tmp_path / "checkpoint")
    said = zeronorm(
        "evaluate", "--model", tmp_path / "checkpoint", *SHORT, "--out", tmp_path / "run", "--json"
    )
    assert json.loads(said.out.splitlines()[-1])["clean_accuracy"] == 1.0
    assert zeronorm("verify", tmp_path / "run").status == 0


# -- what cannot be used -----------------------------------------------------------------------------------

BAD = {
    "--bogus 3": "No such option: --bogus",
    "--k": "Option '--k' requires an argument",
    "--limit many": "limit: expected an integer, got 'many'",
    "--limit 0": "limit: expected an integer of at least 1, got 0",
    "--k -1": "k: expected an integer of at least 0, got -1",
    "--k 1,x": "k: expected integers with commas between them, such as 1,2,4, got '1,x'",
    "--k 1,1": r"k: expected different budgets, got \[1, 1\]",
    "--k 65": "k: expected between 0 and 64, the number of pixels .*, got 65",
    "--k ''": "k: expected integers",
    "--curve -1": "curve: expected an integer of at least 1, got -1",
    "--curve 0": "curve: expected an integer of at least 1, got 0",
    "--curve 4 --k 2": "k: expected budgets or a curve, got --k 2 with --curve 4",
    "--curve 70": "k: expected between 0 and 64",
    "--unit pixels": "unit: expected one of pixel, feature, column, got 'pixels'",
    "--low 2": r"high: expected more than low \(2\), got 1",
    "--high 0.5": r"x: expected values in \[0, 0\.5\], got \[0, 1\]",
    "--linf 0": "linf: expected a number in",
    "--attack ,": "attack: expected attacks with commas between them, got ','",
    "--attack nothing": "attack: expected one of sparse_pgd, .*, got 'nothing'",
    "--attack sparse_rs,sparse_rs": "attack: expected different attacks, got 'sparse_rs' twice",
    "--attack sparse_rs:queries=x": "queries: expected an integer of at least 1, got 'x'",
    "--attack sparse_pgd:gradient=foo": "gradient: expected one of unprojected, projected, got 'foo'",
    "--attack sparse_pgd:steps=20,sparse_rs:queries=x": "queries: expected an integer of at least 1, got 'x'",
    "--attack sparse_pgd,sparse_rs:queries=x --queries 9 --steps 9": "queries: each attack that takes queries",
    "--attack sparse_rs:queries=50 --queries 20": "queries: each attack that takes queries was given its own",
    "--attack sparse_rs --steps 5": "steps: the attack asked for takes no steps, only queries",
    "--steps -1": "steps: expected an integer of at least 0, got -1",
    "--queries 0": "queries: expected an integer of at least 1, got 0",
    "--batch-size 0": "batch_size: expected an integer of at least 1, got 0",
    "--seed -1": "seed: expected an integer of at least 0, got -1",
    "--precision half": "precision: expected one of float32, bfloat16, got 'half'",
    "--device tpu": "device: expected auto, cpu or cuda, got 'tpu'",
    "--device meta": "device: expected auto, cpu or cuda, got 'meta'",
    "--device cuda:99": "device: expected a device that torch .* can use, got 'cuda:99': it sees .*; choose ",
    "--out /proc/zeronorm": "out: cannot write to /proc/zeronorm: No such file",
    "--out /dev/null": "out: cannot write to /dev/null: File exists",
    "--out file/run": "out: cannot write to file/run: Not a directory",
    "--data nothing": "data: expected one of digits, .*, got 'nothing'",
    "--data parquet:nowhere": ".*nowhere",
    "--data folder:nowhere": ".*nowhere",
    "--split nothing": "split: expected one of train, test, got 'nothing'",
    "--model nothing": r"model: expected a built-in model \(digits, .*\), an existing folder .*, got 'nothing'",
    "--model small_cnn": "model: expected a trained model, got the architecture small_cnn",
    "--model file": "model: expected a folder or a .safetensors",
    "--model .": r"model: expected the folder of a checkpoint, found no model\.json",
    "--model no_such_module:net": "model: cannot import 'no_such_module': ModuleNotFoundError",
    "--model broken_module_of_mine:f": "model: cannot import 'broken_module_of_mine': SyntaxError",
    "--model absent_module_of_mine:f": "model: cannot import .*: No module named 'no_such_library'",
    "--model module_of_mine:nothing": "model: 'module_of_mine' has no 'nothing'",
    "--model module_of_mine:failing": r"model: module_of_mine:failing\(\) failed: KeyError: 'weights.bin'",
    "--model module_of_mine:Needy": r"model: module_of_mine:Needy\(\) failed: TypeError: .*width",
    "--model module_of_mine:of_width": r"model: expected logits, got another model \(Net\): a function",
    "--model module_of_mine:number": "model: expected 'module_of_mine:number' to be or to return a callable, got int",
    "--model module_of_mine:box --attack sparse_pgd": "attack: sparse_pgd needs gradients, and this model gives none",
}


@pytest.mark.parametrize("words", BAD)
def test_one_line_and_status_two(zeronorm, mine, words):
    (mine / "file").write_text("mine")
    out = () if "--out" in words else ("--out", "run")
    said = zeronorm("evaluate", *out, *shlex.split(words))
    assert said.status == 2, said.err
    (line,) = said.err.splitlines()
    assert re.match(f"zeronorm: {BAD[words]}", line), line
    assert not said.out
    assert not (mine / "run").exists() and (mine / "file").read_text() == "mine"


def spoilt(name):
    def spoil(run):
        (run / name).write_bytes((run / name).read_bytes()[:-60])

    return spoil


@pytest.mark.parametrize("verb", ["evaluate", "verify", "report"])
@pytest.mark.parametrize("name", ["run.json", "rows.parquet", "images.parquet"])
def test_a_truncated_file_is_one_line(zeronorm, run, verb, name, tmp_path):
    spoilt(name)(run)
    words = {
        "evaluate": ("evaluate", *SHORT, "--out", run),
        "verify": ("verify", run),
        "report": ("report", run, "--html", tmp_path / "page.html"),
    }[verb]
    said = zeronorm(*words)
    if (verb, name) == ("evaluate", "images.parquet"):
        return  # complete: the figures do not need the pictures
    assert said.status == 2, said.err
    (line,) = said.err.splitlines()
    assert re.match(rf"zeronorm: run: .*{name}.* (damaged|cannot be read)", line), line


def test_another_plan_in_the_folder(zeronorm, run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    said = zeronorm("evaluate", *SHORT, "--seed", 1, "--out", run)
    assert said.status == 2
    assert said.err == (
        f"zeronorm: out: {run} holds another run (seed is 0 there, 1 here); choose another folder\n"
    )
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}, "nothing lost"


def test_a_model_that_fails_on_the_way(zeronorm, mine):
    said = zeronorm(
        "evaluate", "--model", "module_of_mine:runs_out", "--attack", "sparse_rs", *SHORT[:4], "--out", "run"
    )
    assert said.status == 1
    assert said.err.splitlines()[-1] == (
        "zeronorm: model: MemoryError: of this machine (ZERONORM_TRACEBACK=1 shows where)"
    )
    kept = RunFolder("run").read_rows().num_rows
    assert kept >= 12
    said = zeronorm("report", "run", "--html", "page.html")
    assert said.status == 0 and "unfinished" in Path("page.html").read_text()


# -- verify, report, list ----------------------------------------------------------------------------------


def test_verify_holds(zeronorm, run):
    said = zeronorm("verify", run)
    assert said.status == 0
    *told, last = said.out.splitlines()
    assert re.fullmatch(r"every claim holds: 12 clean predictions and \d+ adversarials re-checked.*", last)
    assert {line.partition(":")[0] for line in told} == {"confirmed", "not checked"}
    told = json.loads(zeronorm("verify", run, "--json").out.splitlines()[-1])
    assert told["ok"] is True and told["problems"] == [] and told["predictions"] == 12
    assert zeronorm("verify", run, "--model", "digits", "--data", "digits", "--device", "cpu").status == 0


def test_verify_fails_loudly(zeronorm, run):
    rows = pq.read_table(run / "rows.parquet", schema=ROWS).to_pylist()
    broken = next(row for row in rows if row["outcome"] == "broken")
    broken["values"][0] += 0.01
    pq.write_table(pa.Table.from_pylist(rows, schema=ROWS), run / "rows.parquet")
    said = zeronorm("verify", run, "--json")
    assert said.status == 1 and not said.err
    assert said.out.startswith("does not hold: rows: their digest differs")
    told = json.loads(said.out.splitlines()[-1])
    assert told["ok"] is False and len(told["problems"]) >= 2
    assert any(problem.startswith(f"example {broken['example']} ") for problem in told["problems"])


def test_verify_without_the_pictures(zeronorm, run):
    """No figure needs them: said, and no failure."""
    (run / "images.parquet").unlink()
    said = zeronorm("verify", run, "--json")
    assert said.status == 0
    assert re.match(r"note: images\.parquet lacks 12 of 12 pictures", said.out), said.out
    assert json.loads(said.out.splitlines()[-1])["notes"]


def test_verify_of_a_folder_that_changed(zeronorm, tmp_path):
    """Examples by their names; the digests of the command that made the run, of as many examples."""
    for digit in range(10):
        (tmp_path / "images" / str(digit)).mkdir(parents=True)
    digits = data.load("digits", "test", 6)
    for i, (x, y) in enumerate(zip(digits.x, digits.y, strict=True)):
        Image.fromarray((255 * x[0]).byte().numpy()).save(tmp_path / f"images/{y}/{i}.png")
    words = ("evaluate", "--data", f"folder:{tmp_path / 'images'}", *SHORT[2:], "--out", tmp_path / "run")
    assert zeronorm(*words).status == 0
    old = f"{digits.y[3]}/3.png"
    (tmp_path / "images" / old).rename((tmp_path / "images" / old).with_name("new.png"))
    said = zeronorm("verify", tmp_path / "run")
    assert said.status == 1
    lines = said.out.splitlines()
    assert f"does not hold: rows: the data lacks 1 example, such as {old}" in lines
    new = rf"does not hold: rows: \d+ are missing, of 1 example, such as {digits.y[3]}/new\.png"
    assert any(re.fullmatch(new, line) for line in lines)
    digest = re.search(r"digest of its 6 examples is (sha256:\w{12})", said.out)[1]
    assert digest in zeronorm(*words).err


def test_verify_of_another_model(zeronorm, run, mine):
    (mine / "twin_module_of_mine.py").write_text(
        "import torch\nfrom zeronorm import models\nnet = models.load('digits')\n"
        "with torch.no_grad():\n    next(net.parameters()).mul_(-1)\n"
    )
    said = zeronorm("verify", run, "--model", "twin_module_of_mine:net")
    assert said.status == 1 and "does not hold: model: digest is" in said.out
    assert said.out.count("\n") <= 22, "the first twenty, and how many more"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda told: told.pop("plan"), "it has no plan"),
        (lambda told: told["plan"].pop("model"), "expected plan.model.name in run.json to be str, got None"),
        (lambda told: told.update(format="zeronorm-run/9"), "expected format zeronorm-run/1"),
        (lambda told: told.update(status="running"), "expected a complete run"),
    ],
)
def test_verify_of_a_record_it_cannot_read(zeronorm, run, change, message):
    told = json.loads((run / "run.json").read_text())
    change(told)
    (run / "run.json").write_text(json.dumps(told))
    said = zeronorm("verify", run)
    assert said.status == 2
    (line,) = said.err.splitlines()
    assert line.startswith("zeronorm: run: ") and message in line


def test_verify_of_a_run_made_in_python(zeronorm, tmp_path):
    """Its data have no name to load them by: say which."""
    import zeronorm as zn

    digits = data.load("digits", "test", 5)
    zn.evaluate(models.load("digits"), (digits.x, digits.y), zn.L0(0), out=tmp_path / "run")
    for words, what in (((), "model"), (("--model", "digits"), "data")):
        said = zeronorm("verify", tmp_path / "run", *words)
        (line,) = said.err.splitlines()
        assert said.status == 2 and line.startswith(f"zeronorm: {what}: the run was made in Python"), line
        assert f"--{what}" in line and "zeronorm.verify(run, model, data)" in line
    said = zeronorm("verify", tmp_path / "run", "--model", "nothing")
    assert said.err.startswith("zeronorm: model: expected a built-in model")
    said = zeronorm("verify", tmp_path / "run", "--model", "digits", "--data", "digits", "--split", "test")
    assert said.status == 0, said.out


def test_nothing_there(zeronorm, tmp_path):
    for verb in ("verify", "report"):
        said = zeronorm(verb, tmp_path)
        assert said.status == 2
        assert said.err == f"zeronorm: run: expected the folder of a run, found no run.json in {tmp_path}\n"
        assert zeronorm(verb).status == 2


def test_report_of_several_runs(zeronorm, run, complete, tmp_path):
    page = tmp_path / "pages/both.html"
    said = zeronorm("report", run, complete, "--html", page)
    assert said.status == 0 and said.out == f"report: {page}\n"
    assert all(f'id="run-{i}"' in page.read_text() for i in (1, 2))
    said = zeronorm("report", run, "--html", "/proc/page.html")
    assert said.status == 2 and said.err.startswith(
        "zeronorm: out: cannot write the report to /proc/page.html"
    )


def test_list(zeronorm):
    said = zeronorm("list", "--json")
    told = json.loads(said.out)
    assert said.status == 0 and len(said.out.splitlines()) == 1
    assert [attack["name"] for attack in told["attacks"]] == list(catalogue)
    assert [model["name"] for model in told["models"]] == [model.name for model in models.available()]
    assert {row["name"]: row["what"] for row in told["data"]} == data.available()
    words = zeronorm("list").out
    for name in [*catalogue, *(m.name for m in models.available()), "digits", "cifar10"]:
        assert re.search(rf"^{re.escape(name)}\s", words, re.M), name


def test_the_listing_is_what_the_catalogues_say():
    assert json.loads(LISTING.read_text()) == collect(), "python -m zeronorm.cli.list writes it anew"


def test_without_a_verb_it_says_what_to_type_first(zeronorm):
    said = zeronorm()
    assert said.status == 0 and len(said.out.splitlines()) <= 7
    first = next(line for line in said.out.splitlines() if "evaluate --model digits" in line)
    assert zeronorm(*first.split("    ")[0].split()[1:], "--steps", "2", "--queries", "4").status == 0


# -- as a process ------------------------------------------------------------------------------------------


def test_the_installed_command(tmp_path):
    command = [Path(sys.executable).parent / "zeronorm", "evaluate"]
    words = [*map(str, SHORT), "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["n"] == 12
    assert all(": " in line for line in done.stderr.splitlines())
    told = json.loads((tmp_path / "run/run.json").read_text())
    assert told["command"] == shlex.join(["zeronorm", "evaluate", *words])
    bad = subprocess.run([*command, "--bogus"], capture_output=True, text=True)
    assert bad.returncode == 2 and len(bad.stderr.splitlines()) == 1 and not bad.stdout


def test_who_reads_no_further(tmp_path):
    """A closed pipe is not an error worth a word."""
    command = f"{shlex.quote(str(Path(sys.executable).parent / 'zeronorm'))} list --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
