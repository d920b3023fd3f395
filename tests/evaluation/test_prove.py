"""`prove=True`: survivors of the attacks are proved, broken or left unknown, in the records of the run."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.cli.main import run as command_line
from zeronorm.evaluation.verify import sample_size
from zeronorm.records.folders import RunFolder, digest_rows

SHORT = {"steps": 3, "queries": 3}


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(7)
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        network[1].weight *= 3.0
    return network


@pytest.fixture(scope="module")
def data(model):
    x = images(12)
    return x, model(x).argmax(1)


def nothing(model, x, y, threat):
    """An attack that leaves everything to the proofs."""
    model(x)
    return x


def rows(run) -> list[dict]:
    return RunFolder(run).read_rows().to_pylist()


@pytest.fixture(scope="module")
def proved(model, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("proved") / "run"
    return zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], nothing, out, prove=True)


def test_proved_equals_broken(proved):
    """A small network is decided completely; a grid over every pair of pixels finds nothing more."""
    for k in (1, 2):
        assert proved.certified_accuracy[k] == proved.robust_accuracy[k]
    table = proved.table()
    assert table.count("exactly") == 2 and "bound_propagation" in table
    assert set(proved.as_json()["certified_accuracy"]) == {"1", "2"}


def test_no_grid_point_breaks_what_is_proved(proved, model, data):
    x, y = data
    values = torch.linspace(0, 1, 9)
    withstood = {row["example"] for row in rows(proved.run) if row["outcome"] == "proved" and row["k"] == 1}
    assert withstood
    for i in withstood:
        for pixel in range(9):
            changed = x[i].repeat(len(values), 1, 1, 1)
            changed.view(len(values), 9)[:, pixel] = values
            assert bool((model(changed).argmax(1) == y[i]).all())


def test_counterexamples_are_adversarials_like_any_other(proved, model, data):
    found = [row for row in rows(proved.run) if row["attack"] == "bound_propagation"]
    assert {row["outcome"] for row in found} == {"broken", "proved"}
    checked = zn.verify(proved.run, model, data, everything=True)
    assert checked, checked.problems
    assert checked.adversarials == sum(row["outcome"] == "broken" for row in rows(proved.run))


def test_nobody_is_proved_twice(proved):
    of_prover = [row for row in rows(proved.run) if row["attack"] == "bound_propagation"]
    assert len({(row["example"], row["k"]) for row in of_prover}) == len(of_prover)


def test_a_forged_proof_is_found(proved, model, data, tmp_path):
    folder = RunFolder(tmp_path / "forged")
    table, record = rows(proved.run), RunFolder(proved.run).read()
    forged = next(row for row in table if row["outcome"] == "broken" and row["attack"] == "bound_propagation")
    forged |= {"outcome": "proved", "prediction": forged["label"], "distance": None, "linf": None}
    forged |= {"positions": None, "values": None, "margin": 1.0}
    record["rows_digest"] = folder.fold(table, [])
    record["summary"] = None
    folder.write(record)
    said = zn.verify(folder.path, model, data, everything=True)
    assert any("not proved when tried again" in line for line in said.problems + said.notes)


def test_a_curve_is_exact_too(model, data):
    found = zn.evaluate(model, data, zn.L0(3), "sparse_rs", queries=3, curve=True, prove=True)
    for k in range(4):
        assert found.certified_accuracy[k] == found.robust_accuracy[k]
    assert zn.verify(found.run, model, data)


def test_a_killed_proof_goes_on(model, data, proved, tmp_path, monkeypatch):
    """After each row in turn, as often as it takes: the run ends with the same verdicts."""
    out = tmp_path / "run"

    class Killed(Exception):
        pass

    append, left = RunFolder.append, 0

    def failing(self, some):
        nonlocal left
        append(self, some)
        left -= 1
        if left < 0:
            raise Killed

    monkeypatch.setattr(RunFolder, "append", failing)
    for left in (1, 2, 100):  # noqa: B007
        try:
            zn.evaluate(model, data, [zn.L0(1), zn.L0(2)], nothing, out, prove=True)
        except Killed:
            continue
    verdicts = {(r["example"], r["k"], r["stage"]): r["outcome"] for r in rows(out)}
    assert verdicts == {(r["example"], r["k"], r["stage"]): r["outcome"] for r in rows(proved.run)}
    assert digest_rows(RunFolder(out).read_rows()).startswith("sha256:")


def test_time_that_runs_out_is_unknown(model, data):
    found = zn.evaluate(model, data, [zn.L0(2), zn.L0(3)], "sparse_rs", queries=3, prove=True, seconds=1e-9)
    unknown = [row for row in rows(found.run) if row["outcome"] == "unknown"]
    assert unknown and len({row["example"] for row in unknown}) == len(unknown), "given up on once"
    assert found.certified_accuracy[3] <= found.robust_accuracy[3]
    assert zn.verify(found.run, model, data)


class Odd(nn.Module):
    def forward(self, x):
        return torch.stack([x.flatten(1).sum(1).sin(), x.flatten(1).prod(1)], 1)


def test_refusals(data, model):
    with pytest.raises(
        ArgumentError, match=r"prove: no certificate accepts this model .*bound_propagation: "
    ):
        zn.evaluate(Odd().eval(), (data[0], data[1] % 2), zn.L0(1), "sparse_rs", queries=3, prove=True)
    with pytest.raises(ArgumentError, match=r"seconds: expected none without prove, got 3\.0"):
        zn.evaluate(model, data, zn.L0(1), "sparse_rs", queries=3, seconds=3.0)
    with pytest.raises(ArgumentError, match="seconds: expected"):
        zn.evaluate(model, data, zn.L0(1), "sparse_rs", queries=3, prove=True, seconds=-1.0)


def test_on_the_command_line(tmp_path, capsys):
    words = ["evaluate", "--model", "digits", "--limit", "3", "--k", "1", "--steps", "5", "--queries", "5"]
    out = str(tmp_path / "run")
    assert command_line([*words, "--prove", "--seconds", "60", "--out", out, "--json"]) == 0
    said = capsys.readouterr().out
    told = json.loads(said.splitlines()[-1])
    assert "exactly" in said and told["certified_accuracy"] == told["robust_accuracy"]
    assert command_line(["verify", out]) == 0


def test_a_forest_of_exact_answers():
    from sklearn.ensemble import RandomForestClassifier

    d = zn.data.load("digits", "train", limit=300)
    x, y = d.x.flatten(1).double(), d.y
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(x.numpy(), y.numpy())
    some = (x[:6], torch.from_numpy(forest.predict(x[:6].numpy())))
    threats = [zn.L0(k, unit="feature") for k in (1, 2)]
    found = zn.evaluate(zn.models.from_sklearn(forest), some, threats, "sparse_rs", queries=20, prove=True)
    assert found.certified_accuracy[2] == found.robust_accuracy[2]
    assert "tree_ensemble" in found.table() and zn.verify(found.run, zn.models.from_sklearn(forest), some)


def test_enough_proofs_are_made_again():
    assert sample_size(10) == 10 and 50 < sample_size(1000) < 100
