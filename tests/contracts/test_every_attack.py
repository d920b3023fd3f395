"""The laws of every attack (DESIGN, section 4), over the catalogue: a new attack is one more row of it."""

from __future__ import annotations

import math
import random

import jaxtyping
import numpy as np
import pytest
import torch
from brute_force import fewest_changes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from small_problems import BOXES, CLASSES, KINDS, inputs, network, predictions, problem, threat_model
from torch import nn

from zeronorm import L0, Linf, losses
from zeronorm.attacks import catalogue
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.theory import UNBREAKABLE, minimal_changes, minimal_epsilon

EPSILON = 0.015  # what a changed pixel of the sparse problems stands for where the budget is one of ℓ∞

# options beside the default ones that every law is tried with too
VARIANTS = {
    "sparse_pgd": [{"gradient": "projected"}],
    "sparse_rs": [{"loss": "margin", "restarts": 2}],
    "pgd": [{"restarts": 3}],
    "locally_linear": [{"rivals": 1}],
}
# These run code that others run as well, with other numbers: `ascend` of attacks/signed_gradient.py, or fewer of its
# rounds.  Momentum and restarts sit the whole grid of kinds, boxes and types for it; these a diagonal.
THIN = {"fgsm", "randomized_fgsm", "iterative_fgsm", "pgd", "locally_linear-1"}
ROUNDS = {"pgd-3": 3, "locally_linear": CLASSES - 1}  # ascents of as many steps each


class Sat:
    """An attack of the catalogue that sits the exam, with some options.

    A threat model is given as an `L0`; an ℓ∞ attack has its box, and a radius that grows with k.
    """

    def __init__(self, attack, options):
        self.attack, self.options = attack, options
        self.id = "-".join([attack.name, *map(str, options.values())])

    def __call__(self, model, x, y, threat, effort=25, **arguments):
        cost = dict.fromkeys(self.attack.cost, -(-effort // ROUNDS.get(self.id, 1)))
        return self.attack.function(model, x, y, self.own(threat), **cost, **self.options, **arguments)

    def own(self, threat):
        """The threat model in the attack's norm."""
        if self.attack.norms == ("L0",) or isinstance(threat, Linf):
            return threat
        return Linf(EPSILON * threat.k, threat.low, threat.high)


ATTACKS = [
    pytest.param(sat, id=sat.id)
    for attack in catalogue.values()
    if attack.norms != ("L2",)  # see test_every_l2_attack
    for sat in (Sat(attack, options) for options in ({}, *VARIANTS.get(attack.name, [])))
]
WHITE = [p for p in ATTACKS if p.values[0].attack.knowledge == "white"]
BLACK = [p for p in ATTACKS if p.values[0].attack.knowledge != "white"]
SPARSE = [p for p in ATTACKS if p.values[0].attack.norms == ("L0",)]
LINF = [p for p in ATTACKS if p.values[0].attack.norms == ("Linf",)]
BUDGET = [p for p in ATTACKS if p.values[0].attack.kind == "budget"]
MINIMAL = [p for p in ATTACKS if p.values[0].attack.kind == "minimal"]
TARGETED = [p for p in ATTACKS if p.values[0].attack.targeted]
every_attack = pytest.mark.parametrize("attack", ATTACKS)
every_sparse_attack = pytest.mark.parametrize("attack", SPARSE)
every_linf_attack = pytest.mark.parametrize("attack", LINF)


def grid(names, cases, thin):
    """Every attack on these cases, and those in THIN on the few of them in `thin`."""
    ids = ["-".join(str(part).removeprefix("torch.") for part in case) for case in cases]
    return pytest.mark.parametrize(
        ("attack", *names),
        [
            pytest.param(p.values[0], *case, id=f"{p.id}-{case_id}")
            for p in ATTACKS
            for case, case_id in zip(cases, ids, strict=True)
            if p.id not in THIN or case in thin
        ],
    )


# every pair of a kind, a box and a type of numbers; a diagonal has each of them at least once
CASES = [
    (kind, box, (torch.float32, torch.float64)[(i + j) % 2])
    for i, kind in enumerate(KINDS)
    for j, box in enumerate(BOXES)
]
DIAGONAL = [CASES[7 * (j % 5) + j] for j in range(7)]


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch):
    """Without the checks of shapes at run time, which take half the time and read the global random state."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_the_whole_catalogue_sits_here():
    elsewhere = {name for name, attack in catalogue.items() if attack.norms == ("L2",)}
    assert {p.values[0].attack.name for p in SPARSE + LINF} | elsewhere == set(catalogue) >= set(VARIANTS)
    assert THIN | set(ROUNDS) <= {p.id for p in ATTACKS}
    assert {kind for kind, *_ in DIAGONAL} == set(KINDS) and {box for _, box, _ in DIAGONAL} == set(BOXES)
    for one, other in ((SPARSE, LINF), (WHITE, BLACK), (BUDGET, MINIMAL)):
        assert len(one) + len(other) == len(ATTACKS) and one and other
    assert TARGETED
    for name, attack in catalogue.items():
        assert attack.name == name == attack.function.__name__
        assert attack.norms in (("L0",), ("L2",), ("Linf",)) and attack.factor >= 1
        assert set(attack.cost) <= set(attack.options)


# -- 1. inside the threat model --------------------------------------------------------------------------


def assert_inside(x, x_adv, threat):
    """Re-measured from scratch, entry by entry."""
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and x_adv.device == x.device
    assert not x_adv.requires_grad and x_adv.is_contiguous()
    assert threat.contains(x, x_adv).all()
    low, high = (torch.as_tensor(bound, dtype=x.dtype) for bound in (threat.low, threat.high))
    assert (x_adv >= low).all() and (x_adv <= high).all()
    if isinstance(threat, Linf):
        assert (x_adv <= x + threat.epsilon).all() and (x_adv >= x - threat.epsilon).all()
        return
    changed = (x != x_adv).numpy()
    if threat.unit == "pixel" and changed.ndim > 2:
        changed = changed.any(axis=1)
    changed = changed.reshape(len(x), -1)
    assert (changed.sum(axis=1) <= threat.k).all()
    if threat.linf is not None:
        assert (x_adv <= x + threat.linf).all() and (x_adv >= x - threat.linf).all()
    if threat.allowed is not None:
        assert not changed[:, ~threat.allowed.numpy()].any()


@grid(("kind", "box", "dtype"), CASES, DIAGONAL)
def test_inside_the_threat_model(attack, kind, box, dtype):
    model, x, y, threat = problem(kind, box, k=3, n=8, dtype=dtype)
    before = x.clone(), y.clone()
    x_adv = attack(model, x, y, threat)
    assert_inside(x, x_adv, attack.own(threat))
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert x_adv.data_ptr() != x.data_ptr()
    assert torch.equal(x_adv[1], x[1]), "misclassified already, so left clean"


@grid(("box",), [(box,) for box in BOXES], [("wide",), ("everything",)])
def test_budgets_at_both_ends(attack, box):
    model, x, y, threat = problem("colour", box, n=5)
    assert torch.equal(attack(model, x, y, threat.with_k(0)), x)
    everything = threat.positions(x) if threat.allowed is None else int(threat.allowed.sum())
    for k in (1, everything - 1, everything):
        budget = attack.own(threat.with_k(k))
        assert_inside(x, attack(model, x, y, budget, effort=8), budget)


@pytest.mark.parametrize("attack", MINIMAL)
@pytest.mark.parametrize("box", ["unit", "mask"])
def test_no_budget_is_one_of_all_positions(attack, box):
    model, x, y, threat = problem("colour", box)
    all_of_them = threat.with_k(threat.available(x))
    x_adv = attack(model, x, y, threat.with_k(None), effort=100)
    assert torch.equal(x_adv, attack(model, x, y, all_of_them, effort=100))
    assert_inside(x, x_adv, all_of_them)
    assert ((predictions(model, x_adv) != y) | (x_adv == x).flatten(1).all(1)).all(), "broken, or clean"


# those that weigh pixels by what they can gain, and features as published, without
TWO_FORMS = ("jsma", "sparse_fool")


@pytest.mark.parametrize("attack", [p for p in ATTACKS if p.values[0].attack.name not in TWO_FORMS])
def test_a_pixel_of_one_channel_is_a_feature(attack):
    model, x, y, threat = problem("grey", k=2)
    as_pixels = attack(model, x, y, threat)
    assert torch.equal(attack(model, x, y, L0(2, unit="feature")), as_pixels)
    flat = attack(lambda v: model(v.view(-1, *x.shape[1:])), x.flatten(1), y, L0(2))
    assert torch.equal(flat.view_as(x), as_pixels)


@grid(("kind",), [(kind,) for kind in KINDS], [("colour",)])
def test_an_empty_batch(attack, kind):
    model, x, y, threat = problem(kind, "everything", n=0)
    assert attack(model, x, y, threat).shape == x.shape


@grid(("kind",), [(kind,) for kind in KINDS], [("colour",), ("flat",)])
def test_shapes_on_the_inside_too(attack, kind, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", False)
    for box in ("unit", "everything"):
        attack(*problem(kind, box, n=3), effort=6)


@every_attack
def test_memory_layout_does_not_matter(attack):
    model, x, y, threat = problem("colour", architecture="conv", k=1)
    expected = attack(model, x, y, threat)
    assert torch.equal(attack(model, x.to(memory_format=torch.channels_last), y, threat), expected)
    assert torch.equal(attack(model, x.repeat_interleave(2, 0)[::2], y, threat), expected)
    assert torch.equal(attack(model, x.clone().requires_grad_(), y, threat), expected)
    assert torch.equal(attack(model, x, y.to(torch.int32), threat), expected)


def test_ten_thousand_random_adversarials():
    """0 violations of box, budget and claim: who an attack says is broken is broken, by what it returned."""
    seen = broken = 0
    for seed in range(9):
        for index, attack in enumerate(p.values[0] for p in ATTACKS):
            kind, box = list(KINDS)[(seed + index) % 5], BOXES[(2 * seed + index) % 7]
            threat = threat_model(box, kind, k=1 + seed % 4)
            model = network(("mlp", "conv", "batch-norm")[seed % 3], kind, seed=seed).eval()
            x = inputs(240, kind, threat, seed=seed)
            y = predictions(model, x)
            claims = {}

            def note(rows, x_adv, claims=claims):
                claims.update(zip(rows.tolist(), x_adv, strict=True))

            told = QueryCounter(model, len(x), x.device, on_broken=note)
            x_adv = attack(told, x, y, threat, effort=12)
            assert_inside(x, x_adv, attack.own(threat))
            wrong = predictions(model, x_adv) != y
            assert wrong.nonzero().flatten().tolist() == sorted(claims)
            assert all(torch.equal(x_adv[row], claimed) for row, claimed in claims.items())
            seen, broken = seen + len(x), broken + int(wrong.sum())
    assert seen >= 10_000
    assert 0.2 < broken / seen < 0.95, "the law should meet both outcomes"


@pytest.mark.parametrize("attack", BUDGET)
@pytest.mark.parametrize("box", ["unit", "everything"])
def test_who_holds_is_returned_as_the_best_attempt(attack, box):
    """Of all inputs the model was shown, none within the budget has a larger loss than what comes back."""
    model, x, y, threat = problem("colour", box, k=1, n=12, dtype=torch.float64)
    shown = []

    def watched(inputs):
        shown.append(inputs.detach().clone())
        return model(inputs)

    x_adv = attack(watched, x, y, threat)
    threat = attack.own(threat)
    held = (predictions(model, x_adv) == y).nonzero().flatten()
    assert len(held) > 0
    everything = torch.cat(shown)
    for i in held:
        tried = everything[threat.contains(x[i].expand_as(everything), everything)]
        tried = tried[(tried != x[i]).flatten(1).any(1)]  # the clean input is no attempt
        by_margin = attack.options.get("loss") == "margin" or attack.attack.name == "locally_linear"
        loss = losses.margin if by_margin else losses.log_odds
        with torch.no_grad():
            best = loss(model(tried), y[i].expand(len(tried))).max()
            assert loss(model(x_adv[i : i + 1]), y[i : i + 1]).item() == pytest.approx(best.item(), abs=1e-9)


# -- 2. blind to the batch -------------------------------------------------------------------------------


@grid(
    ("dtype", "box", "architecture"),
    [
        (dtype, box, architecture)
        for dtype, box in ((torch.float32, "everything"), (torch.float64, "unit"))
        for architecture in ("mlp", "conv", "batch-norm")
    ],
    [(torch.float32, "everything", "mlp"), (torch.float64, "unit", "batch-norm")],
)
def test_blind_to_the_batch(attack, dtype, architecture, box):
    model, x, y, threat = problem("colour", box, k=1, n=8, architecture=architecture, dtype=dtype)
    ids = torch.tensor([5, 0, 9, 1_000_000_007, 3, 2**40, 4, 11])
    together = attack(model, x, y, threat, ids=ids)
    assert 0 < int((predictions(model, together) == y).sum()) < 8, "some hold, some break on the way"

    order = torch.tensor([3, 7, 0, 6, 2, 5, 1, 4])
    assert torch.equal(attack(model, x[order], y[order], threat, ids=ids[order]), together[order])
    for rows in ([0], [2], [7], [5, 1, 3], [0, 4, 6]):
        some = attack(model, x[rows], y[rows], threat, ids=ids[rows])
        assert torch.equal(some, together[rows])
    strangers = inputs(5, "colour", threat, dtype, seed=1)
    x_more, ids_more = torch.cat([strangers, x]), torch.cat([100 + torch.arange(5), ids])
    y_more = torch.cat([predictions(model, strangers), y])
    assert torch.equal(attack(model, x_more, y_more, threat, ids=ids_more)[5:], together)


@grid(("dtype",), [(torch.float32,), (torch.float64,)], [(torch.float32,)])
def test_blind_to_the_batch_where_rounding_decides(attack, dtype):
    """Pixels of equal weight: which of them is best hangs on the last bit, which hangs on the batch's kernels."""
    model = network("mlp", "colour", dtype).eval()
    weight = model[1].weight.data
    weight.copy_(weight[:, :3].repeat_interleave(16, 1))
    model[3].bias.data[0] = 30.0
    x = torch.full((7, 3, 4, 4), 0.5, dtype=dtype)
    y = predictions(model, x)
    together = attack(model, x, y, L0(3), effort=60)
    for rows in ([0], [6], [1, 2], [3, 4, 5], [2, 3, 4, 5, 6]):
        some = attack(model, x[rows], y[rows], L0(3), effort=60, ids=torch.tensor(rows))
        assert torch.equal(some, together[rows])


@every_attack
def test_named_by_seed_and_id(attack):
    model, x, y, threat = problem("colour", "wide", k=4, n=16)

    def differ(a, b):
        return int((a != b).flatten(1).any(1).sum())

    result = attack(model, x, y, threat)
    assert torch.equal(attack(model, x, y, threat), result), "a pure function"
    assert torch.equal(attack(model, x, y, threat, ids=torch.arange(16)), result), "positions are the default"
    assert torch.equal(attack(model, x, y, threat, ids=list(range(16))), result)
    other_seed = attack(model, x, y, threat, seed=1)
    other_ids = attack(model, x, y, threat, ids=torch.arange(16) + 16)
    if not attack.attack.random:
        assert torch.equal(other_seed, result) and torch.equal(other_ids, result)
    elif attack.attack.kind == "budget" and attack.attack.norms == ("L0",):  # ℓ∞ attacks meet in a corner
        assert differ(other_seed, result) > 4 and differ(other_ids, result) > 4


def shown(attack, model, x, y, threat, **names):
    """All that the model is shown in a search, as bytes."""
    seen = []

    def watched(inputs):
        seen.append(inputs.detach().numpy().tobytes())
        return model(inputs)

    attack(watched, x, y, threat, **names)
    return b"".join(seen)


@every_attack
def test_twins_of_other_names_search_apart(attack):
    """A minimal attack may come to the same end on other ways: so the ways are compared."""
    model, x, y, threat = problem("colour", "wide", k=4)
    x, y = x[:1], y[:1]
    by_id = {shown(attack, model, x, y, threat, ids=[i]) for i in range(8)}
    by_seed = {shown(attack, model, x, y, threat, seed=i) for i in range(8)}
    assert len(by_id) == len(by_seed) == (8 if attack.attack.random else 1)
    if attack.attack.kind == "budget" and attack.attack.norms == ("L0",):
        x_adv = attack(model, x.expand(16, -1, -1, -1), y.expand(16), threat)
        assert (len(x_adv.flatten(1).unique(dim=0)) > 4) == attack.attack.random


@every_attack
def test_same_queries_alone_and_together(attack):
    model, x, y, threat = problem("colour", k=1, n=8)

    def spent(rows):
        counter = QueryCounter(model, len(rows), x.device)
        attack(counter, x[rows], y[rows], threat, ids=rows)
        return torch.stack([counter.forwards, counter.backwards])

    together = spent(torch.arange(8))
    assert torch.equal(together, torch.cat([spent(torch.tensor([i])) for i in range(8)], dim=1))
    if attack.attack.knowledge != "white":
        assert not together[1].any()


# -- 3. no side effects ----------------------------------------------------------------------------------


def surroundings(model):
    """Everything an attack could leave changed."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    wanted = [p.requires_grad for p in model.parameters()]
    generators = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    switches = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    return state, modes, gradients, wanted, generators, switches


def assert_same(before, after):
    if isinstance(before, torch.Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert np.array_equal(before, after)
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        assert_same(list(before.values()), list(after.values()))
    elif isinstance(before, list | tuple):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert_same(one, other)
    else:
        assert before == after


def lived_in(kind="colour", **settings):
    """A model as one finds it in the middle of its training."""
    model, x, y, threat = problem(kind, architecture="batch-norm", k=2, **settings)
    model.train()
    model[0].eval()
    parameters = list(model.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[1].requires_grad_(False)
    return model, x, y, threat


@every_attack
def test_no_side_effects(attack):
    model, x, y, threat = lived_in()
    before = surroundings(model)
    trained = attack(model, x, y, threat)
    assert_same(before, surroundings(model))
    assert torch.equal(attack(model.eval(), x, y, threat), trained), "searched in evaluation mode"


SINGLE = ("fgsm", "randomized_fgsm")  # of one step, so that there is no fourth pass


@every_attack
@pytest.mark.parametrize("fails_at", [1, 4])
def test_no_side_effects_of_a_search_that_failed(attack, fails_at):
    model, x, y, threat = lived_in(box="cap")
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) == (fails_at if attack.attack.name not in SINGLE else min(2, fails_at)):
            raise KeyError("out of memory")

    handle = model.register_forward_pre_hook(fail)
    before = surroundings(model)
    x_before = x.clone()
    with pytest.raises(KeyError, match="out of memory"):
        attack(model, x, y, threat, effort=100)
    handle.remove()
    assert_same(before, surroundings(model))
    assert torch.equal(x, x_before)


@every_attack
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_every_gradient_mode(attack, mode):
    model, x, y, threat = lived_in(box="everything")
    expected = attack(model, x, y, threat)
    with mode():
        before = surroundings(model)
        assert torch.equal(attack(model, x.clone(), y.clone(), threat), expected)
        assert_same(before, surroundings(model))


@every_attack
def test_what_the_model_returned_stays_as_it_was(attack):
    """A model may return a view of a tensor that it keeps."""
    model, x, y, threat = problem("grey", k=1)
    kept = []

    def cached(inputs):
        z = torch.cat([model(inputs), torch.zeros(len(inputs), 3)], dim=1)
        kept.append((z, z.detach().clone()))
        return z[:, :CLASSES]

    assert torch.equal(attack(cached, x, y, threat), attack(model, x, y, threat))
    assert all(torch.equal(z, copy) for z, copy in kept)


class KeepsItsGradient(torch.autograd.Function):
    """A linear score whose slope is a tensor that the model keeps."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.slope = slope
        return (x * slope).flatten(1).sum(1)

    @staticmethod
    def backward(ctx, upstream):
        return ctx.slope, None


@pytest.mark.parametrize("attack", WHITE)
@pytest.mark.parametrize("layout", ["expanded", "kept"])
def test_the_gradient_is_the_models_own(attack, layout):
    """It may be a view that repeats one number, as that of a sum does, or a tensor that the model keeps."""
    slope = torch.rand(16, 1, 4, 4)  # batches are filled up
    kept = slope.clone()

    def model(x):
        score = x.sum((1, 2, 3)) if layout == "expanded" else KeepsItsGradient.apply(x, slope[: len(x)])
        return torch.stack([torch.full_like(score, 100.0), score], dim=1)

    x = torch.rand(8, 1, 4, 4)
    x_adv = attack(model, x, torch.zeros(8, dtype=torch.int64), L0(2), effort=6)
    assert_inside(x, x_adv, attack.own(L0(2)))
    assert torch.equal(slope, kept)


# -- 4. the exam with known answers ----------------------------------------------------------------------


def linear(shape, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, *shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64) * 2
    x = torch.rand(24, *shape, generator=generator, dtype=torch.float64)
    return weight, bias, x, lambda x: x.flatten(1) @ weight.flatten(1).T + bias


EXAM = [
    ((1, 6, 6), "pixel", 0.0, 1.0),
    ((1, 6, 6), "pixel", -2.0, 3.0),
    ((3, 5, 5), "pixel", 0.0, 1.0),
    ((3, 5, 5), "feature", -2.0, 3.0),
    ((2, 12), "pixel", 0.0, 1.0),
    ((20,), "feature", 0.0, 1.0),
]


@pytest.mark.parametrize("attack", [p for p in SPARSE if not p.values[0].options])
@pytest.mark.parametrize(("shape", "unit", "low", "high"), EXAM)
def test_within_the_stated_factor_of_the_optimum(attack, shape, unit, low, high):
    """On linear classifiers, at every budget of `factor` times the optimum, where a third of all is enough."""
    for seed, classes in enumerate((2, 3, 5)):
        weight, bias, x, model = linear(shape, classes, seed)
        x, threat = low + (high - low) * x, L0(None, unit=unit, low=low, high=high)
        y = model(x).argmax(1)
        optimum, _ = minimal_changes(weight, bias, x, y, threat)
        sparse = optimum <= threat.positions(x) // 3
        assert sparse.any()
        budget = torch.ceil(attack.attack.factor * optimum.where(sparse, 1).double()).long()
        if attack.attack.kind == "minimal":  # asked once, and held to its own count
            rows = sparse.nonzero().flatten()
            x_adv = attack(model, x[rows], y[rows], threat, effort=500, ids=rows)
            assert (model(x_adv).argmax(1) != y[rows]).all(), f"seed {seed}"
            assert (threat.distance(x[rows], x_adv) <= budget[rows]).all(), f"seed {seed}"
            continue
        for k in budget[sparse].unique().tolist():
            rows = (sparse & (budget == k)).nonzero().flatten()
            x_adv = attack(model, x[rows], y[rows], threat.with_k(k), effort=500, ids=rows)
            assert (model(x_adv).argmax(1) != y[rows]).all(), f"seed {seed}, k = {k}"


@pytest.mark.parametrize("attack", [p for p in LINF if not p.values[0].options])
@pytest.mark.parametrize(("shape", "unit", "low", "high"), EXAM)
def test_within_the_stated_factor_of_the_smallest_epsilon(attack, shape, unit, low, high):
    for seed, classes in enumerate((2, 3, 5)):
        weight, bias, x, model = linear(shape, classes, seed)
        x = low + (high - low) * x
        y = model(x).argmax(1)
        optimum = minimal_epsilon(weight, bias, x, y, low=low, high=high)
        assert bool(((optimum > 0) & optimum.isfinite()).all())
        for i, epsilon in enumerate(optimum.tolist()):
            one, threat = slice(i, i + 1), Linf(attack.attack.factor * epsilon * (1 + 1e-9), low, high)
            x_adv = attack(model, x[one], y[one], threat, effort=100, ids=[i])
            assert model(x_adv).argmax(1) != y[one], f"seed {seed}, example {i}"


@every_linf_attack
def test_never_below_the_smallest_epsilon(attack):
    weight, bias, x, model = linear((2, 3, 3), 4, seed=5)
    y = model(x).argmax(1)
    optimum = minimal_epsilon(weight, bias, x, y)
    for i, epsilon in enumerate(optimum.tolist()):
        one = slice(i, i + 1)
        x_adv = attack(model, x[one], y[one], Linf((0.999, 0.5)[i % 2] * epsilon))
        assert model(x_adv).argmax(1) == y[one]


@every_sparse_attack
def test_never_below_the_optimum(attack):
    """No attack does what is impossible: the closed form is also a bound."""
    weight, bias, x, model = linear((2, 3, 3), 4, seed=5)
    y = model(x).argmax(1)
    for threat in (L0(2), L0(3, unit="feature"), L0(2, linf=0.3)):
        optimum, _ = minimal_changes(weight, bias, x, y, threat)
        x_adv = attack(model, x, y, threat)
        broken = model(x_adv).argmax(1) != y
        assert not broken[optimum == UNBREAKABLE].any()
        assert (threat.distance(x, x_adv)[broken] >= optimum[broken]).all()


@every_sparse_attack
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_all_supports_of_nine_pixels_as_the_judge(attack, kind):
    """A network of 3 x 3 pixels: whatever corner of the box breaks it within k is found with k or little more."""
    channels = KINDS[kind][0][0]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9 * channels, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    model[1].weight.data.mul_(2)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, channels, 3, 3, generator=generator, dtype=torch.float64)
    y = predictions(model, x)
    with torch.no_grad():
        optimum = [fewest_changes(model, x[i], y[i], L0(2), at_most=2) for i in range(12)]
    assert {1, 2} <= set(optimum)
    missed = 0
    for k in (1, 2):
        rows = torch.tensor([i for i, n in enumerate(optimum) if n == k])
        x_adv = attack(model, x[rows], y[rows], L0(math.ceil(attack.attack.factor * k)), effort=500, ids=rows)
        missed += int((predictions(model, x_adv) == y[rows]).sum())
    assert missed == 0


@given(st.integers(0, 10**6))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_ensemble_is_exact_for_one_pixel(seed):
    weight, bias, x, model = linear((2, 4, 4), 4, seed)
    y = model(x).argmax(1)
    optimum, _ = minimal_changes(weight, bias, x, y, L0(1))
    x_adv = catalogue["sparse_autoattack"].function(model, x, y, L0(1), steps=300, queries=300)
    assert torch.equal(model(x_adv).argmax(1) != y, optimum == 1)


# a step at random is half of ε there, too long to hit a class between others
AIMED = [p for p in TARGETED if p in LINF and not p.values[0].options and "randomized" not in p.id]


@pytest.mark.parametrize("attack", AIMED)
@pytest.mark.parametrize("shape", [(3, 5, 5), (24,)], ids=str)
def test_reaches_a_target_within_epsilon(attack, shape):
    weight, _, x, model = linear(shape, 3, seed=2)
    y = model(x).argmax(1)
    goal = (y + 1 + torch.arange(len(y)) % 2) % 3
    goal[0] = y[0]  # there already
    for i, target in enumerate(goal.tolist()):
        # the least epsilon by a linear program: change e, then epsilon
        others = [j for j in range(3) if j != target]
        d, n = (weight[target] - weight[others]).flatten(1).numpy(), x[i].numel()
        lead = model(x[i : i + 1])[0, target] - model(x[i : i + 1])[0, others]
        rows = np.vstack(
            [
                np.hstack([-d, np.zeros((2, 1))]),
                *(np.hstack([s * np.eye(n), -np.ones((n, 1))]) for s in (1, -1)),
            ]
        )
        most = np.concatenate([lead.numpy(), np.zeros(2 * n)])
        box = [(-v, 1 - v) for v in x[i].flatten().tolist()] + [(0, None)]
        least = linprog([0.0] * n + [1.0], rows, most, bounds=box).fun
        one = slice(i, i + 1)
        threat = Linf(1.5 * attack.attack.factor * least)
        x_adv = attack(model, x[one], y[one], threat, effort=100, targeted=goal[one], ids=[i])
        assert model(x_adv).argmax(1) == target
        assert (i > 0) or torch.equal(x_adv, x[one])


@pytest.mark.parametrize("attack", [p for p in TARGETED if p in SPARSE and not p.values[0].options])
@pytest.mark.parametrize("shape", [(3, 5, 5), (24,)], ids=str)
def test_reaches_a_target(attack, shape):
    weight, bias, x, model = linear(shape, 3, seed=2)
    x = x[:10]
    y = model(x).argmax(1)
    goal = (y + 1 + torch.arange(10) % 2) % 3
    goal[0] = y[0]  # there already
    needed, _ = minimal_changes(weight, bias, x, y, L0(None), targeted=goal)
    reached = []
    for i, n in enumerate(needed.tolist()):
        if n <= 8:
            one = slice(i, i + 1)
            # twice the optimum: easy
            x_adv = attack(
                model, x[one], y[one], L0(2 * n), effort=300, targeted=goal[one], ids=torch.tensor([i])
            )
            reached.append(bool(model(x_adv).argmax(1) == goal[one]))
            assert n > 0 or torch.equal(x_adv, x[one])
    assert len(reached) >= 7 and all(reached)


@pytest.mark.parametrize("attack", TARGETED)
def test_aiming_is_not_leaving(attack):
    model, x, y, threat = problem("colour", "wide", k=3, n=16)
    free = attack(model, x, y, threat)
    aimed = attack(model, x, y, threat, targeted=(y + 2) % CLASSES)
    assert (free != aimed).flatten(1).any(1).sum() > 4
    assert_inside(x, aimed, attack.own(threat))
    # already of the target class, though wrong
    goal = predictions(model, x)
    assert torch.equal(attack(model, x, y, threat, targeted=goal), x)


# -- what a black-box attack may ask for ------------------------------------------------------------------


@pytest.mark.parametrize("attack", BLACK)
def test_black_box_asks_for_scores_only(attack):
    model, x, y, threat = problem("colour", k=1)
    weights = [p.detach().double().numpy() for p in model.parameters()]

    def function(inputs):
        assert not inputs.requires_grad and not torch.is_grad_enabled()
        hidden = np.maximum(inputs.numpy().reshape(len(inputs), -1) @ weights[0].T + weights[1], 0)
        return torch.from_numpy(hidden @ weights[2].T + weights[3])  # in float64, whatever came

    x_adv = attack(function, x, y, threat, effort=100)
    assert_inside(x, x_adv, threat)
    with torch.no_grad():
        assert (function(x_adv).argmax(1) != y).sum() >= 3


@pytest.mark.parametrize("attack", BLACK)
@pytest.mark.parametrize("n", [8, 7])
def test_black_box_functions_may_write_into_their_input(attack, n):
    model, x, y, threat = problem("grey", k=1, n=n)

    def careless(inputs):
        z = model(inputs.clone())
        inputs.numpy()[:] = 17.0
        return z

    assert torch.equal(attack(careless, x, y, threat), attack(model, x, y, threat))


@every_sparse_attack
def test_logits_that_are_not_numbers_end_no_search(attack):
    """A model that is NaN in some places: they are no success, and the search goes on around them."""
    weight, bias, x, model = linear((1, 5, 5), 3, seed=1)
    x = 0.5 + 0.4 * (x - 0.5)
    y = model(x).argmax(1)
    optimum, _ = minimal_changes(weight, bias, x, y, L0(None))
    rows = (optimum <= 4).nonzero().flatten()
    assert len(rows) > 5

    def brittle(inputs):
        z = model(inputs)
        return torch.where(inputs.flatten(1)[:, :2].amax(1, keepdim=True) > 0.95, torch.nan, z)

    x_adv = attack(brittle, x[rows], y[rows], L0(8), effort=500, ids=rows)
    assert_inside(x[rows], x_adv, L0(8))
    assert (brittle(x_adv).isfinite()).all()
    assert (brittle(x_adv).argmax(1) != y[rows]).all()


@pytest.mark.parametrize("attack", [p for p in LINF if p.values[0].attack.cost])
def test_logits_that_are_not_numbers_end_no_ascent(attack):
    """Beyond where the model is NaN there is nothing; before it, enough."""
    weight, bias, x, model = linear((1, 5, 5), 3, seed=1)
    x = 0.5 + 0.4 * (x - 0.5)
    y = model(x).argmax(1)
    epsilon = 1.3 * float(minimal_epsilon(weight, bias, x, y).max())

    for i in range(len(x)):
        one = slice(i, i + 1)

        def brittle(inputs, clean=x[one]):
            far = (inputs - clean).abs().flatten(1).amax(1, keepdim=True) > epsilon
            return torch.where(far, torch.nan, model(inputs))

        x_adv = attack(brittle, x[one], y[one], Linf(1.5 * epsilon), effort=100, ids=[i])
        assert brittle(x_adv).isfinite().all() and brittle(x_adv).argmax(1) != y[one]


@every_attack
def test_infinite_gradients_lead_nobody_out_of_bounds(attack):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 3, generator=generator)
    threat = threat_model("mask", "colour", 4)
    threat = L0(4, low=0.0, high=6.0, allowed=threat.allowed)
    x = inputs(8, "colour", threat)

    def model(v):  # the root's slope at 0 is infinite
        return v.flatten(1).clamp_min(0).sqrt() @ weight

    x_adv = attack(model, x, model(x).argmax(1), threat, effort=60)
    assert_inside(x, x_adv, attack.own(threat))
