"""timm's and transformers' classifiers, built and saved here, loaded as by id: normalised as they say."""

from __future__ import annotations

import json

import pytest
import torch

import zeronorm as zn
from zeronorm.cli.model import resolve_model
from zeronorm.errors import ArgumentError
from zeronorm.integrations import from_timm, from_transformers
from zeronorm.integrations.transformers import normalisation

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("torchvision_loads")


@pytest.fixture(scope="module")
def saved_by_timm(tmp_path_factory, torchvision_loads):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(3)
    network = timm.create_model("resnet10t", num_classes=5).eval()
    config = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "input_size": (3, 64, 64)}
    network.pretrained_cfg = network.pretrained_cfg | config | {"num_classes": 5}
    save_for_hf(network, str(folder), safe_serialization=True)
    return folder, network


def test_timm_by_name(saved_by_timm):
    folder, network = saved_by_timm
    model = resolve_model(f"timm:local-dir:{folder}", CPU)
    x = torch.rand(3, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    assert torch.allclose(model(x), network((x - mean) / std), atol=1e-5)
    facts = zn.models.describe(model)
    assert facts["arguments"]["image_size"] == [64, 64] and facts["arguments"]["classes"] == 5
    assert facts["digest"] == zn.models.digest(model)
    with pytest.raises(ArgumentError, match=r"inputs of shape \(batch, 3, 64, 64\)"):
        model(torch.rand(1, 3, 32, 32))


def test_timm_is_evaluated_and_verified(saved_by_timm):
    model = from_timm(f"local-dir:{saved_by_timm[0]}")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        data = (x, model(x).argmax(1))
    evaluation = zn.evaluate(model, data, zn.L0(20), "sparse_rs", queries=5)
    assert evaluation.clean_accuracy == 1 and zn.verify(evaluation.run, model, data).ok


def test_timm_without_such_a_model():
    pytest.importorskip("timm")
    with pytest.raises(ArgumentError, match="timm cannot make 'nothing'"):
        from_timm("nothing", pretrained=False)
    with pytest.raises(ArgumentError, match="expected a classifier, got 'resnet10t' with no classes"):
        from_timm("resnet10t", pretrained=False, num_classes=0)


def test_another_librarys_model_is_not_saved_as_ours(saved_by_timm, tmp_path):
    with pytest.raises(ArgumentError, match=r"got timm:.*, which its own library saves"):
        zn.models.save(from_timm(f"local-dir:{saved_by_timm[0]}"), tmp_path)


@pytest.fixture(scope="module")
def saved_by_transformers(tmp_path_factory, torchvision_loads):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=4,
        num_labels=4,
    )  # fmt: skip
    torch.manual_seed(4)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(folder)
    prepares = {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 255,
        "size": {"height": 16, "width": 16},
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepares))
    return folder, network


def test_transformers_by_id(saved_by_transformers):
    folder, network = saved_by_transformers
    model = resolve_model(f"hf:{folder}", CPU)
    images = torch.randint(0, 256, (2, 3, 16, 16))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7)))
    with torch.no_grad():
        expected = network(pixel_values=(images / 255 - mean) / std).logits
        assert torch.allclose(model(images / 255), expected, atol=1e-5)
    assert zn.models.describe(model)["arguments"]["image_size"] == [16, 16]
    y = model(images / 255).argmax(1)
    evaluation = zn.evaluate(model, (images / 255, y), zn.L0(8), steps=2, queries=4)
    assert zn.verify(evaluation.run, model, (images / 255, y)).ok


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5])
@pytest.mark.parametrize("normalizes", [False, True])
def test_what_an_image_processor_does(offset, factor, normalizes):
    """Against the processor's own order of operations on images in 0 to 255."""
    prepares = {"rescale_factor": factor, "rescale_offset": offset, "do_normalize": normalizes}
    prepares |= {"image_mean": [0.4], "image_std": [0.3]}
    mean, std = normalisation(prepares, 1)
    images = torch.linspace(0, 255, 9, dtype=torch.float64)
    expected = images * factor - (1 if offset else 0)
    if normalizes:
        expected = (expected - 0.4) / 0.3
    assert torch.allclose((images / 255 - mean[0]) / std[0], expected)


def test_transformers_without_such_a_model(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArgumentError, match="transformers cannot load"):
        from_transformers(str(tmp_path))


def test_a_processor_of_other_channels():
    with pytest.raises(ArgumentError, match="expected image_mean of 3 channels"):
        normalisation({"image_mean": [0.5], "image_std": [0.5]}, 3)
