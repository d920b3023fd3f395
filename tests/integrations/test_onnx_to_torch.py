"""ONNX files as torch modules: the numbers of onnxruntime, gradients, and a name for what is not known."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from zeronorm.certification.network_graph import read_network
from zeronorm.cli.model import resolve_model
from zeronorm.errors import ArgumentError
from zeronorm.integrations import to_torch
from zeronorm.models import BlackBox

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def write(path, nodes, shape=(1, 2, 8, 8), **weights):
    """A file of the nodes (operator, inputs, output, attributes), the last of which is the result."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    made = [helper.make_node(op, inputs, [output], **attributes) for op, inputs, output, attributes in nodes]
    values = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(nodes[-1][2], kind, None)],
        values,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def convolutional(path, last=(), **conv):
    torch.manual_seed(2)
    w, b = torch.randn(4, 2, 3, 3), torch.randn(4)
    nodes = [
        ("Sub", ["x", "mean"], "centred", {}),
        ("Conv", ["centred", "w", "b"], "z", {"pads": [1, 0, 1, 2], **conv}),
        ("BatchNormalization", ["z", "gain", "b", "b", "one"], "n", {"epsilon": 1e-3}),
        ("Relu", ["n"], "h", {}),
        ("MaxPool", ["h"], "p", {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [1, 1, 1, 1]}),
        ("AveragePool", ["p"], "q", {"kernel_shape": [2, 2], "strides": [1, 1]}),
        ("Add", ["q", "q"], "d", {}),
        ("Reshape", ["d", "to"], "f", {}),
        ("MatMul", ["f", "fc"], "s", {}),
        ("Add", ["s", "five"], "logits", {}),
    ]
    weights = {
        "w": w,
        "b": b,
        "fc": torch.randn(4 * 64, 5),
        "five": torch.randn(5),
        "gain": torch.rand(4) + 0.5,
        "one": torch.rand(4) + 0.5,
        "mean": torch.tensor(0.25),
        "to": torch.tensor([1, -1]),
    }
    return write(path, [*nodes, *last], **weights)


def test_a_convolutional_file_gives_what_onnxruntime_gives(tmp_path):
    path = convolutional(tmp_path / "net.onnx", last=[("Softmax", ["logits"], "shares", {"axis": 1})])
    model = to_torch(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = torch.randn(4, 2, 8, 8)
    theirs = torch.cat([torch.from_numpy(session.run(None, {"x": one[None].numpy()})[0]) for one in x])
    torch.testing.assert_close(model(x).softmax(1), theirs, rtol=1e-4, atol=1e-5)
    assert model.softmax_dropped
    x.requires_grad_()
    model(x).sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_what_is_read_is_read_again_for_proofs(tmp_path):
    model = to_torch(convolutional(tmp_path / "net.onnx"), mean=[0.1, 0.2], std=[0.5, 0.6])
    x = torch.rand(2, 2, 8, 8)
    network = read_network(model, x)
    torch.testing.assert_close(network(x).float(), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("Sigmoid", ["x"], "y", {})], "Sigmoid"),
        ([("Softmax", ["x"], "h", {"axis": 1}), ("Relu", ["h"], "y", {})], "Softmax"),
        ([("Conv", ["x", "w"], "y", {"auto_pad": "SAME_UPPER"})], "auto_pad"),
        ([("MaxPool", ["x"], "y", {"kernel_shape": [2, 2], "ceil_mode": 1})], "ceil_mode"),
        ([("Flatten", ["x"], "y", {"axis": 2})], "axis"),
        ([("Gemm", ["x", "x"], "y", {})], "computed"),
        ([("Gemm", ["x", "w"], "y", {"alpha": 2.0})], "alpha"),
    ],
)
def test_what_is_not_known_is_named(tmp_path, nodes, says):
    path = write(tmp_path / "net.onnx", nodes, w=torch.randn(4, 2, 3, 3))
    with pytest.raises(ArgumentError, match=says):
        to_torch(path)


def test_the_command_lines_keys_normalise(tmp_path, caplog):
    path = convolutional(tmp_path / "net.onnx")
    x = torch.rand(2, 2, 8, 8)
    model = resolve_model(f"onnx:{path}:mean=0.1,0.2:std=0.5,0.25", torch.device("cpu"))
    plain = resolve_model(f"onnx:{path}", torch.device("cpu"))
    scaled = (x - torch.tensor([0.1, 0.2]).view(2, 1, 1)) / torch.tensor([0.5, 0.25]).view(2, 1, 1)
    assert isinstance(model, nn.Module)
    torch.testing.assert_close(model(x), plain(scaled), rtol=1e-4, atol=1e-4)
    odd = write(tmp_path / "odd.onnx", [("Flatten", ["x"], "f", {}), ("Sigmoid", ["f"], "y", {})])
    with caplog.at_level(logging.WARNING):
        box = resolve_model(f"onnx:{odd}:mean=0.1,0.2:std=0.5,0.25", torch.device("cpu"))
    assert isinstance(box, BlackBox) and "Sigmoid" in caplog.text
    # the sigmoid at the end is undone
    torch.testing.assert_close(box(x), scaled.flatten(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "keys", ["mean=0.1", "mean=0.1:std=0", "mean=a:std=1", "scale=2", "mean=0.1,0.2:std=1"]
)
def test_keys_that_do_not_fit(tmp_path, keys):
    path = convolutional(tmp_path / "net.onnx")
    with pytest.raises(ArgumentError, match=r"model|mean"):
        resolve_model(f"onnx:{path}:{keys}", torch.device("cpu"))


def test_no_file():
    with pytest.raises(ArgumentError, match="found no"):
        to_torch("nowhere.onnx")
