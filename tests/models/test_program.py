"""Whole models in files of torch: told from weights without being run, and read for who trusts them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import zeronorm as zn
from zeronorm.cli.model import resolve_model
from zeronorm.errors import ArgumentError
from zeronorm.models.program import load_program, program_kind

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.9)).eval()


@pytest.fixture(scope="module")
def files(network, tmp_path_factory):
    home = tmp_path_factory.mktemp("programs")
    torch.save(network.state_dict(), home / "weights.pt")
    torch.save(network, home / "whole.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old files are still about
        torch.jit.trace(network, torch.zeros(2, 1, 8, 8)).save(home / "script.pt")
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, home / "exported.pt2")
    return home


KINDS = {
    "whole.pt": "a pickled model",
    "script.pt": "a TorchScript program",
    "exported.pt2": "an exported program",
}


@pytest.mark.parametrize("name", KINDS)
def test_who_trusts_it_gets_the_model(files, network, name):
    kind = program_kind(files / name)
    assert kind is not None and kind[0] == KINDS[name]
    with pytest.raises(ArgumentError, match=rf"expected weights, got .*{KINDS[name]}.*--trust"):
        resolve_model(str(files / name), CPU)
    model = resolve_model(str(files / name), CPU, trust=True)
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
    scaled = resolve_model(f"{files / name}:range=255", CPU, trust=True)
    torch.testing.assert_close(scaled(x), network(255 * x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_evaluated(files, name):
    data = zn.data.load("digits", limit=6)
    found = zn.evaluate(resolve_model(str(files / name), CPU, trust=True), data, zn.L0(2), steps=3, queries=4)
    assert found.summary.n == 6


def test_weights_are_no_program(files):
    assert program_kind(files / "weights.pt") is None
    with pytest.raises(ArgumentError, match="got weights or another file"):
        load_program(files / "weights.pt")


def test_bare_weights_with_their_architecture(tmp_path):
    model = zn.models.build("lenet_300_100", image_size=8)
    torch.save(model.network.state_dict(), tmp_path / "w.pt")
    again = resolve_model(f"{tmp_path / 'w.pt'}:architecture=lenet_300_100:image_size=8", CPU)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(again(x), model.eval()(x))


def test_what_cannot_be_read(files, tmp_path):
    content = (files / "whole.pt").read_bytes()
    (tmp_path / "whole.pt").write_bytes(content.replace(b"Linear", b"Lanear"))
    with pytest.raises(
        ArgumentError, match=r"^model: expected a model in .*whole.pt, got weights or another file"
    ):
        load_program(tmp_path / "whole.pt")
