"""Input that cannot be used: one clear line that names the argument, before the model is searched."""

from __future__ import annotations

import inspect

import jaxtyping
import numpy as np
import pytest
import torch

from zeronorm import L0, L2, ArgumentError, Linf
from zeronorm.attacks import catalogue

ATTACKS = [pytest.param(attack, id=name) for name, attack in catalogue.items()]
every_attack = pytest.mark.parametrize("attack", ATTACKS)

SPARSE = [p for p in ATTACKS if p.values[0].norms == ("L0",)]


def own(attack, threat):
    """The threat model in the attack's norm."""
    if attack.norms == ("L0",) or not isinstance(threat, L0):
        return threat
    ball = L2 if attack.norms == ("L2",) else Linf
    return ball(0.1 * threat.k, threat.low, threat.high)


X = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0])
NAN = X.index_fill(0, torch.tensor([1, 3]), torch.nan)


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """A person's mistakes meet the library's own checks, not those that the tests add."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def model(x):
    return x.flatten(1)[:, :3] - 0.5 * x.flatten(1)[:, 3:6]


BAD = {
    "a model that is none": (
        {"model": "resnet"},
        "model: expected a callable from inputs to logits, got str",
    ),
    "an array": ({"x": X.numpy()}, "x: expected a torch tensor, got ndarray"),
    "bytes": ({"x": (X * 255).byte()}, r"x: expected a floating point tensor, got torch\.uint8; scale 8-bit"),
    "no batch": ({"x": X[0, 0, 0]}, r"x: expected shape \(batch, feature\) or .*, got \(3,\)"),
    "no features": ({"x": torch.zeros(4, 0)}, r"x: expected at least one feature .*, got shape \(4, 0\)"),
    "NaN": ({"x": NAN}, "x: expected finite values, got NaN or infinity in 2 of 4 examples"),
    "infinity": ({"x": X / 0}, "x: expected finite values"),
    "eight bit range": ({"x": X * 255}, r"x: expected values in \[0, 1\], got \[.*\]; give the threat model"),
    "no labels": ({"y": None}, "y: expected a torch tensor, got NoneType"),
    "list of labels": ({"y": [0, 1, 2, 0]}, "y: expected a torch tensor, got list"),
    "soft labels": ({"y": Y.float()}, r"y: expected integer class indices, got torch\.float32"),
    "one-hot labels": ({"y": torch.eye(3).long()[Y]}, r"y: expected shape \(4,\), one .*, got \(4, 3\)"),
    "one label too few": ({"y": Y[:3]}, r"y: expected shape \(4,\), one label per example, got \(3,\)"),
    "labels from -1": ({"y": Y - 1}, "y: expected class indices of at least 0, got -1"),
    "labels from 1": ({"y": Y + 1}, "model: expected a logit for every label up to 3, got 3 classes"),
    "a number": ({"threat": 3}, "threat: .* works on an (L0|L2|Linf) threat model, got int"),
    "a box of another shape": (
        {"threat": L0(3, low=torch.zeros(5))},
        r"low, high: expected .* that broadcast to one example \(1, 3, 3\), got shapes \(5,\) and \(\)",
    ),
    "a seed below 0": ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
    "a seed that is none": ({"seed": "a"}, "seed: expected an integer of at least 0, got 'a'"),
    "too few ids": ({"ids": torch.arange(3)}, r"ids: expected 4 integers, one per example, got .*\(3,\)"),
    "ids that are numbers": ({"ids": torch.rand(4)}, r"ids: expected 4 integers, .* got torch\.float32"),
}


BAD_L0 = {
    "k too large": (L0(10), "k: expected between 0 and 9, the number of pixels .*, got 10"),
    "k above the mask": (
        L0(3, allowed=torch.arange(9) < 2),
        "k: expected between 0 and 2, the number of pixels .* that may change, got 3",
    ),
    "a mask of another shape": (
        L0(3, allowed=torch.ones(4, dtype=torch.bool)),
        r"allowed: expected a mask of 9 pixels, of shape \(3, 3\) or flat, got shape \(4,\)",
    ),
}


@every_attack
@pytest.mark.parametrize("mistake", BAD)
def test_arguments(attack, mistake):
    change, message = BAD[mistake]
    arguments = {"model": model, "x": X, "y": Y, "threat": L0(2), **change}
    arguments["threat"] = own(attack, arguments["threat"])
    cost = dict.fromkeys(attack.cost, 3)
    with pytest.raises(ArgumentError, match=f"^{message}"):
        attack.function(**arguments, **cost)


@pytest.mark.parametrize("attack", SPARSE)
@pytest.mark.parametrize("mistake", BAD_L0)
def test_sparse_threat_models(attack, mistake):
    threat, message = BAD_L0[mistake]
    with pytest.raises(ArgumentError, match=f"^{message}"):
        attack.function(model, X, Y, threat, **dict.fromkeys(attack.cost, 3))


@every_attack
def test_threat_models_of_other_norms(attack):
    (norm,) = attack.norms
    for threat in (L0(2), L2(0.1), Linf(0.1)):
        given = type(threat).__name__
        if given != norm:
            with pytest.raises(
                ArgumentError, match=f"^threat: .* works on an {norm} threat model, got {given}"
            ):
                attack.function(model, X, Y, threat)


@pytest.mark.parametrize("attack", [p for p in SPARSE if p.values[0].kind == "budget"])
def test_a_budget_that_is_none(attack):
    with pytest.raises(ArgumentError, match=r"^threat: .* needs a budget, expected an integer k, got None"):
        attack.function(no_model, X, Y, L0(None), **dict.fromkeys(attack.cost, 3))


def no_model(x):
    raise AssertionError("asked before its arguments were checked")


COSTS = [(attack, cost) for attack in catalogue.values() for cost in attack.cost]


@pytest.mark.parametrize(("attack", "cost"), COSTS, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("value", [-1, 1.5, True, "many"])
def test_how_long_to_search(attack, cost, value):
    """Refused at once, not after an hour's search, even where there is nothing to attack."""
    for x, y, k in ((X, Y, 2), (X, Y, 0), (X[:0], Y[:0], 2)):
        with pytest.raises(ArgumentError, match=f"^{cost}: expected an integer of at least [01], got"):
            attack.function(no_model, x, y, own(attack, L0(k)), **{cost: value})


OPTIONS = [
    ("sparse_pgd", "gradient", "both", "expected one of unprojected, projected, got 'both'"),
    ("sparse_pgd", "tolerance", 0, "expected an integer of at least 1, got 0"),
    ("sparse_pgd", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("sparse_pgd", "step_size", float("nan"), r"expected a number in \(0, inf\), got nan"),
    ("sparse_pgd", "mask_step_size", -1.0, r"expected a number in \(0, inf\), got -1.0"),
    ("sparse_rs", "initial_fraction", 1.5, r"expected a number in \(0, 1\], got 1.5"),
    ("sparse_rs", "initial_fraction", 0, r"expected a number in \(0, 1\], got 0"),
    ("sparse_rs", "loss", "hinge", "expected one of cross_entropy, margin, got 'hinge'"),
    ("sparse_rs", "restarts", 0, "expected an integer of at least 1, got 0"),
    ("sparse_autoattack", "version", "best", "expected one of published, plus, got 'best'"),
    ("guided_exchange", "temperature", -0.5, r"expected a number in \[0, inf\), got -0.5"),
    ("guided_exchange", "penalty", -1.0, r"expected a number in \[0, inf\), got -1.0"),
    ("guided_exchange", "warm_up", -1, "expected an integer of at least 0, got -1"),
    ("pgd0", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("pgd0", "restarts", 0, "expected an integer of at least 1, got 0"),
    ("saif", "halvings", -1, "expected an integer of at least 0, got -1"),
    ("sigma_zero", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("sigma_zero", "sigma", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("sigma_zero", "threshold", 1.5, r"expected a number in \[0, 1\], got 1.5"),
    ("sigma_zero", "threshold_step_size", -0.1, r"expected a number in \[0, inf\), got -0.1"),
    ("fmn_l0", "step_size", -1.0, r"expected a number in \(0, inf\), got -1.0"),
    ("fmn_l0", "budget_step_size", 0.0, r"expected a number in \[0.001, 1\], got 0.0"),
    ("vfga", "samples", 0, "expected an integer of at least 1, got 0"),
    ("corner_search", "samples", 0, "expected an integer of at least 1, got 0"),
    ("corner_search", "candidates", 0, "expected an integer between 1 and 40000, got 0"),
    ("corner_search", "candidates", 40_001, "expected an integer between 1 and 40000, got 40001"),
    ("corner_search", "pass_size", 0, "expected an integer of at least 1, got 0"),
    ("pointwise", "restarts", 0, "expected an integer of at least 1, got 0"),
    ("pointwise", "repetitions", 0, "expected an integer of at least 1, got 0"),
    ("sparse_fool", "inner_steps", 0, "expected an integer of at least 1, got 0"),
    ("sparse_fool", "classes", 1, "expected an integer of at least 2, got 1"),
    ("sparse_fool", "distance", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("sparse_fool", "overshoot", -0.1, r"expected a number in \[0, inf\), got -0.1"),
    ("carlini_wagner_l0", "inner_steps", 0, "expected an integer of at least 1, got 0"),
    ("carlini_wagner_l0", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("carlini_wagner_l0", "constant", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("jsma", "classes", 1, "expected an integer of at least 2, got 1"),
    ("jsma", "pass_size", 0, "expected an integer of at least 1, got 0"),
    ("randomized_fgsm", "random_fraction", 1.5, r"expected a number in \[0, 1\], got 1.5"),
    ("iterative_fgsm", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("momentum_fgsm", "step_size", -0.1, r"expected a number in \(0, inf\), got -0.1"),
    ("momentum_fgsm", "momentum", -1.0, r"expected a number in \[0, inf\), got -1.0"),
    ("pgd", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("pgd", "restarts", 0, "expected an integer of at least 1, got 0"),
    ("locally_linear", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("locally_linear", "rivals", 0, "expected an integer of at least 1, got 0"),
    ("deepfool", "classes", 1, "expected an integer of at least 2, got 1"),
    ("deepfool", "overshoot", -0.1, r"expected a number in \[0, inf\), got -0.1"),
    ("carlini_wagner_l2", "rounds", 0, "expected an integer of at least 1, got 0"),
    ("carlini_wagner_l2", "step_size", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("carlini_wagner_l2", "constant", 0.0, r"expected a number in \(0, inf\), got 0.0"),
    ("carlini_wagner_l2", "confidence", -1.0, r"expected a number in \[0, inf\), got -1.0"),
]


@pytest.mark.parametrize(("name", "option", "value", "message"), OPTIONS)
def test_options(name, option, value, message):
    with pytest.raises(ArgumentError, match=f"^{option}: {message}"):
        catalogue[name].function(no_model, X, Y, own(catalogue[name], L0(2)), **{option: value})


def test_every_option_is_refused_somewhere():
    tried = {(name, option) for name, option, *_ in OPTIONS}
    tried |= {(attack.name, cost) for attack, cost in COSTS}
    assert tried == {(name, option) for name, attack in catalogue.items() for option in attack.options}


MODELS = {
    "nothing": (lambda x: None, "expected a floating point tensor of logits, got NoneType"),
    "a pair": (lambda x: (model(x), model(x)), "expected a floating point tensor of logits, got tuple"),
    "an array": (lambda x: model(x).detach().numpy(), "expected .* tensor of logits, got ndarray"),
    "labels": (lambda x: model(x).argmax(1), r"expected a floating point tensor of logits, got torch\.int64"),
    "one score": (lambda x: model(x)[:, :1], r"expected logits of shape \(\d+, classes\) with at least 2"),
    "a flat batch": (
        lambda x: model(x).flatten(),
        r"expected logits of shape \(\d+, classes\) .*, got \(\d+,\)",
    ),
    "half the batch": (
        lambda x: model(x)[::2],
        r"expected logits of shape \(\d+, classes\) .*, got \(\d+, 3\)",
    ),
    "too few classes": (lambda x: model(x)[:, :2], "expected a logit for every label up to 2, got 2 classes"),
    "NaN": (
        lambda x: model(x).index_fill(0, torch.tensor([2]), torch.nan),
        "expected finite logits, got NaN or infinity for 1 of 4 examples",
    ),
    "NaN for one class": (
        lambda x: model(x).index_fill(1, torch.tensor([2]), torch.nan),
        "expected finite logits, got NaN or infinity for 4 of 4 examples",
    ),
}


@every_attack
@pytest.mark.parametrize("mistake", MODELS)
def test_models(attack, mistake):
    function, message = MODELS[mistake]
    with pytest.raises(ArgumentError, match=f"^model: {message}"):
        attack.function(function, X, Y, own(attack, L0(2)), **dict.fromkeys(attack.cost, 3))


@every_attack
def test_a_model_that_goes_wrong_on_the_way(attack):
    """The message is the same at the first pass and at the tenth."""
    passes = []
    last = 3 if "fgsm" in attack.name and not attack.cost else 4  # of one step: three passes in all

    def tiring(x):
        passes.append(1)
        return 10 * Y_LOGITS.expand(len(x), 3) + model(x) if len(passes) < last else None

    with pytest.raises(
        ArgumentError, match=r"^model: expected a floating point tensor of logits, got NoneType"
    ):
        attack.function(
            tiring, X, torch.zeros(4, dtype=torch.int64), own(attack, L0(2)), **dict.fromkeys(attack.cost, 99)
        )


Y_LOGITS = torch.tensor([[1.0, 0.0, 0.0]])


@pytest.mark.parametrize("attack", [p for p in ATTACKS if p.values[0].knowledge == "white"])
def test_a_model_without_gradients(attack):
    def detached(x):
        return torch.from_numpy(np.stack([x.detach().numpy().sum((1, 2, 3)), np.zeros(len(x))], axis=1))

    with pytest.raises(
        ArgumentError, match=r"^model: .* needs gradients, .*; sparse_rs works with any callable"
    ):
        attack.function(detached, X, torch.zeros(4, dtype=torch.int64), own(attack, L0(2)))


@pytest.mark.parametrize("attack", [p for p in ATTACKS if p.values[0].targeted])
@pytest.mark.parametrize(
    ("targeted", "message"),
    [
        (Y[:2], r"targeted: expected shape \(4,\), one label per example, got \(2,\)"),
        (Y.double(), r"targeted: expected integer class indices, got torch\.float64"),
        (Y - 1, "targeted: expected class indices of at least 0, got -1"),
        (Y + 1, "model: expected a logit for every label up to 3, got 3 classes"),
    ],
)
def test_targets(attack, targeted, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        attack.function(model, X, Y, own(attack, L0(2)), targeted=targeted)


STARTERS = [p for p in ATTACKS if "start" in inspect.signature(p.values[0].function).parameters]


@pytest.mark.parametrize("attack", STARTERS)
def test_starting_points(attack):
    cost = dict.fromkeys(attack.cost, 3)
    with pytest.raises(
        ArgumentError, match=r"^start: expected the shape of x, \(4, 1, 3, 3\), got \(2, 1, 3, 3\)"
    ):
        attack.function(model, X, Y, L0(2), start=X[:2], **cost)
    with pytest.raises(ArgumentError, match=r"^start: expected finite values"):
        attack.function(model, X, Y, L0(2), start=NAN, **cost)


@pytest.mark.parametrize("attack", STARTERS)
@pytest.mark.parametrize(
    "threat",
    [L0(2), L0(2, linf=0.1), L0(2, allowed=torch.arange(9) > 4), L0(2, low=torch.zeros(3, 3), linf=0.3)],
    ids=["box", "cap", "mask", "tensors"],
)
def test_starting_points_outside_the_threat_model(attack, threat):
    """Wherever the search begins, it ends inside; or it is refused."""

    def brighter_is_better(x):
        score = x.flatten(1).sum(1)
        return torch.stack([torch.full_like(score, 100.0), score], dim=1)

    start = torch.full_like(X, 2.0)  # all pixels, and out of the box
    cost = dict.fromkeys(attack.cost, 3)
    try:
        x_adv = attack.function(brighter_is_better, X, 0 * Y, threat, start=start, **cost)
    except ArgumentError as error:
        assert str(error).startswith("start: expected")
    else:
        assert threat.contains(X, x_adv).all()
