"""The way of ImageNet, with few images of its real size: shards of JPEG files, a ResNet, k in the hundreds."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import zeronorm as zn
from zeronorm.cli import main, options
from zeronorm.records.folders import RunFolder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four photographs of noise in two shards, laid out as the Hub does."""
    folder = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for shard in range(2):
        pictures = []
        for i in range(2):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 9, 3), dtype=np.uint8))
            buffer = io.BytesIO()
            coarse.resize((300 + 40 * i, 375 - 50 * shard)).save(buffer, "JPEG")
            pictures.append({"bytes": buffer.getvalue(), "path": f"{i}.JPEG"})
        table = pa.table({"image": pictures, "label": [0, 1]})
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list("abc")}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file = folder / "data" / f"validation-{shard:05}-of-00002.parquet"
        file.parent.mkdir(exist_ok=True)
        pq.write_table(table, file, row_group_size=2)
    return f"parquet:{folder}:resize=256:crop=224"


@pytest.fixture(scope="module")
def resnet(shards):
    model = zn.models.build(
        "resnet34", classes=3, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], seed=1
    ).eval()
    # untrained, its answers would all be one: a linear layer that tells the first image from the others
    with torch.no_grad():
        model.network.fc.weight.normal_(0, 4, generator=torch.Generator().manual_seed(0))
        z = model(zn.data.load(shards, "validation").x)
        model.network.fc.bias.sub_(z.mean(0)).add_(
            (z[0] - z.mean(0)).abs().max() * torch.tensor([0.1, 0, -5])
        )
    return model


@pytest.mark.slow
def test_a_resnet_on_shards_of_photographs(shards, resnet, tmp_path):
    stream = zn.data.load(shards, "validation", stream=True)
    assert stream.x.shape == (4, 3, 224, 224) and stream.class_names == ("a", "b", "c")
    with torch.no_grad():
        right = int((resnet(stream.x[:]).argmax(1) == stream.y).sum())
    assert right > 0
    run = zn.evaluate(
        resnet, stream, zn.L0(300), "sparse_autoattack", tmp_path / "run", steps=1, queries=2, batch_size=2
    )
    assert round(4 * run.clean_accuracy) == right
    searched = [row for row in RunFolder(run.run).read_rows().to_pylist() if row["stage"] >= 0]
    assert searched and all(row["forwards"] > 0 for row in searched)
    assert run.run.joinpath("report.html").stat().st_size < 20e6
    assert zn.verify(run.run, resnet, stream).ok


def test_the_command_line_streams_what_is_large(shards, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(options, "_IN_MEMORY", 4 * 3 * 224 * 224 * 4 - 1)
    monkeypatch.setattr(zn.data.Stream, "load", lambda stream: asked.append(stream))
    (tmp_path / "brightness.py").write_text(
        "import torch\n"
        "def model(x):\n"
        "    mean = x[:, :, ::4, ::4].mean((1, 2, 3))\n"
        "    return torch.stack([mean, 0.5 - mean, 0 * mean], 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--model", "brightness:model", "--data", shards, "--split", "validation", "--k", "200"]
    words += ["--attack", "sparse_rs", "--queries", "3", "--out", "run", "--device", "cpu"]
    assert main.run(["evaluate", *words]) == 0
    assert main.run(["verify", "run", "--trust"]) == 0
    assert not asked
    assert "every claim holds: 4 clean predictions" in capsys.readouterr().out
    plan = RunFolder(tmp_path / "run").read()["plan"]
    assert plan["data"]["name"] == shards and plan["data"]["shape"] == [3, 224, 224]
