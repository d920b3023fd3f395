"""The Hub's own mixin keeps and brings back our models; no network."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.integrations import HubClassifier
from zeronorm.models import digest


def test_a_folder_of_the_mixins_layout(model, x, tmp_path):
    HubClassifier.of(model).save_pretrained(tmp_path / "kept")
    config = json.loads((tmp_path / "kept/config.json").read_text())
    assert config == {"architecture": model.architecture, "arguments": model.arguments}
    weights = safetensors.torch.load_file(tmp_path / "kept/model.safetensors")
    assert weights.keys() == model.network.state_dict().keys()
    assert "library_name: zeronorm" in (tmp_path / "kept/README.md").read_text()
    for again in (HubClassifier.from_pretrained(str(tmp_path / "kept")), zn.models.load(tmp_path / "kept")):
        assert torch.equal(again(x), model(x)) and digest(again) == digest(model) and not again.training
        assert again.facts["accuracy"] == model.facts["accuracy"]


def test_a_new_model_is_one_of_the_mixin(tmp_path):
    made = HubClassifier(architecture="mlp", arguments={"in_channels": 1, "image_size": 4, "classes": 3})
    assert isinstance(made, PyTorchModelHubMixin) and made(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    made.save_pretrained(tmp_path)
    assert digest(HubClassifier.from_pretrained(tmp_path)) == digest(made)


def test_what_the_hub_does_not_keep():
    with pytest.raises(ArgumentError, match=r"model: expected one of zeronorm.models.build, got Linear"):
        HubClassifier.of(torch.nn.Linear(2, 2))


def test_damage_is_noticed(model, tmp_path):
    HubClassifier.of(model).save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    name = next(iter(weights))
    safetensors.torch.save_file(weights | {name: weights[name] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ArgumentError, match="is damaged: expected weights of digest"):
        HubClassifier.from_pretrained(tmp_path)


def test_what_is_sent_to_the_hub(model, monkeypatch):
    sent = {}

    def upload_folder(self, *, repo_id, folder_path, **unused):
        sent[repo_id] = sorted(path.name for path in folder_path.iterdir())

    monkeypatch.setattr(
        HfApi, "create_repo", lambda self, repo_id, **unused: type("Repo", (), {"repo_id": repo_id})
    )
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    HubClassifier.of(model).push_to_hub("owner/name")
    assert sent == {"owner/name": ["README.md", "config.json", "model.json", "model.safetensors"]}


def test_an_id_is_fetched_by_the_hubs_client(model, tmp_path, monkeypatch):
    HubClassifier.of(model).save_pretrained(tmp_path)
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr("zeronorm.integrations.hub.snapshot_download", snapshot_download)
    made = HubClassifier._from_pretrained(
        model_id="owner/name",
        revision="v1",
        cache_dir=None,
        force_download=False,
        local_files_only=False,
        token=None,
    )
    assert digest(made) == digest(model)
    assert asked == [("owner/name", "v1", ["model.safetensors", "model.json"])]
