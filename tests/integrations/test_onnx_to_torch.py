"""ONNX files as torch modules: the numbers of onnxruntime, gradients, and a name for what is not known."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from zeronorm.certification.network_graph import read_network
from zeronorm.cli.model import resolve_model
from zeronorm.errors import ArgumentError
from zeronorm.integrations import from_onnx, to_torch
from zeronorm.models import BlackBox

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def write(path, nodes, shape=(1, 2, 8, 8), opset=13, kind=None, **weights):
    """A file of the nodes (operator, inputs, output, attributes), the last of which is the result."""
    helper, kind = onnx.helper, kind or onnx.TensorProto.FLOAT
    made = [helper.make_node(op, inputs, [output], **attributes) for op, inputs, output, attributes in nodes]
    values = [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(nodes[-1][2], onnx.TensorProto.FLOAT, None)],
        values,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
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
    assert model.dropped == "Softmax"
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
        ([("Sin", ["x"], "y", {})], "Sin"),
        ([("Transpose", ["x"], "y", {"perm": [1, 0, 2, 3]})], "Transpose"),
        ([("Concat", ["x", "x"], "y", {"axis": 0})], "along the batch"),
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
    odd = write(
        tmp_path / "odd.onnx",
        [("Flatten", ["x"], "f", {}), ("Sin", ["f"], "s", {}), ("Sigmoid", ["s"], "y", {})],
    )
    with caplog.at_level(logging.WARNING):
        box = resolve_model(f"onnx:{odd}:mean=0.1,0.2:std=0.5,0.25", torch.device("cpu"))
    assert isinstance(box, BlackBox) and "Sin" in caplog.text
    # the sigmoid at the end is undone
    torch.testing.assert_close(box(x), scaled.flatten(1).sin(), rtol=1e-3, atol=1e-3)


def mobile(path):
    """A classifier as TensorFlow's exporter writes them: channels last, and functions of mobile networks."""
    torch.manual_seed(3)
    nodes = [
        ("Transpose", ["x"], "t", {"perm": [0, 3, 1, 2]}),
        ("Pad", ["t", "sides"], "p", {}),
        ("Conv", ["p", "w"], "c", {}),
        ("Clip", ["c", "zero", "six"], "r6", {}),
        ("HardSwish", ["c"], "hs", {}),
        ("HardSigmoid", ["c"], "hg", {}),
        ("LeakyRelu", ["c"], "lr", {"alpha": 0.2}),
        ("Elu", ["c"], "el", {}),
        ("Softplus", ["c"], "sp", {}),
        ("Tanh", ["c"], "th", {}),
        ("Erf", ["c"], "er", {}),
        ("Sigmoid", ["c"], "sg", {}),
        ("Concat", ["r6", "hs", "hg", "lr", "el", "sp", "th", "er", "sg"], "all", {"axis": 1}),
        ("Mul", ["all", "all"], "square", {}),
        ("ReduceMean", ["square"], "m", {"axes": [2, 3], "keepdims": 1}),
        ("Squeeze", ["m", "sides23"], "q", {}),
        ("Cast", ["q"], "f", {"to": onnx.TensorProto.FLOAT}),
        ("MatMul", ["f", "fc"], "s", {}),
        ("LogSoftmax", ["s"], "ls", {"axis": 1}),
        ("Unsqueeze", ["ls", "one"], "u", {}),
        ("Flatten", ["u"], "scores", {}),
    ]
    weights = {
        "w": torch.randn(4, 3, 3, 3),
        "fc": torch.randn(36, 5),
        "sides": torch.tensor([0, 0, 1, 0, 0, 0, 1, 2]),
        "sides23": torch.tensor([2, 3]),
        "one": torch.tensor([1]),
        "zero": torch.tensor(0.0),
        "six": torch.tensor(6.0),
    }
    return write(path, nodes, shape=(1, 6, 8, 3), opset=14, **weights)


def test_channels_last_and_functions_of_mobile_networks(tmp_path):
    path = mobile(tmp_path / "mobile.onnx")
    mean = [103.9, 116.8, 123.7]
    form = f"layout=nhwc:range=255:channels=bgr:mean={','.join(map(str, mean))}:std=50,51,52"
    model = resolve_model(f"onnx:{path}:{form}", torch.device("cpu"))
    assert isinstance(model, nn.Module)
    x = torch.rand(3, 3, 6, 8)
    wanted = (x.flip(1) * 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor([50.0, 51, 52]).view(3, 1, 1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = wanted.permute(0, 2, 3, 1).numpy()
    theirs = torch.cat([torch.from_numpy(session.run(None, {"x": row[None]})[0]) for row in rows])
    torch.testing.assert_close(model(x), theirs, rtol=1e-3, atol=1e-3)
    x.requires_grad_()
    model(x).sum().backward()
    assert float(x.grad.abs().max()) > 0


def test_one_output_of_several(tmp_path):
    path = convolutional(
        tmp_path / "net.onnx", last=[("Relu", ["h"], "features", {}), ("Relu", ["logits"], "top", {})]
    )
    file = onnx.load(path)
    file.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    onnx.save(file, path)
    with pytest.raises(ArgumentError, match="output=NAME chooses one"):
        to_torch(path)
    x = torch.rand(2, 2, 8, 8)
    chosen = resolve_model(f"onnx:{path}:output=logits", torch.device("cpu"))
    whole = to_torch(convolutional(tmp_path / "one.onnx"))
    torch.testing.assert_close(chosen(x), whole(x))


def test_images_of_whole_numbers(tmp_path):
    """A file whose input is uint8 is handed 0 to 255, rounded."""
    nodes = [("Cast", ["x"], "f", {"to": onnx.TensorProto.FLOAT}), ("Flatten", ["f"], "y", {})]
    path = write(tmp_path / "net.onnx", nodes, kind=onnx.TensorProto.UINT8)
    box = from_onnx(path)
    x = torch.tensor([0.0, 0.4, 1.0, 0.2]).repeat(32)[None].view(1, 2, 8, 8)
    assert torch.equal(box(x), (x * 255).round().flatten(1))


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
