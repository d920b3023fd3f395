"""ONNX files through onnxruntime: the same scores as the network they were made of, and no gradients."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import zeronorm as zn
from zeronorm.cli.main import run
from zeronorm.errors import ArgumentError
from zeronorm.integrations import from_onnx

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write(path, weight, bias, batch="batch", softmax=False, labels=False):
    """Flatten, linear, perhaps softmax: an ONNX file of a linear classifier of (1, 8, 8) images."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["z" if softmax else "scores"], transB=1),
    ]
    outputs = [helper.make_tensor_value_info("scores", kind, [batch, 10])]
    if softmax:
        nodes.append(helper.make_node("Softmax" if softmax is True else softmax, ["z"], ["scores"]))
    if labels:
        nodes.append(helper.make_node("Softmax", ["scores"], ["shares"]))
        outputs.append(helper.make_tensor_value_info("shares", kind, [batch, 10]))
    values = [
        onnx.numpy_helper.from_array(v.detach().numpy(), n) for n, v in (("weight", weight), ("bias", bias))
    ]
    images = helper.make_tensor_value_info("images", kind, [batch, 1, 8, 8])
    graph = helper.make_graph(nodes, "linear", [images], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def linear():
    images = zn.data.load("digits", "train", 400)
    x, y = images.x.flatten(1), images.y
    layer = torch.nn.Linear(64, 10)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
    return layer


@pytest.fixture
def path(linear, tmp_path):
    return write(tmp_path / "linear.onnx", linear.weight, linear.bias)


def test_the_same_scores(path, linear, x):
    box = from_onnx(path)
    assert box.scores == "logits" and not box.differentiable
    assert torch.allclose(box(x), linear(x.flatten(1)), atol=1e-5)
    assert box(x.double()).dtype == torch.float64
    assert zn.models.describe(box) == {"architecture": "onnx:linear.onnx", "digest": box.digest}


def test_probabilities_are_recognised(linear, x, tmp_path):
    box = from_onnx(write(tmp_path / "shares.onnx", linear.weight, linear.bias, softmax=True))
    assert box.scores == "probabilities"
    assert torch.allclose(box(x).softmax(1), linear(x.flatten(1)).softmax(1), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_fixed_batch_size(linear, x, tmp_path, batch):
    box = from_onnx(write(tmp_path / "fixed.onnx", linear.weight, linear.bias, batch=batch))
    assert torch.allclose(box(x), linear(x.flatten(1)), atol=1e-5)


def test_a_black_box_is_searched_and_verified(path, images):
    box = from_onnx(path)
    evaluation = zn.evaluate(box, images, zn.L0(4), "sparse_rs", queries=40)
    assert evaluation.robust_accuracy < evaluation.clean_accuracy and evaluation.clean_accuracy > 0.5
    assert zn.verify(evaluation.run, from_onnx(path), images).ok
    with pytest.raises(ArgumentError, match="sparse_pgd needs gradients, and this model gives none"):
        zn.evaluate(box, images, zn.L0(4), "sparse_pgd")


def test_other_weights_are_not_the_runs(path, images, linear, tmp_path):
    evaluation = zn.evaluate(from_onnx(path), images, zn.L0(1), "sparse_rs", queries=3)
    other = write(tmp_path / "other.onnx", linear.weight + 0.5, linear.bias)
    assert any("model: digest" in p for p in zn.verify(evaluation.run, from_onnx(other), images).problems)


def test_on_the_command_line(path, linear, tmp_path, capsys):
    common = ["evaluate", "--model", f"onnx:{path}", "--limit", "6", "--k", "2", "--queries", "20"]
    assert run([*common, "--attack", "sparse_rs", "--out", str(tmp_path / "run")]) == 0
    assert run(["verify", str(tmp_path / "run")]) == 0
    assert "every claim holds" in capsys.readouterr().out
    white = ["--attack", "sparse_pgd", "--steps", "3", "--limit", "6", "--out", str(tmp_path / "white")]
    assert run(["evaluate", "--model", f"onnx:{path}", *white]) == 0
    # an operator that is no layer here: no gradients
    box = write(tmp_path / "sin.onnx", linear.weight, linear.bias, softmax="Sin")
    capsys.readouterr()
    assert run(["evaluate", "--model", f"onnx:{box}", "--attack", "sparse_pgd", "--steps", "3"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("zeronorm: attack: sparse_pgd needs gradients, and this model gives none")


def test_it_goes_to_other_processes(path, x):
    box = from_onnx(path)
    assert torch.equal(pickle.loads(pickle.dumps(box))(x), box(x))


def test_several_outputs(linear, x, tmp_path):
    two = write(tmp_path / "two.onnx", linear.weight, linear.bias, labels=True)
    with pytest.raises(
        ArgumentError, match=r"output: expected the name of scores .* among scores .*, shares"
    ):
        from_onnx(two)
    assert torch.allclose(from_onnx(two, output="scores")(x), linear(x.flatten(1)), atol=1e-5)


def test_what_cannot_be_used(path, tmp_path):
    with pytest.raises(ArgumentError, match="model: expected an ONNX file, found no"):
        from_onnx(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ArgumentError, match="onnxruntime cannot open"):
        from_onnx(tmp_path / "bad.onnx")
    with pytest.raises(ArgumentError, match=r"shape \(batch, 1, 8, 8\) for linear.onnx, got \(2, 3, 8, 8\)"):
        from_onnx(path)(torch.rand(2, 3, 8, 8))
    assert np.isfinite(from_onnx(path)(torch.rand(2, 1, 8, 8)).numpy()).all()


def test_channels_last_and_what_the_last_operator_is(linear, tmp_path):
    """As TensorFlow exports: (batch, height, width, channel); a sigmoid at the end is undone."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [
        onnx.numpy_helper.from_array(v.detach().numpy(), n)
        for n, v in (("weight", linear.weight), ("bias", linear.bias))
    ]
    x = zn.data.load("digits", "test", 20)
    last = x.x.permute(0, 2, 3, 1).contiguous()
    for end, scores in (
        ("Identity", "logits"),
        ("Sigmoid", "sigmoid"),
        ("Tanh", "tanh"),
        ("Softmax", "probabilities"),
    ):
        nodes = [
            helper.make_node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2]),
            helper.make_node("Flatten", ["first"], ["flat"]),
            helper.make_node("Mul", ["flat", "small"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "weight", "bias"], ["z"], transB=1),
            helper.make_node(end, ["z"], ["scores"]),
        ]
        small = onnx.numpy_helper.from_array(np.float32(0.2), "small")
        graph = helper.make_graph(
            nodes,
            "last",
            [helper.make_tensor_value_info("images", kind, ["batch", 8, 8, 1])],
            [helper.make_tensor_value_info("scores", kind, ["batch", 10])],
            [*values, small],
        )
        path = tmp_path / f"{end}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
        box = from_onnx(path)
        assert (box.scores, box.channels) == (scores, "last")
        logits = linear(0.2 * x.x.flatten(1))
        found = box(last)
        if end == "Softmax":
            logits = logits.log_softmax(1)
        near = logits.abs() < 6  # beyond, float32 has rounded the difference to the end away
        torch.testing.assert_close(found[near], logits[near].detach(), rtol=1e-2, atol=1e-2)
    evaluation = zn.evaluate(from_onnx(path), (last, x.y), zn.L0(1), "sparse_rs", queries=20)
    assert evaluation.summary.run["plan"]["threat"]["channels"] == "last"
    assert zn.verify(evaluation.run, from_onnx(path), (last, x.y))
