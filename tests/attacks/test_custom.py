"""An attack of one's own: what it is called, told and known by."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import jaxtyping
import pytest
import torch

from zeronorm import L0, ArgumentError
from zeronorm.attacks import custom
from zeronorm.attacks.custom import source_digest


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def mine(model, x, y, threat, steps=5, *, gain=2.0, seed=0, ids=None):
    return helper(x)


def helper(x):
    return x.clone()


def greedy(model, x, y, threat, **options):
    return x


def test_what_it_takes():
    own = custom(mine, options={"gain": 3.0})
    assert (own.name, own.shown, own.kind, own.knowledge) == ("mine", "custom mine", "budget", None)
    assert own.options == {"steps": 5, "gain": 3.0} and own.costs == ("steps",)
    assert own.takes("seed") and own.takes("ids") and not own.takes("start") and not own.takes("queries")
    assert custom(greedy).takes("anything") and custom(greedy).costs == ()
    assert custom(greedy, options={"queries": 7}).costs == ("queries",)
    x = torch.rand(2, 3)
    assert torch.equal(own(None, x, None, L0(1), seed=3), x)


def test_a_partial_is_its_function_with_options():
    assert custom(partial(mine, steps=0)).options == {"steps": 0, "gain": 2.0}
    assert custom(partial(partial(mine, steps=0), steps=1, gain=0.5), options={"gain": 1.0}).options == {
        "steps": 1,
        "gain": 1.0,
    }
    assert custom(partial(mine, steps=0)).identity == custom(mine).identity


def test_identity_is_the_source_and_what_it_refers_to():
    def made(body, constant=1):
        space = {"__name__": "theirs"}
        exec(
            f"C = {constant}\ndef helper(x):\n    return x * C\ndef attack(m, x, y, t):\n    return {body}",
            space,
        )
        return space["attack"]

    one = source_digest(made("helper(x)"))
    assert one == source_digest(made("helper(x)")) and one.startswith("sha256:")
    assert len({one, source_digest(made("x")), source_digest(made("helper(x)", 2))}) == 3

    def closed(value):
        return lambda m, x, y, t: x + value

    assert source_digest(closed(1)) == source_digest(closed(1)) != source_digest(closed(2))

    class Holds:
        def __init__(self, value):
            self.value = value

        def __call__(self, m, x, y, t):
            return x

        def method(self, m, x, y, t):
            return x

    assert source_digest(Holds(1)) == source_digest(Holds(1)) != source_digest(Holds(2))
    assert source_digest(Holds(1).method) == source_digest(Holds(1).method) != source_digest(Holds(2).method)


def test_the_same_in_another_process(tmp_path):
    (tmp_path / "theirs.py").write_text("K = 3\ndef attack(m, x, y, t, *, steps=K):\n    return x\n")
    code = "import theirs; from zeronorm.attacks import custom; print(custom(theirs.attack).identity)"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(told) == 1 and "'module': 'theirs', 'function': 'attack', 'source': 'sha256:" in told.pop()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"name": "sparse_pgd"},
            r"attack: sparse_pgd is an attack of the catalogue, and this function is not",
        ),
        ({"name": "sparse-rs"}, r"attack: sparse-rs is an attack of the catalogue"),
        ({"name": ""}, r"name: expected a word or a few"),
        ({"name": "a\nb"}, r"name: expected a word or a few"),
        ({"name": "\x1b[2J"}, r"name: expected a word or a few"),
        ({"kind": "best"}, r"kind: expected one of budget, minimal"),
        ({"knowledge": "grey"}, r"knowledge: expected one of white, black, decision"),
        ({"options": {"width": 1}}, r"width: mine has no such option; it has steps, gain"),
        ({"options": {"gain": torch.ones(1)}}, r"gain: expected plain numbers and words, .* got Tensor"),
        ({"options": {"seed": 1}}, r"options: seed is the evaluation's to say"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        custom(mine, **arguments)
    with pytest.raises(ArgumentError, match=r"^function: expected a callable, got int"):
        custom(3)
    with pytest.raises(ArgumentError, match=r"^function: expected a partial of keywords only"):
        custom(partial(mine, None))
