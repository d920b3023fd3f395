"""A folder is tied to its model by answers: a name alone never identifies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_runs import Fragile, dataset, network
from torch import nn

import zeronorm as zn
from zeronorm import models
from zeronorm.attacks.batch_under_attack import TILE
from zeronorm.cli.main import run as command_line
from zeronorm.integrations import AutoAttack
from zeronorm.models import BlackBox

OTHER = r"^out: .* holds the answers of another model: "
QUICK = {"steps": 12, "queries": 16}


@pytest.fixture(scope="module")
def others():
    """Two networks that differ, and the data of the first."""
    one, two = network(), network(seed=5)
    return one, two, dataset(one)


def scores(net):
    def function(a):
        with torch.no_grad():
            return net(torch.from_numpy(a)).numpy()

    return function


def test_the_same_function_of_other_weights(tmp_path):
    """The example that was wrong: a lambda has no digest, and every lambda has the same name."""
    net, rob = models.load("digits"), models.load("digits-robust")
    d = zn.data.load("digits", "test", limit=40)
    threats, k = [zn.L0(1), zn.L0(2)], {"steps": 50, "queries": 200}
    found = zn.evaluate(lambda x: rob(x), (d.x, d.y), threats, out=tmp_path / "o", **k)
    assert dict(found.robust_accuracy.items()) == {1: 0.85, 2: 0.375}
    with pytest.raises(zn.ArgumentError, match=OTHER):
        zn.evaluate(lambda x: net(x), (d.x, d.y), threats, out=tmp_path / "o", **k)
    truth = zn.evaluate(lambda x: net(x), (d.x, d.y), threats, out=tmp_path / "p", **k)
    assert dict(truth.robust_accuracy.items()) == {1: 0.625, 2: 0.075}


class Wrapped:
    """A model whose weights no digest sees."""

    def __init__(self, net):
        self.net = net

    def __call__(self, x):
        return self.net(x)


class Outside(nn.Module):
    """A network with weights that are not in its state dict."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]
        self.eval()

    def forward(self, x):
        return self.nets[0](x)


@pytest.mark.parametrize("wrap", [Wrapped, Outside, lambda net: BlackBox(scores(net), name="box")])
def test_models_without_a_digest_of_their_weights(others, wrap, tmp_path):
    one, two, data = others
    attack = {"attack": "sparse_rs", "queries": 9}
    zn.evaluate(wrap(one), data, zn.L0(1), out=tmp_path, **attack)
    assert zn.evaluate(wrap(one), data, zn.L0(1), out=tmp_path, **attack).summary.complete
    with pytest.raises(zn.ArgumentError, match=OTHER):
        zn.evaluate(wrap(two), data, zn.L0(1), out=tmp_path, **attack)


def test_scikit_learn(tmp_path):
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    x = generator.random((80, 6)).astype(np.float32)
    fits = [LogisticRegression().fit(x, (x[:, i] > 0.5).astype(int)) for i in (0, 3)]
    data = torch.from_numpy(x), torch.from_numpy((x[:, 0] > 0.5).astype(np.int64))
    for i, expected in ((0, None), (0, None), (1, OTHER)):
        model = models.from_sklearn(fits[i])
        if expected is None:
            zn.evaluate(model, data, zn.L0(1), "sparse_rs", tmp_path, queries=9)
        else:
            with pytest.raises(zn.ArgumentError, match=expected):
                zn.evaluate(model, data, zn.L0(1), "sparse_rs", tmp_path, queries=9)


def test_a_run_that_was_interrupted(others, tmp_path):
    one, two, data = others
    fragile = Fragile(one)
    fragile.left, fragile.error = 12, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        zn.evaluate(Wrapped(fragile), data, zn.L0(1), out=tmp_path, name="same", **QUICK)
    with pytest.raises(zn.ArgumentError, match=OTHER):
        zn.evaluate(Wrapped(two), data, zn.L0(1), out=tmp_path, name="same", **QUICK)
    resumed = zn.evaluate(Wrapped(one), data, zn.L0(1), out=tmp_path, name="same", **QUICK)
    assert resumed.robust_accuracy == zn.evaluate(one, data, zn.L0(1), **QUICK).robust_accuracy


def test_a_randomised_model_goes_on(others, tmp_path):
    one, _, data = others

    class Noisy(Wrapped):
        def __call__(self, x):
            z = self.net(x)
            return z + 0.05 * torch.randn_like(z)

    for _ in range(2):
        zn.evaluate(Noisy(one), data, zn.L0(1), "sparse_rs", tmp_path, queries=5)


def test_comparisons_and_certificates(others, tmp_path):
    one, two, data = others
    zn.compare({"m": Wrapped(one)}, data, zn.L0(1), "sparse_rs", tmp_path / "both", queries=5)
    with pytest.raises(zn.ArgumentError, match=OTHER):
        zn.compare({"m": Wrapped(two)}, data, zn.L0(1), "sparse_rs", tmp_path / "both", queries=5)
    bases = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            bases.append(nn.Sequential(nn.Flatten(), nn.Linear(50, 4)).eval())
    votes = {"method": "randomized_ablation", "retained": 8, "n0": 50, "n": 50}
    certified = zn.certify(Outside(bases[0]), data, out=tmp_path / "votes", **votes)
    again = zn.certify(Outside(bases[0]), data, out=tmp_path / "votes", **votes)
    assert again.records.equals(certified.records)
    with pytest.raises(zn.ArgumentError, match=OTHER):
        zn.certify(Outside(bases[1]), data, out=tmp_path / "votes", **votes)


def test_autoattack(others, tmp_path):
    one, two, data = others
    for i, net in enumerate((one, one, two)):
        adversary = AutoAttack(Wrapped(net), eps=1.0, steps=5, queries=5, verbose=False)
        if i < 2:
            adversary.run_standard_evaluation(data.x, data.y, state_path=tmp_path)
        else:
            with pytest.raises(zn.ArgumentError, match=OTHER):
                adversary.run_standard_evaluation(data.x, data.y, state_path=tmp_path)


def test_code_that_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["evaluate", "--model", "changing:model", "--limit", "12", "--k", "1", "--attack", "sparse_rs"]
    words += ["--queries", "5", "--out", "run"]
    code = "import zeronorm as zn\nnet = zn.models.load({!r})\ndef model(x):\n    return net(x)\n"
    import sys

    for name, status in (("digits", 0), ("digits", 0), ("digits-robust", 2)):
        sys.modules.pop("changing", None)
        (tmp_path / "changing.py").write_text(code.format(name) + f"# {name}\n")
        import importlib

        importlib.invalidate_caches()
        assert command_line(words) == status
    assert "holds the answers of another model" in capsys.readouterr().err


def test_a_plain_run_pays_nothing_and_one_picked_up_a_few_passes(others, tmp_path):
    one, _, data = others

    class Counts(Wrapped):
        rows = 0

        def __call__(self, x):
            self.rows += len(x)
            return self.net(x)

    def spent(**options):
        model = Counts(one)
        evaluation = zn.evaluate(model, data, zn.L0(1), "sparse_rs", tmp_path / "run", queries=400, **options)
        return model.rows, evaluation

    fresh, evaluation = spent()
    again, _ = spent()
    searched = sum(row["forwards"] for row in evaluation.records.to_pylist())
    look = again - 16  # at the model, before the search: every run does this; the 16 tell whose folder it is
    assert 0 < look <= 20 + TILE + 1 and searched <= fresh
