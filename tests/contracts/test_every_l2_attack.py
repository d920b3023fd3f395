"""The laws of every attack (DESIGN, section 4) for those that look for the shortest change."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from small_problems import CLASSES, inputs, network, predictions, problem
from test_every_attack import assert_same, linear, lived_in, surroundings
from torch import nn

from zeronorm import L0, L2, ArgumentError
from zeronorm.attacks import catalogue
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.theory import minimal_length

SHORTEST = [pytest.param(a, id=a.name) for a in catalogue.values() if a.norms == ("L2",)]
every_attack = pytest.mark.parametrize("attack", SHORTEST)
BOXES = ("unit", "wide", "tensors")


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_both_of_them_sit_here():
    assert [p.id for p in SHORTEST] == ["deepfool", "carlini_wagner_l2"]
    assert all(a.kind == "minimal" and a.knowledge == "white" for a in (p.values[0] for p in SHORTEST))


def run(attack, model, x, y, threat, effort=None, **arguments):
    steps = (30 if attack.name == "deepfool" else 120) if effort is None else effort
    return attack.function(model, x, y, threat, steps=steps, **arguments)


def posed(box="unit", epsilon=None, **settings):
    """A problem of the ℓ0 attacks, its box alone taken over."""
    kind = settings.pop("kind", "colour")
    model, x, y, threat = problem(kind, box, **settings)
    return model, x, y, L2(epsilon, threat.low, threat.high)


def assert_inside(x, x_adv, threat):
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert not x_adv.requires_grad and x_adv.is_contiguous()
    low, high = (torch.as_tensor(bound, dtype=x.dtype) for bound in (threat.low, threat.high))
    assert (x_adv >= low).all() and (x_adv <= high).all()
    assert threat.contains(x, x_adv).all()
    if threat.epsilon is not None:
        assert (
            (x_adv.double() - x.double()).square().flatten(1).sum(1).sqrt() <= threat.epsilon * (1 + 1e-12)
        ).all()


@every_attack
@pytest.mark.parametrize("kind", ["grey", "colour", "sequence", "flat"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_inside_the_threat_model(attack, kind, box, dtype):
    model, x, y, threat = posed(box, kind=kind, dtype=dtype)
    before = x.clone()
    x_adv = run(attack, model, x, y, threat)
    assert_inside(x, x_adv, threat)
    assert torch.equal(x, before) and x_adv.data_ptr() != x.data_ptr()
    assert torch.equal(x_adv[1], x[1]), "misclassified already, so left clean"
    wrong = predictions(model, x_adv) != y
    assert (wrong | (x_adv == x).flatten(1).all(1)).all(), "broken, or clean"
    assert wrong.sum() >= 2
    half = L2(float(threat.distance(x, x_adv).median()), threat.low, threat.high)
    within = run(attack, model, x, y, half)
    assert_inside(x, within, half)
    kept = threat.distance(x, x_adv) <= half.epsilon
    assert torch.equal(within, torch.where(kept[(...,) + (None,) * (x.dim() - 1)], x_adv, x))
    assert torch.equal(run(attack, model, x, y, L2(0.0, threat.low, threat.high)), x)
    assert run(attack, model, x[:0], y[:0], threat).shape == x[:0].shape


@every_attack
def test_shapes_on_the_inside_too(attack, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
    for box in BOXES:
        run(attack, *posed(box, n=3), effort=21)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("architecture", ["mlp", "conv", "batch-norm"])
def test_blind_to_the_batch(attack, dtype, architecture):
    model, x, y, threat = posed("tensors", architecture=architecture, dtype=dtype)
    ids = torch.tensor([5, 0, 9, 1_000_000_007, 3, 2**40, 4, 11])
    together = run(attack, model, x, y, threat, ids=ids)
    assert (predictions(model, together) != y).sum() >= 4
    order = torch.tensor([3, 7, 0, 6, 2, 5, 1, 4])
    assert torch.equal(run(attack, model, x[order], y[order], threat, ids=ids[order]), together[order])
    for rows in ([0], [2], [7], [5, 1, 3], [0, 4, 6]):
        assert torch.equal(run(attack, model, x[rows], y[rows], threat, ids=ids[rows]), together[rows])
    assert torch.equal(run(attack, model, x, y, threat, seed=9, ids=ids + 1), together), "nothing is random"


@every_attack
def test_same_queries_alone_and_together(attack):
    model, x, y, threat = posed()

    def spent(rows):
        counter = QueryCounter(model, len(rows), x.device)
        run(attack, counter, x[rows], y[rows], threat, ids=rows)
        return torch.stack([counter.forwards, counter.backwards])

    together = spent(torch.arange(8))
    assert torch.equal(together, torch.cat([spent(torch.tensor([i])) for i in range(8)], dim=1))


@every_attack
def test_what_is_said_to_be_broken_is(attack):
    model, x, y, threat = posed("wide", n=24)
    claims = {}
    told = QueryCounter(
        model,
        len(x),
        x.device,
        on_broken=lambda rows, x_adv: claims.update(zip(rows.tolist(), x_adv, strict=True)),
    )
    x_adv = run(attack, told, x, y, threat)
    wrong = (predictions(model, x_adv) != y) & (x_adv != x).flatten(1).any(1)
    assert wrong.nonzero().flatten().tolist() == sorted(claims)
    assert all(torch.equal(x_adv[row], claimed) for row, claimed in claims.items())


@every_attack
def test_no_side_effects(attack):
    model, x, y, threat = lived_in()
    box = L2(None, threat.low, threat.high)
    before = surroundings(model)
    trained = run(attack, model, x, y, box)
    assert_same(before, surroundings(model))
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(run(attack, model, x.clone(), y.clone(), box), trained)
    assert torch.equal(run(attack, model.eval(), x, y, box), trained), "searched in evaluation mode"


@every_attack
def test_no_side_effects_of_a_search_that_failed(attack):
    model, x, y, threat = lived_in()
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) == 3:
            raise KeyError("out of memory")

    handle = model.register_forward_pre_hook(fail)
    before = surroundings(model)
    with pytest.raises(KeyError, match="out of memory"):
        run(attack, model, x, y, L2(None, threat.low, threat.high))
    handle.remove()
    assert_same(before, surroundings(model))


# -- the exam with known answers -------------------------------------------------------------------------

EXAM = [((1, 6, 6), 0.0, 1.0), ((3, 5, 5), -2.0, 3.0), ((20,), 0.0, 1.0)]


@every_attack
@pytest.mark.parametrize(("shape", "low", "high"), EXAM, ids=str)
def test_within_the_stated_factor_of_the_optimum(attack, shape, low, high):
    for seed, classes in enumerate((2, 3, 5)):
        weight, bias, x, model = linear(shape, classes, seed)
        x = low + (high - low) * x
        y = model(x).argmax(1)
        optimum = minimal_length(weight, bias, x, y, low=low, high=high)
        rows = optimum.isfinite().nonzero().flatten()
        assert len(rows) > 5
        x_adv = run(attack, model, x[rows], y[rows], L2(None, low, high), effort=500)
        found = L2(None).distance(x[rows], x_adv)
        assert (model(x_adv).argmax(1) != y[rows]).all(), f"seed {seed}"
        assert (found >= optimum[rows] * (1 - 1e-9)).all(), "no attack does what is impossible"
        assert (found <= attack.factor * optimum[rows]).all(), f"seed {seed}"


@every_attack
def test_no_random_direction_of_a_network_is_much_shorter(attack):
    """A second judge: of thousands of directions through the adversarial's surroundings none does better by far."""
    model, x, y, threat = posed("unit", kind="grey", dtype=torch.float64)
    x_adv = run(attack, model, x, y, threat, effort=500)
    found = threat.distance(x, x_adv)
    generator = torch.Generator().manual_seed(0)
    for i in ((found > 0) & (predictions(model, x_adv) != y)).nonzero().flatten().tolist():
        noise = torch.randn(4000, *x.shape[1:], generator=generator, dtype=torch.float64)
        direction = (x_adv[i] - x[i]) / found[i] + noise * torch.rand(4000, 1, 1, 1, generator=generator) / 4
        direction = direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        tried = (x[i] + 0.8 * found[i] * direction).clamp(0, 1)
        assert (predictions(model, tried) == y[i]).all()


def test_deepfool_as_on_the_sheet():
    """Rows (1,0), (0,1), (-1,-1) at (2,1): 0.70711 to class 1, 2.23607 to class 2, and (1.5, 1.5) between."""
    weight = torch.tensor([[1.0, 0], [0, 1], [-1, -1]]).double()
    x, y = torch.tensor([[2.0, 1.0]]).double(), torch.tensor([0])
    assert minimal_length(weight, torch.zeros(3), x, y, low=-9, high=9).tolist() == pytest.approx(
        [0.70711], abs=1e-5
    )
    x_adv = catalogue["deepfool"].function(lambda v: v @ weight.T, x, y, L2(None, -9, 9), overshoot=1e-6)
    assert x_adv[0].tolist() == pytest.approx([1.5, 1.5], abs=1e-3)
    only = weight[[0, 2]]
    x_adv = catalogue["deepfool"].function(lambda v: v @ only.T, x, y, L2(None, -9, 9), overshoot=1e-6)
    assert float(L2(None).distance(x, x_adv)) == pytest.approx(2.23607, abs=1e-3)


def test_reaches_a_target():
    attack = catalogue["carlini_wagner_l2"]
    assert [p.id for p in SHORTEST if p.values[0].targeted] == ["carlini_wagner_l2"]
    _, _, x, model = linear((20,), 3, seed=2)
    y = model(x).argmax(1)
    goal = (y + 1 + torch.arange(len(y)) % 2) % 3
    goal[0] = y[0]  # there already
    x_adv = run(attack, model, x, y, L2(None, -1, 2), targeted=goal)
    assert torch.equal(model(x_adv).argmax(1), goal)
    assert torch.equal(x_adv[0], x[0])


@every_attack
def test_logits_that_are_not_numbers_end_no_search(attack):
    _, _, x, model = linear((1, 5, 5), 3, seed=1)
    x = 0.5 + 0.4 * (x - 0.5)
    y = model(x).argmax(1)

    def brittle(inputs):
        z = model(inputs)
        return torch.where(inputs.flatten(1)[:, :2].amax(1, keepdim=True) > 0.7, torch.nan, z)

    free = run(attack, model, x, y, L2(None))
    x_adv = run(attack, brittle, x, y, L2(None))
    assert brittle(x_adv).isfinite().all()
    apart = brittle(free).isfinite().all(1) & (model(free).argmax(1) != y)
    assert 5 < apart.sum() < len(x)
    # the descent swings into the place on its way, where there is no slope to follow
    share = 1.0 if attack.name == "deepfool" else 0.5
    assert (brittle(x_adv).argmax(1) != y)[apart].double().mean() >= share


@every_attack
def test_no_gradient_no_adversarial(attack):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    model[1].weight.data.zero_()
    x = inputs(5, "grey", L0(1))
    x_adv = run(attack, model, x, predictions(model, x), L2(None))
    assert torch.equal(x_adv, x)
    with pytest.raises(ArgumentError, match=f"model: {attack.name} needs gradients"):
        run(
            attack,
            lambda v: torch.eye(3)[0].expand(len(v), 3),
            x,
            torch.zeros(5, dtype=torch.int64),
            L2(None),
        )


@every_attack
def test_refuses(attack):
    model, x = network("mlp", "grey").eval(), inputs(5, "grey", L0(1))
    y = predictions(model, x)
    for threat in (L0(3), None):
        with pytest.raises(ArgumentError, match=f"threat: {attack.name} works on an L2 threat model, got"):
            run(attack, model, x, y, threat)
    for arguments, match in (
        ({"x": x + 2}, r"x: expected values in \[0, 1\]"),
        ({"y": y[:2]}, r"y: expected shape \(5,\)"),
        ({"effort": -1}, "steps: expected an integer of at least 0, got -1"),
    ):
        with pytest.raises(ArgumentError, match=match):
            run(attack, **({"model": model, "x": x, "y": y, "threat": L2(None)} | arguments))
    with pytest.raises(ArgumentError, match="epsilon: expected a number"):
        L2(-1.0)
    with pytest.raises(ArgumentError, match="x: expected a torch tensor, got list"):
        run(attack, model, [[0.5]], y, L2(None))
