"""Input that cannot be used: one line that names the argument, before anything is attacked, and nothing lost."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from small_runs import CLASSES, dataset, images, network
from torch import nn

import zeronorm as zn
from zeronorm.attacks.sparse_autoattack import Stage

# people call the package without the shape checks of the tests
pytestmark = pytest.mark.usefixtures("unchecked")


class After(nn.Module):
    """A network, and then a function of its logits."""

    def __init__(self, after):
        super().__init__()
        self.inner, self.after = network(), after
        self.eval()

    def forward(self, x):
        return self.after(self.inner(x))


def asserting(z):
    raise AssertionError("no")


def nan_for_the_last(z):
    return torch.where(torch.arange(len(z))[:, None] == len(z) - 1, float("nan"), z)


x, y = dataset(network()).x, dataset(network()).y
nan_pixel = x.clone()
nan_pixel[3, 0, 1, 1] = float("nan")
doubled = dataclasses.replace(dataset(network()), ids=torch.zeros(20, dtype=torch.int64))


def few_ids():
    return dataclasses.replace(dataset(network()), ids=torch.arange(3))


def odd_cap():
    return zn.L0(1, linf=np.float32(0.5))


DATA = {
    "no batch": ((x[0, 0, 0], y), r"x: expected shape \(batch, feature\) or .*, got \(5,\)"),
    "bytes": (((x * 255).byte(), y), r"x: expected a floating point tensor, got torch\.uint8; scale 8-bit"),
    "half": ((x.half(), y), r"data: expected float32 or float64, got torch\.float16"),
    "0 to 255": (
        (x * 255, y),
        r"x: expected values in \[0, 1\], got \[.*, 25\d\..*\]; give the threat model",
    ),
    "negative": ((x - 0.5, y), r"x: expected values in \[0, 1\], got \[-0\.[45]"),
    "NaN": ((nan_pixel, y), "x: expected finite values, got NaN or infinity in 1 of 20 examples"),
    "infinity": ((x / 0, y), "x: expected finite values, got NaN or infinity in 20 of 20"),
    "empty": ((x[:0], y[:0]), "data: expected at least one example, got none"),
    "no pixels": ((x[:, :, :0], y), "x: expected at least one feature per example"),
    "array": ((x.numpy(), y), "x: expected a torch tensor, got ndarray"),
    "list of labels": ((x, y.tolist()), "y: expected a torch tensor, got list"),
    "float labels": ((x, y.float()), r"y: expected integer class indices, got torch\.float32"),
    "bool labels": ((x, y > 1), r"y: expected integer class indices, got torch\.bool"),
    "few labels": ((x, y[:5]), r"y: expected shape \(20,\), one label per example, got \(5,\)"),
    "one-hot labels": ((x, nn.functional.one_hot(y)), r"y: expected shape \(20,\).*got \(20, 4\)"),
    "label -1": ((x, y - 1), "y: expected class indices of at least 0, got -1"),
    "label 7": ((x, y + 4), "model: expected a logit for every label up to 7, got 4 classes"),
    "three parts": ((x, y, y), r"data: expected a Dataset, a tuple \(x, y\) or a name, got tuple"),
    "tensor": (x, r"data: expected a Dataset, a tuple \(x, y\) or a name, got Tensor"),
    "nothing": (None, r"data: expected a Dataset, a tuple \(x, y\) or a name, got NoneType"),
    "unknown name": ("imagenot", "data: expected one of digits, .*, got 'imagenot'"),
    "same ids": (doubled, "data: expected different example ids, got duplicates"),
    "few ids": (few_ids, r"ids: expected 20 integers, one per example, got torch\.int64 of shape \(3,\)"),
    "other size": ((images(9, side=6), y[:9]), r"model: expected a model of inputs of shape \(1, 6, 6\)"),
}

MODELS = {
    "number": (3, "model: expected a callable from inputs to logits, got int"),
    "training": (network().train(), r"model: expected a model in evaluation mode, .*call model\.eval\(\)"),
    "probabilities": (After(lambda z: z.softmax(1)), "model: expected logits, got probabilities"),
    "labels": (
        After(lambda z: z.argmax(1)),
        r"model: expected a floating point tensor of logits, got torch\.int64",
    ),
    "one score": (
        After(lambda z: z[:, 0]),
        r"model: expected logits of shape \(\d+, classes\) .*, got \(\d+,\)",
    ),
    "one class": (After(lambda z: z[:, :1]), "model: expected logits of shape .*at least 2 classes"),
    "few classes": (
        After(lambda z: z[:, :3]),
        "model: expected (4 logits, one per class|a logit for every label)",
    ),
    "many classes": (
        After(lambda z: torch.cat([z, z], 1)),
        "model: expected 4 logits, one per class of random, got 8",
    ),
    "one row": (After(lambda z: z.mean(0, keepdim=True)), "model: expected logits of shape"),
    "array": (
        After(lambda z: z.detach().numpy()),
        "model: expected a floating point tensor of logits, got ndarray",
    ),
    "tuple": (After(lambda z: (z, z)), "model: expected a floating point tensor of logits, got tuple"),
    "dictionary": (
        After(lambda z: {"logits": z}),
        "model: expected a floating point tensor of logits, got dict",
    ),
    "nothing": (lambda x: None, "model: expected a floating point tensor of logits, got NoneType"),
    "NaN": (After(lambda z: z * float("nan")), "model: expected finite logits, got NaN or infinity"),
    "NaN for one": (After(nan_for_the_last), "model: expected finite logits, got NaN or infinity"),
    "infinity": (After(lambda z: z / 0), "model: expected finite logits, got NaN or infinity"),
    "fails": (
        After(lambda z: z.view(3, 3, 3)),
        r"model: .*shape \(1, 5, 5\) and torch\.float32 on cpu, but it failed on them: shape",
    ),
    "asserts": (After(asserting), "model: .* but it failed on them: no"),
    "double": (network().double(), "model: .* but it failed on them: .*[dD]ouble"),
}

OPTIONS = {
    "threat a number": ({"threat": 3}, "threat: expected an L0 threat model, several, or an Linf, got int"),
    "threat a norm": (
        {"threat": zn.L2(0.1)},
        "threat: expected an L0 threat model, several, or an Linf, got L2",
    ),
    "no threat": ({"threat": []}, "threat: expected an L0 threat model, several, or an Linf, got list"),
    "no budget": ({"threat": zn.L0(None)}, "threat: expected a budget k, got None"),
    "k twice": ({"threat": [zn.L0(1), zn.L0(1)]}, r"k: expected different budgets, got \[1, 1\]"),
    "k of all and more": (
        {"threat": zn.L0(26)},
        "k: expected between 0 and 25, the number of pixels .*, got 26",
    ),
    "k outside the mask": (
        {"threat": zn.L0(3, allowed=torch.eye(5) * torch.arange(5) > 2)},
        "k: expected between 0 and 2, .* that may change, got 3",
    ),
    "mask of another size": (
        {"threat": zn.L0(1, allowed=torch.ones(4, 4, dtype=torch.bool))},
        r"allowed: expected a mask of 25 pixels, of shape .5, 5. or flat, got shape \(4, 4\)",
    ),
    "bounds of another size": (
        {"threat": zn.L0(1, low=torch.zeros(3))},
        "low, high: expected numbers or tensors",
    ),
    "two units": (
        {"threat": [zn.L0(1), zn.L0(2, unit="feature")]},
        "threat: expected threat models that differ in k only",
    ),
    "curve of two": ({"threat": [zn.L0(1), zn.L0(2)], "curve": True}, "curve: expected one threat model"),
    "a cap that is no number of Python's": (
        {"threat": odd_cap},
        "attack, threat: expected options that are plain numbers",
    ),
    "attack unknown": ({"attack": "pgd0000"}, "attack: expected one of sparse_pgd, .*, got 'pgd0000'"),
    "attack a number": ({"attack": 3}, "attack: expected a name, a Stage or a function, got int"),
    "no attack": ({"attack": []}, "attack: expected at least one attack, got an empty list"),
    "attack twice": ({"attack": ["sparse_rs", "sparse_rs"]}, "attack: expected stages of different names"),
    "option unknown": (
        {"attack": Stage("sparse_rs", {"steps": 3})},
        "steps: sparse_rs has no such option; it has queries, ",
    ),
    "option no number": (
        {"attack": Stage("sparse_pgd", {"step_size": torch.tensor(0.1)})},
        "attack, threat: expected options that are plain numbers",
    ),
    "steps negative": ({"steps": -1}, "steps: expected an integer of at least 0, got -1"),
    "steps a fraction": ({"steps": 1.5}, "steps: expected an integer of at least 0, got 1.5"),
    "queries none": ({"queries": 0}, "queries: expected an integer of at least 1, got 0"),
    "steps for nobody": ({"attack": "sparse_rs", "steps": 5}, "steps: .* takes no steps, only queries"),
    "queries for mine": ({"attack": lambda *_: x, "queries": 5}, "queries: .* takes no queries"),
    "batch size": ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    "seed": ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
    "seed true": ({"seed": True}, "seed: expected an integer of at least 0, got True"),
    "precision": ({"precision": "float16"}, "precision: expected one of float32, bfloat16, got 'float16'"),
}

CASES = (
    [pytest.param({"data": data}, message, id=f"data-{name}") for name, (data, message) in DATA.items()]
    + [
        pytest.param({"model": model}, message, id=f"model-{name}")
        for name, (model, message) in MODELS.items()
    ]
    + [pytest.param(options, message, id=f"option-{name}") for name, (options, message) in OPTIONS.items()]
)


@pytest.mark.parametrize("change, message", CASES)
def test_one_clear_line_before_anything_is_attacked(change, message, tmp_path):
    attacked = []

    def attack(model, x, y, threat):
        attacked.append(len(x))
        return x

    change = {name: value() if value in (few_ids, odd_cap) else value for name, value in change.items()}
    options = {"model": network(), "data": dataset(network()), "threat": zn.L0(2), "attack": attack} | change
    if "steps" in change or "queries" in change:
        options = (
            {"attack": "sparse_autoattack"} | {k: v for k, v in options.items() if k != "attack"} | change
        )
    with pytest.raises(zn.ArgumentError, match=f"^{message}") as raised:
        zn.evaluate(**options, out=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not attacked
    assert not (tmp_path / "run/rows.parquet").exists()


@pytest.mark.parametrize("k", [-1, 1.5, "3", True, float("nan")])
def test_a_budget_is_a_whole_number(k):
    with pytest.raises(zn.ArgumentError, match="k: expected an integer of at least 0, got"):
        zn.L0(k)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"unit": "pixels"}, "unit: expected one of pixel, feature, column, got 'pixels'"),
        ({"low": 1.0}, r"high: expected more than low \(1\), got 1"),
        ({"low": float("nan")}, "low: expected a number"),
        ({"high": torch.tensor([1.0, float("inf")])}, "high: expected finite bounds, got NaN or infinity"),
        ({"linf": 0.0}, r"linf: expected a number in \(0, inf\), got 0\.0"),
        ({"allowed": torch.ones(3, 3)}, "allowed: expected a boolean tensor"),
    ],
)
def test_what_is_no_threat_model(arguments, message):
    with pytest.raises(zn.ArgumentError, match=f"^{message}"):
        zn.L0(2, **arguments)


def test_minus_infinity_is_a_logit():
    """Of a class that is ruled out; only its margin has no number."""
    model = After(lambda z: torch.cat([z[:, :2], torch.full_like(z[:, 2:], -torch.inf)], 1))
    labels = model(x).argmax(1)
    evaluation = zn.evaluate(model, (x, labels), zn.L0(1), steps=5, queries=5)
    assert evaluation.clean_accuracy == 1 and zn.verify(evaluation.run, model, (x, labels))
    alone = After(lambda z: torch.where(torch.arange(CLASSES) == 2, z, -torch.inf))
    labels = torch.full((20,), 2)
    evaluation = zn.evaluate(alone, (x, labels), zn.L0(1), steps=5, queries=5)
    assert evaluation.robust_accuracy == 1
    assert {row["margin"] for row in evaluation.records.to_pylist()} == {None}
    assert zn.verify(evaluation.run, alone, (x, labels))


@pytest.mark.parametrize(
    "verb",
    [
        lambda net, d, out: zn.evaluate(net, d, zn.L0(1), "sparse_rs", queries=2),
        lambda net, d, out: zn.certify(net, d, "bound_propagation", threats=[zn.L0(1)], seconds=1),
        lambda net, d, out: zn.certify(net, d, "enumeration", threats=[zn.L0(1)]),
        lambda net, d, out: zn.compare(net, d, zn.L0(1), ["sparse_rs", "pointwise"], queries=2),
        lambda net, d, out: zn.matrix({"a": net}, d, [zn.L0(1)], ["sparse_rs"], out, queries=2),
        lambda net, d, out: zn.attacks.sparse_rs(net, d.x, d.y, zn.L0(1), queries=2),
    ],
    ids=["evaluate", "bound_propagation", "enumeration", "compare", "matrix", "an attack"],
)
def test_rounding_outside_the_box_is_told_with_its_size_and_its_remedy(verb, tmp_path):
    net = network()
    d = dataset(net)
    d.x[2, 0, 1, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    told = r"^x: expected values in \[0, 1\], got 1 outside by 1.2e-07 at most, which is rounding: clamp them first"
    with pytest.raises(zn.ArgumentError, match=told):
        verb(net, d, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- tables ------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"a": [1.0, 2, 3, 4], "job": ["x", "y", "x", "y"], "y": [0, 1, 0, 1]})
KNOWN = zn.data.Schema.infer(FRAME[["a", "job"]])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"a": [1, 2, 3, 40.0]},
            r"frame: .* schema allows, got a: expected values in \[1, 4\], got 40",
        ),
        ({"a": [1, math.nan, 3, 40.0]}, r"got a: expected a value, got nan in row 1 \(and 1 more violations"),
        ({"job": ["x", "y", "z", "y"]}, r"frame: expected a category of 'job' \(x, y\), got 'z' in row 2"),
        (
            {"y": [0.5, 1.5, 2.5, 1]},
            "target: expected classes, whole numbers .*a continuous target has no classes",
        ),
        ({"job": [{}, {}, {}, {}]}, "data: expected numbers or text in column 'job', got dict"),
        ({"job": [1, "a", 2, "b"]}, "data: expected columns of one type each"),
        ({"job": pd.to_datetime(["2020-01-01"] * 4)}, "data: expected .* in column 'job', got timestamp"),
    ],
)
def test_a_table_that_cannot_be_meant_is_one_line(columns, says):
    known = KNOWN if "timestamp" not in says else None
    with pytest.raises(zn.ArgumentError, match=says) as caught:
        zn.data.from_frame(FRAME.assign(**columns), "y", known)
    assert "\n" not in str(caught.value)


def test_rows_of_a_table_that_break_its_schema_are_refused_before_any_work():
    asked = []

    def model(x):
        asked.append(len(x))
        return torch.stack([x[:, 0], 2 - x[:, 0]], 1)

    x = torch.tensor([[1.0, 0], [9.0, 0]], dtype=torch.float64)
    with pytest.raises(zn.ArgumentError, match=r"x: expected rows that the schema allows, got a: "):
        zn.evaluate(model, (x, torch.tensor([0, 0])), zn.L0(1, unit="column", schema=KNOWN))
    assert asked == []


@pytest.mark.slow
def test_ten_thousand_columns_and_trees():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 10_001))
    y = (x[:, :5].sum(1) > 0).astype(int)
    few = zn.models.from_sklearn(RandomForestClassifier(20, random_state=0).fit(x[:, :-1], y))
    schema = zn.data.Schema.infer(x[:, :-1])
    threat = zn.L0(1, unit="column", schema=schema)
    data = torch.tensor(x[:4, :-1]), torch.tensor(y[:4])
    run = zn.evaluate(few, data, threat, "sparse_rs", queries=10, prove=True)
    assert run.robust_accuracy[1] == run.certified_accuracy[1]
    many = zn.models.from_sklearn(RandomForestClassifier(2, random_state=0).fit(x, y))
    wide = zn.L0(1, unit="column", schema=zn.data.Schema.infer(x))
    with pytest.raises(zn.ArgumentError, match="x: expected at most 10000 features, got 10001"):
        zn.certification.smallest_change(many, torch.tensor(x[:1]), wide)
    x, narrow = x[:, :8], zn.L0(1, unit="column", schema=zn.data.Schema.infer(x[:, :8]))
    for trees, fine in ((10_000, True), (10_001, False)):
        forest = ExtraTreesClassifier(trees, max_depth=2, random_state=0).fit(x, y)
        model = zn.models.from_sklearn(forest)
        if fine:
            assert zn.certification.smallest_change(
                model, torch.tensor(x[:2]), narrow.with_k(None)
            ).exact.all()
            continue
        with pytest.raises(zn.ArgumentError, match="model: expected at most 10000 trees"):
            zn.certification.smallest_change(model, torch.tensor(x[:2]), narrow)
