"""Saving and loading: what comes back is what was saved, or one line says what is wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import warnings

import pytest
import safetensors.torch
import torch

from zeronorm import models
from zeronorm.errors import ArgumentError


@pytest.fixture
def model():
    return models.build("small_cnn", image_size=8, width=0.1, mean=[0.3], std=[0.4], seed=3).eval()


@pytest.fixture
def folder(model, tmp_path):
    models.save(model, tmp_path / "model", accuracy={"value": 0.5})
    return tmp_path / "model"


def refused(source, match, **arguments):
    with pytest.raises(ArgumentError, match=match) as caught:
        models.load(source, **arguments)
    assert "\n" not in str(caught.value)


class TestRoundTrip:
    @pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "small_cnn", "resnet20"])
    def test_the_same_logits_and_digest(self, name, tmp_path):
        saved = models.build(name, in_channels=2, image_size=(16, 20), classes=4, seed=1)
        with torch.no_grad():  # in training mode, so that the statistics of batch norm move
            saved(torch.rand(8, 2, 16, 20))
        models.save(saved, tmp_path)
        loaded = models.load(tmp_path)
        x = torch.rand(3, 2, 16, 20)
        assert torch.equal(loaded(x), saved.eval()(x)) and not loaded.training
        assert models.digest(loaded) == models.digest(saved)
        assert (loaded.architecture, loaded.arguments) == (saved.architecture, saved.arguments)

    def test_precision_and_memory_format_survive(self, model, tmp_path):
        models.save(model.double(), tmp_path)
        loaded = models.load(str(tmp_path))
        x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
        assert loaded(x).dtype == torch.float64 and torch.equal(loaded(x), model(x))
        models.save(model.to(memory_format=torch.channels_last), tmp_path)
        assert models.digest(models.load(tmp_path)) == models.digest(loaded)

    def test_the_sidecar_is_readable_and_the_record_knows_it(self, model, folder):
        sidecar = json.loads((folder / "model.json").read_text())
        assert sidecar["format"] == "zeronorm-model/1"
        assert sidecar["architecture"] == "small_cnn" and sidecar["arguments"]["width"] == 0.1
        assert sidecar["accuracy"] == {"value": 0.5}
        facts = models.describe(models.load(folder))
        assert facts == {key: value for key, value in sidecar.items() if key != "format"}
        assert facts == models.describe(model)  # saving made the facts known
        assert json.loads(json.dumps(facts)) == facts
        assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]

    def test_a_weights_file_beside_its_sidecar_is_the_checkpoint(self, folder):
        assert models.load(folder / "model.safetensors").architecture == "small_cnn"


class TestDigest:
    def test_changes_with_any_weight_or_normalisation_and_with_nothing_else(self, model):
        digest = models.digest(model)
        assert digest.startswith("sha256:") and len(digest) == 71
        assert models.digest(model.train().requires_grad_(False)) == digest
        with torch.no_grad():
            model.network[0].weight[0, 0, 0, 0] += 1e-6
        assert models.digest(model) != digest
        other = models.build("small_cnn", image_size=8, width=0.1, mean=[0.3], std=[0.5], seed=3)
        assert models.digest(other) != digest

    def test_describes_models_of_others(self, model):
        facts = models.describe(torch.nn.Linear(3, 2))
        assert facts["architecture"] == "torch.nn.modules.linear.Linear" and facts["parameters"] == 8
        assert models.describe(refused) == {"architecture": f"{__name__}.refused"}


class TestDamage:
    def test_truncated_weights(self, folder):
        weights = folder / "model.safetensors"
        for size in (0, 5, 200, weights.stat().st_size - 1):
            os.truncate(weights, size)
            refused(folder, "model.safetensors is damaged or not safetensors")

    def test_one_changed_bit(self, folder):
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-7] ^= 1
        weights.write_bytes(content)
        refused(folder, "is damaged: expected weights of digest sha256:.*, got sha256:")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ("not json", "model.json cannot be read"),
            ([], "expected format zeronorm-model/1 in .*, got 'list'"),
            (
                {"format": "zeronorm-model/9"},
                "expected format zeronorm-model/1 in .*, got 'zeronorm-model/9'",
            ),
            ({"architecture": "vgg"}, r"model.json is damaged: model: expected one of .*, got 'vgg'"),
            ({"architecture": None}, r"model.json is damaged: model: expected one of .*, got 'None'"),
            ({"arguments": {"widht": 1}}, "model.json is damaged: widht: expected arguments of small_cnn"),
            ({"arguments": [1]}, "model.json is damaged"),
            (
                {"architecture": "lenet_300_100", "arguments": {}},
                "expected the 6 tensors of lenet_300_100 in .*, got",
            ),
            (
                {"arguments": {}},
                r"of another shape \(such as 0.weight: \(64, 1, 4, 4\) here, \(6, 1, 4, 4\) there\)",
            ),
            ({"digest": None}, "expected weights of digest None"),
        ],
    )
    def test_sidecar(self, folder, change, match):
        path = folder / "model.json"
        if isinstance(change, dict):
            change = json.loads(path.read_text()) | change
        path.write_text(change if isinstance(change, str) else json.dumps(change))
        refused(folder, match)

    def test_missing_files(self, folder, tmp_path):
        (folder / "model.safetensors").unlink()
        refused(folder, "expected the weights .*model.safetensors, found no such file")
        (folder / "model.json").unlink()
        refused(folder, "expected the folder of a checkpoint, found no model.json")

    def test_a_failed_save_leaves_the_old_checkpoint(self, folder, monkeypatch):
        before = models.digest(models.load(folder))
        other = models.build("lenet_300_100")

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(
            ArgumentError, match=r"path: cannot write .*model.safetensors: No space left on device"
        ):
            models.save(other, folder)
        assert models.digest(models.load(folder)) == before
        assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]

    def test_a_folder_that_cannot_be_written(self, model, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ArgumentError, match=r"path: cannot write .*file"):
            models.save(model, tmp_path / "file")

    def test_what_cannot_be_saved(self, model, tmp_path):
        with pytest.raises(ArgumentError, match=r"model: expected a model made by .*build, got Linear"):
            models.save(torch.nn.Linear(2, 2), tmp_path)
        with pytest.raises(ArgumentError, match="facts: expected values that JSON can hold"):
            models.save(model, tmp_path, accuracy=float("nan"))
        with pytest.raises(ArgumentError, match=r"facts: expected names other than format, .*, got 'digest'"):
            models.save(model, tmp_path, digest="x")
        assert list(tmp_path.iterdir()) == []


class _Malicious:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


class TestBareWeights:
    def test_files_of_tensors(self, model, tmp_path):
        weights = model.network.state_dict()
        wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
        torch.save(weights, tmp_path / "a.pt")
        torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "b.pth")
        safetensors.torch.save_file(weights, tmp_path / "c.safetensors")
        for name in ("a.pt", "b.pth", "c.safetensors"):
            loaded = models.load(tmp_path / name, architecture="small-cnn", **model.arguments)
            assert models.digest(loaded) == models.digest(model) and not loaded.training
            refused(tmp_path / name, "architecture: expected one of .* for the bare weights in .*, got None")
            refused(tmp_path / name, "expected the 6 tensors of lenet_300_100", architecture="lenet_300_100")

    def test_pickles_that_need_more_are_refused_and_not_run(self, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        torch.save(model, "whole.pt")
        torch.save({"x": _Malicious()}, "zip.pt")
        with open("plain.pth", "wb") as file:
            pickle.dump(_Malicious(), file)
        for name in ("whole.pt", "zip.pt", "plain.pth"):
            refused(
                name,
                "expected (a file of plain tensors|weights), got .*(unpickling|pickled)",
                architecture="small_cnn",
            )
        assert not (tmp_path / "pwned").exists()

    def test_other_content(self, model, tmp_path):
        torch.save([1, 2], tmp_path / "list.pt")
        refused(
            tmp_path / "list.pt", "expected a state_dict of tensors in .*, got list", architecture="lenet5"
        )
        torch.save(model.network.state_dict(), tmp_path / "cut.pt")
        os.truncate(tmp_path / "cut.pt", 1000)
        refused(tmp_path / "cut.pt", "damaged", architecture="lenet5")
        (tmp_path / "empty.pt").write_bytes(b"")
        refused(tmp_path / "empty.pt", "damaged", architecture="lenet5")
        (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>not found</html>")
        refused(tmp_path / "page.safetensors", "is damaged or not safetensors", architecture="lenet5")
        (tmp_path / "model.onnx").write_bytes(b"")
        refused(tmp_path / "model.onnx", "expected a folder or a .safetensors, .pt or .pth file")

    def test_an_architecture_beside_a_checkpoint_is_one_too_many(self, folder):
        refused(folder, "architecture: expected none beside a checkpoint", architecture="lenet5")


class TestNames:
    def test_hub(self, folder, monkeypatch):
        import huggingface_hub

        asked = []

        def snapshot_download(repo_id, *, allow_patterns):
            asked.append((repo_id, sorted(allow_patterns)))
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        assert models.load("owner/some-model").facts["accuracy"] == {"value": 0.5}
        assert asked == [("owner/some-model", ["model.json", "model.safetensors"])]

    def test_hub_without_a_network_or_such_a_model(self, monkeypatch):
        import huggingface_hub

        def snapshot_download(repo_id, *, allow_patterns):
            raise OSError("404 Client Error\nRepository Not Found")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        refused(
            "owner/none",
            "found neither a folder owner/none nor a Hugging Face Hub model .*: 404 Client Error",
        )

    def test_unknown_names(self):
        refused(
            "digitz",
            r"expected a built-in model \(digits, .*\), an existing folder or weights file, or .*'digitz'",
        )
        refused(
            "small-cnn", "got the architecture small-cnn; train one first: zeronorm train --model small-cnn"
        )
        refused("./runs/none", "expected a built-in model")

    def test_a_path_comes_after_a_built_in_name(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        shutil.copytree(folder, "digits")
        assert models.load("digits").facts["data"]["name"] == "digits"
        assert models.load("./digits/").facts["accuracy"] == {"value": 0.5}


def _scripted(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(path)


def _exported(model, path):
    torch.export.save(torch.export.export(model, (torch.rand(2, 1, 4, 4),)), path)


@pytest.mark.parametrize(
    "write, name, what",
    [
        (torch.save, "net.pt", "a pickled model (of torch.nn.modules.container.Sequential)"),
        (_scripted, "net.pt", "a TorchScript program (torch.jit.load)"),
        (_exported, "net.pt2", "an exported program (torch.export.load)"),
    ],
)
def test_a_program_where_weights_are_expected_is_named(tmp_path, write, name, what):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    path = tmp_path / name
    write(network, path)
    for options in ({}, {"architecture": "linear"}):
        with pytest.raises(
            ArgumentError, match=re.escape(f"model: expected weights, got {path}, {what}, whose code")
        ):
            models.load(path, **options)


def test_weights_are_no_program(tmp_path):
    network = models.build("linear", in_channels=1, image_size=4, classes=3)
    for content in (
        network.network.state_dict(),
        {"state_dict": dict(network.network.state_dict()), "epoch": 3},
    ):
        torch.save(content, tmp_path / "weights.pt")
        with pytest.raises(ArgumentError, match=r"^architecture: expected one of .* for the bare weights"):
            models.load(tmp_path / "weights.pt")
        loaded = models.load(
            tmp_path / "weights.pt", architecture="linear", in_channels=1, image_size=4, classes=3
        )
        assert models.digest(loaded) == models.digest(network)
