"""`verify` is an auditor: what can be computed again is, a sample nobody could foresee stands for what costs too much,
and the rest is listed as not checked."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_runs import SHORT, dataset, network

import zeronorm as zn
from zeronorm import models
from zeronorm.cli.main import run as command_line
from zeronorm.evaluation.plan import digest
from zeronorm.evaluation.result import summary_of
from zeronorm.evaluation.verify import UNCHECKED, sample_size
from zeronorm.records.certificate_figures import certified_json, summarise_certificates
from zeronorm.records.folders import CERTIFICATES, ROWS, CertificateFolder, RunFolder, digest_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the digits model: folder, model and data."""
    folder = tmp_path_factory.mktemp("made") / "run"
    model, data = models.load("digits"), zn.data.load("digits", "test", 24)
    zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], "sparse_rs", folder, queries=40, name="digits")
    return folder, model, data


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the run to forge, the model and the data."""
    folder, model, data = made
    shutil.copytree(folder, tmp_path / "run")
    return RunFolder(tmp_path / "run"), model, data


def forge(folder, change, rows=None):
    """Change run.json, with digests, summary and page as its author would have made them."""
    told = folder.read()
    change(told)
    if rows is not None:
        table = pa.Table.from_pylist(rows, schema=ROWS)
        pq.write_table(table, folder.table, write_page_checksum=True)
        told |= {"rows_digest": digest_rows(table), "summary": summary_of(told, table)}
    told["plan_digest"] = digest(told["plan"])
    folder.write(told)
    zn.report.render(folder.path, folder.page)


def test_an_honest_run_is_confirmed_in_figures(made):
    folder, model, data = made
    result = zn.verify(folder, model, data)
    assert result.ok and result.unchecked == list(UNCHECKED)
    right = zn.Evaluation(folder)
    assert result.figures[0] == f"unchanged: {right.summary.clean_accuracy} right"
    assert result.figures[1:] == [
        f"k = {k}: at most {right.summary.robust_accuracy[k]} right" for k in (1, 2)
    ]


def test_a_page_may_be_moved_but_not_edited(copy):
    folder, model, data = copy
    assert zn.verify(folder.path, model, data), "its path is another than the page names"
    page = folder.page.read_text()
    share = zn.Evaluation(folder.path).robust_accuracy[1]
    for old, new in (
        (f"{100 * share:.1f}", "95.0"),
        ("Nothing suspicious", "All is well"),
        ("</html>", "</html> "),
    ):
        if old in page:
            folder.page.write_text(page.replace(old, new))
            problems = zn.verify(folder.path, model, data).problems
            assert problems == ["report.html: it is not the page that the records give"]
    folder.page.unlink()
    result = zn.verify(folder.path, model, data)
    assert result.ok and "there is no report.html: zeronorm report makes it" in result.notes


FORGED = {
    "no diagnosis": (lambda told: told.update(diagnosis=[]), "diagnosis: what was found is "),
    "another wording": (
        lambda told: told["diagnosis"][-1].update(meaning="all is well"),
        "diagnosis: what was found is worded otherwise than in the run",
    ),
    "a check more": (
        lambda told: told["checks"].append("nothing can go wrong"),
        "diagnosis: what was looked at is ",
    ),
    "architecture": (
        lambda told: told["plan"]["model"].update(architecture="resnet50"),
        "model: architecture is ",
    ),
    "accuracy": (
        lambda told: told["plan"]["model"]["accuracy"].update(value=0.999),
        "model: accuracy is ",
    ),
    "a fact more": (lambda told: told["plan"]["model"].update(certified="yes"), "model: certified is None"),
    "parameters": (lambda told: told["plan"]["model"].update(parameters=10**9), "model: parameters is "),
    "class names": (lambda told: told["plan"]["data"]["class_names"].reverse(), "data: class_names is "),
    "number of examples": (lambda told: told["plan"]["data"].update(n=23), "data: n is 24, the run says 23"),
    "queries": (
        lambda told: told["plan"]["attack"]["stages"][0]["options"].update(queries=10_000),
        "passes, fewer than the 10000 that its search takes at least",
    ),
    "differentiable": (
        lambda told: told["plan"]["model"].update(differentiable=False),
        "model: differentiable is",
    ),
    "a figure within a finding": (
        lambda told: told["diagnosis"][-1].update(advice=told["diagnosis"][-1]["advice"].replace("104", "2")),
        "diagnosis: what was found is worded otherwise than in the run",
    ),
    "words of its own": (lambda told: told.update(audited="by NIST"), "run.json: no run says audited"),
    "words of the threat": (
        lambda told: told["plan"]["threat"].update(note="all"),
        "run.json: no run says note",
    ),
    "words of the attack": (
        lambda told: told["plan"]["attack"].update(version="plus"),
        "no run says version",
    ),
    "words of the data": (
        lambda told: told["plan"]["data"].update(source="NIST"),
        "no run on these says source",
    ),
    "a plan of its own": (
        lambda told: told["plan"].update(strength="all"),
        "run.json: no run says strength",
    ),
    "precision": (
        lambda told: told["plan"].update(precision="float128"),
        "plan: no run has the precision float128",
    ),
    "what the attacks are called": (
        lambda told: told["plan"]["attack"].update(name="sparse_autoattack"),
        "plan: its stages are sparse_rs, the run calls them sparse_autoattack",
    ),
    "an option that no attack has": (
        lambda told: told["plan"]["attack"]["stages"][0]["options"].update(thorough=True),
        "plan: no stage is called sparse_rs, with such options, for sparse_rs",
    ),
    "an attack that there is not": (
        lambda told: told["plan"]["attack"]["stages"][0].update(attack="sparse_rs2"),
        "plan: no stage is called sparse_rs, with such options, for sparse_rs2",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_facts_are_named(copy, what):
    change, said = FORGED[what]
    folder, model, data = copy
    forge(folder, change)
    result = zn.verify(folder.path, model, data)
    assert not result.figures and any(said in problem for problem in result.problems), result.problems


def own(model, x, y, threat, *, steps=5):
    for _ in range(steps):
        model(x)
    return x


@pytest.mark.parametrize("called", ["sparse_autoattack", "sparse_rs", "own"])
@pytest.mark.parametrize("where", ["its name", "its name and the attack's"])
def test_an_attack_of_ones_own_under_another_name_is_named(called, where, tmp_path):
    model = network()
    data = dataset(model)
    zn.evaluate(model, data, zn.L0(1), own, tmp_path / "run")
    assert zn.verify(tmp_path / "run", model, data)
    folder = RunFolder(tmp_path / "run")
    rows = folder.read_rows().to_pylist()

    def change(told):
        told["plan"]["attack"]["name"] = called
        told["plan"]["attack"]["stages"][0]["name"] = called
        if where != "its name":
            told["plan"]["attack"]["stages"][0]["attack"] = called
        for row in rows:
            row["attack"] = called if row["stage"] == 0 else row["attack"]

    forge(folder, change, rows)
    problems = zn.verify(folder.path, model, data).problems
    assert f"plan: no stage is called {called}, with such options" in problems[0]


@pytest.mark.parametrize(
    ("attack", "lengths"),
    [
        ("sparse_autoattack", {"queries": 9}),
        ("sparse-pgd", {}),
        (["sparse_pgd", "sparse_rs"], {"queries": 9}),
        ("sigma_zero", {}),
    ],
)
def test_attacks_by_their_own_names_are_confirmed(attack, lengths, tmp_path):
    model = network()
    zn.evaluate(model, dataset(model), zn.L0(1), attack, tmp_path, steps=4, **lengths)
    assert zn.verify(tmp_path, model, dataset(model)).problems == []


@pytest.mark.parametrize("after", [" # 95 %, confirmed by an auditor", " --data 95%", "95 %"])
def test_nothing_stands_beside_the_folder_that_a_page_names(copy, after):
    folder, model, data = copy
    told = json.loads(folder.json.read_text()) | {"command": "zeronorm evaluate"}
    folder.json.write_text(json.dumps(told))
    zn.report.render(folder.path, folder.page)
    page = folder.page.read_text()
    named = f"zeronorm verify {folder.path}"
    assert named in page and zn.verify(folder.path, model, data)
    folder.page.write_text(page.replace(named, named + after))
    assert zn.verify(folder.path, model, data).problems == [
        "report.html: it is not the page that the records give"
    ]
    folder.page.write_text(page.replace(named, "zeronorm verify '/elsewhere/its run'".replace("'", "&#39;")))
    assert zn.verify(folder.path, model, data)
    # one word, which a shell takes for a folder and for nothing else
    for other in ("'a'; rm -r b; echo 'c'", "--help", "a b"):
        folder.page.write_text(page.replace(named, f"zeronorm verify {other}".replace("'", "&#39;")))
        assert not zn.verify(folder.path, model, data), other


def test_files_that_are_of_no_run_are_noted(copy):
    folder, model, data = copy
    (folder.path / "index.html").write_text("95 %")
    notes = zn.verify(folder.path, model, data).notes
    assert "the folder holds files of no run, which nobody looked at: index.html" in notes


def test_a_picture_more_is_damage(copy):
    folder, model, data = copy
    table = pq.read_table(folder.images)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), folder.images)
    with pytest.raises(zn.ArgumentError, match="is damaged: an example has two pictures"):
        zn.verify(folder.path, model, data)


def test_a_margin_that_is_no_number_is_named(copy):
    folder, model, data = copy
    rows = folder.read_rows().to_pylist()
    next(row for row in rows if row["outcome"] == "robust")["margin"] = float("nan")
    forge(folder, lambda told: None, rows)
    assert any(
        "margin is at least 0, the run says nan" in p for p in zn.verify(folder.path, model, data).problems
    )


def test_a_name_that_stands_twice_is_none_of_json(copy):
    folder, model, data = copy
    text = folder.json.read_text()
    folder.json.write_text(text.replace('"seed": 0', '"seed": 5, "seed": 0'))
    with pytest.raises(zn.ArgumentError, match="a name stands twice in one object"):
        zn.verify(folder.path, model, data)


@pytest.mark.parametrize("passes", [0, 3])
def test_searches_without_their_passes_are_named(copy, passes):
    folder, model, data = copy
    rows = folder.read_rows().to_pylist()
    row = next(row for row in rows if row["outcome"] == "robust")
    row["forwards"] = passes
    forge(folder, lambda told: None, rows)
    problems = zn.verify(folder.path, model, data).problems
    assert any(f"{passes} passes, fewer than the 40 that its search takes" in problem for problem in problems)


def test_a_number_beyond_all_numbers_is_none_of_json(copy):
    folder, model, data = copy
    text = folder.json.read_text()
    folder.json.write_text(text.replace('"seed": 0', '"seed": 1e400'))
    with pytest.raises(zn.ArgumentError, match="1e400 is beyond every number"):
        zn.verify(folder.path, model, data)


def test_no_control_characters_in_a_page(tmp_path):
    model = network()
    data = dataset(model, n=4)
    named = zn.data.Dataset(
        data.x, data.y, data.ids, "odd", "test", data.class_names, ("a\x1b[2J", "b", "c", "d")
    )
    run = zn.evaluate(model, named, zn.L0(1), "sparse_rs", tmp_path, queries=9).run
    assert "\x1b" not in (run / "report.html").read_text() and zn.verify(run, model, named)


# -- certificates ------------------------------------------------------------------------------------------


def test_the_size_of_a_sample():
    """Against the hypergeometric law, computed apart; few rows are all made again."""
    from scipy.stats import hypergeom

    for n in (10, 20, 60, 100, 500, 10_000):
        size, forged = sample_size(n), max(1, -(-n // 20))
        assert hypergeom.pmf(0, n, forged, size) <= 0.05
        assert size == 0 or hypergeom.pmf(0, n, forged, size - 1) > 0.05
    assert sample_size(10_000) == 59 and sample_size(20) == 19 and sample_size(0) == 0


class Watched(torch.nn.Module):
    """Counts the rows it is asked for."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.rows = inner, 0
        self.eval()

    def forward(self, x):
        self.rows += len(x)
        return self.inner(x)


@pytest.fixture(scope="module")
def votes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("votes") / "run"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(50, 4)).eval()
    data = dataset(network(), n=40)
    zn.certify(base, data, "randomized_ablation", folder, retained=8, n0=20, n=60)
    return folder, base, data


def test_votes_are_cast_again_for_a_sample_that_is_said(votes):
    folder, base, data = votes
    watched = Watched(base)
    result = zn.verify_certificates(folder, base, data)
    assert result.ok and any(
        f"the votes of {sample_size(40)} of 40 examples, drawn by chance just now" in note
        for note in result.notes
    )
    assert result.figures[0].startswith("unchanged: ")
    every = zn.verify_certificates(folder, base, data, everything=True)
    assert every.ok and "the votes of all 40 examples were made again" in every.notes
    del watched


@pytest.mark.slow
def test_a_forger_of_five_per_cent_is_caught_nearly_always(votes, tmp_path):
    """Two rows of forty with votes that were never cast, consistent in every other way."""
    folder, base, data = votes
    forged = CertificateFolder(shutil.copytree(folder, tmp_path / "run"))
    rows = forged.read_rows().to_pylist()
    for row in rows[7:9]:
        best = max(range(4), key=lambda j: row["counts"][j])
        row["counts"] = [60 if j == best else 0 for j in range(4)]
    told = forged.read()
    from zeronorm.certification.catalogue import get
    from zeronorm.evaluation.certify import _judged

    judged = _judged(
        rows, told["plan"]["method"]["options"], told["plan"]["data"]["shape"], get("randomized_ablation")
    )
    rows = [row | more for row, more in zip(rows, judged, strict=True)]
    table = pa.Table.from_pylist(rows, schema=CERTIFICATES)
    pq.write_table(table, forged.table, write_page_checksum=True)
    told |= {"rows_digest": digest_rows(table)}
    told["summary"] = certified_json(summarise_certificates(told, table))
    forged.write(told)
    zn.report.render(forged.path, forged.page)
    caught = sum(not zn.verify_certificates(forged.path, base, data).ok for _ in range(40))
    assert caught >= 33  # of 95 % in 40, below 33 with probability 0.0005
    assert not zn.verify_certificates(forged.path, base, data, everything=True).ok


# -- comparisons -------------------------------------------------------------------------------------------


def test_names_in_a_comparison_are_those_of_its_runs(model, data, tmp_path):
    both = {"a": model, "b": network(seed=3)}
    zn.compare(both, data, zn.L0(1), {"weak": "sparse_rs"}, tmp_path, queries=5)
    assert zn.verify_comparison(tmp_path, both, data)
    told = json.loads((tmp_path / "comparison.json").read_text())
    for change, said in (
        (
            lambda runs: runs[0].update(attack="sparse_autoattack"),
            "its attack is sparse_rs, it is called sparse_auto",
        ),
        (lambda runs: runs[0].update(model="b"), "a/weak"),
        (
            lambda runs: runs[0].update(attack="sparse_rs:queries=100000"),
            "it is called sparse_rs:queries=100000, queries is 5",
        ),
    ):
        runs = json.loads(json.dumps(told["runs"]))
        change(runs)
        (tmp_path / "comparison.json").write_text(json.dumps(told | {"runs": runs}))
        assert any(said in problem for problem in zn.verify_comparison(tmp_path, both, data).problems)
    (tmp_path / "comparison.json").write_text(json.dumps(told, indent=1))
    page = tmp_path / "report.html"
    page.write_text(page.read_text().replace("weak", "strong"))
    assert zn.verify_comparison(tmp_path, both, data).problems == [
        "report.html: it is not the page that the records give"
    ]


# -- the command line --------------------------------------------------------------------------------------


def test_what_was_made_in_python_is_verified_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_in_python.py").write_text(
        "import torch, zeronorm as zn\n"
        "net = zn.models.load('digits')\n"
        "def model():\n"
        "    return zn.models.BlackBox(lambda a: net(torch.from_numpy(a)).detach().numpy(), name='box')\n"
        "def data():\n"
        "    d = zn.data.load('digits', 'test', 12)\n"
        "    return d.x, d.y\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import made_in_python as theirs

    zn.evaluate(theirs.model(), theirs.data(), zn.L0(1), "sparse_rs", "run", queries=9)
    assert command_line(["verify", "run"]) == 2
    assert "--model package.module:callable" in capsys.readouterr().err
    words = [
        "verify",
        "run",
        "--model",
        "made_in_python:model",
        "--data",
        "made_in_python:data",
        "--trust",
        "--json",
    ]
    assert command_line(words) == 0
    out = capsys.readouterr().out
    assert "confirmed: unchanged: 100.0 %" in out and "not checked: that an example was not broken" in out
    told = json.loads(out.splitlines()[-1])
    assert told["ok"] and told["figures"] and told["unchecked"] == list(UNCHECKED)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "zeronorm.verify(" in page and "run" in page
    # what it prints works as printed
    model, data = theirs.model(), theirs.data()
    assert eval("zeronorm.verify('run', model, data)", {"zeronorm": zn, "model": model, "data": data})


def test_models_of_a_comparison_are_named_one_by_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    networks = {"mine": models.load("digits"), "yours": models.load("digits-robust")}
    zn.compare(networks, zn.data.load("digits", "test", 12), zn.L0(1), "sparse_rs", "both", queries=5)
    assert command_line(["verify", "both", "--model", "mine=digits", "--model", "yours=digits-robust"]) == 0
    assert command_line(["verify", "both", "--model", "mine=digits", "--model", "yours=digits"]) == 1
    assert "yours" in capsys.readouterr().out
    assert command_line(["verify", "both", "--model", "nobody=digits"]) == 2
    assert "expected NAME=MODEL, a NAME of mine, yours" in capsys.readouterr().err


def test_a_short_search_is_not_called_long(model, data, tmp_path):
    """`SHORT` searches hold; the same rows under a plan of more steps do not."""
    run = RunFolder(zn.evaluate(model, data, zn.L0(1), "sparse_pgd", tmp_path, steps=SHORT["steps"]).run)
    assert zn.verify(run.path, model, data)
    forge(run, lambda told: told["plan"]["attack"]["stages"][0]["options"].update(steps=10_000))
    assert any("fewer than the 10000" in problem for problem in zn.verify(run.path, model, data).problems)


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    """Certificates with a time limit: folder, model and data."""
    folder = tmp_path_factory.mktemp("proved") / "run"
    model = network()
    data = dataset(model, 6)
    zn.certify(model, data, "bound_propagation", threats=[zn.L0(1)], seconds=5.0, out=folder)
    return folder, model, data


FORGED_PROOFS = {
    "arithmetic": (
        lambda told, rows: told["plan"]["method"].update(arithmetic="deployed"),
        "method: arithmetic is real, the run says deployed",
    ),
    "words of its own": (lambda told, rows: told.update(audited=1), "run.json: no run says audited"),
    "a plan of its own": (
        lambda told, rows: told["plan"].update(strength=1),
        "run.json: no run says strength",
    ),
    "a finding": (lambda told, rows: told.update(diagnosis=["all is well"]), "diagnosis is []"),
    "margins": (
        lambda told, rows: [row.update(margin=10**6) for row in rows],
        "margin is None, the run says",
    ),
    "passes": (lambda told, rows: [row.update(passes=-1) for row in rows], "it says -1 passes"),
}


@pytest.mark.parametrize("what", FORGED_PROOFS)
def test_forged_certificates_are_named(proved, what, tmp_path):
    source, model, data = proved
    shutil.copytree(source, tmp_path / "run")
    folder = CertificateFolder(tmp_path / "run")
    told, rows = folder.read(), folder.read_rows().to_pylist()
    assert zn.verify_certificates(folder.path, model, data)
    change, said = FORGED_PROOFS[what]
    change(told, rows)
    table = pa.Table.from_pylist(rows, schema=CERTIFICATES)
    pq.write_table(table, folder.table, write_page_checksum=True)
    told |= {"rows_digest": digest_rows(table), "plan_digest": digest(told["plan"])}
    told["summary"] = certified_json(summarise_certificates(told, table))
    folder.write(told)
    zn.report.render(folder.path, folder.page)
    result = zn.verify_certificates(folder.path, model, data)
    assert not result.figures and any(said in problem for problem in result.problems), result.problems


def test_a_matrix_says_what_its_models_are_and_no_more(tmp_path):
    one, two = network(), network(seed=5)
    named, data = {"one": one, "two": two}, dataset(one, 8)
    zn.matrix(named, data, [zn.L0(1)], ["sparse_rs"], tmp_path / "m", queries=8)
    result = zn.verify_matrix(tmp_path / "m", named, data)
    assert result.ok and "that no other model or attack was tried and left out" in result.unchecked
    path = tmp_path / "m" / "matrix.json"
    honest = json.loads(path.read_text())
    for change, said in (
        (lambda told: told["models"].pop(), "matrix: its models is ['one', 'two'], the run says ['one']"),
        (lambda told: told.update(audited=1), "matrix.json: no matrix says audited"),
        (lambda told: told["models"][0].update(award="first"), "matrix.json: no matrix says award"),
    ):
        told = json.loads(json.dumps(honest))
        change(told)
        path.write_text(json.dumps(told))
        zn.report.render(tmp_path / "m", tmp_path / "m" / "report.html")
        problems = zn.verify_matrix(tmp_path / "m", named, data).problems
        assert any(said in problem for problem in problems), problems
