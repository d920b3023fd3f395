"""What holds of every certificate of the catalogue, by what its row claims."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_certified import SIDE, SMALL, Small
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeronorm as zn
from zeronorm.certification import ABSTAIN, UNBOUNDED, Certificate, Certifier, catalogue
from zeronorm.errors import ArgumentError

PROOFS = [
    row
    for row in catalogue.values()
    if row.kind == "deterministic" and not row.needs & {"threats", "seconds"}
]
VOTES = [row for row in catalogue.values() if row.kind == "probabilistic"]
SEEDS = range(8)

proofs = pytest.mark.parametrize("row", PROOFS, ids=lambda row: row.name)


def proved(row: Certifier, small: Small, x: Tensor | None = None) -> Certificate:
    return row.prove(small.model, small.x if x is None else x, {})


def answers(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def claims_any_value(small: Small) -> bool:
    return max(small.values) > 1e38


def changes(image: Tensor, k: int, values: tuple[float, ...]) -> Iterator[Tensor]:
    """All images with k pixels changed to any of the values, support by support."""
    new = torch.tensor(list(itertools.product(values, repeat=k)))
    for where in itertools.combinations(range(SIDE * SIDE), k):
        changed = image.flatten(1).repeat(len(new), 1, 1)
        changed[:, :, list(where)] = new[:, None]
        yield changed.view(-1, *image.shape)


def test_every_row_has_a_small_instance():
    assert {row.name for row in PROOFS} <= set(SMALL)


@pytest.mark.parametrize("row", catalogue.values(), ids=lambda row: row.name)
def test_claims(row):
    assert row.name == next(name for name, other in catalogue.items() if other is row)
    assert row.kind in ("deterministic", "probabilistic") and row.unit in ("pixel", "feature", "column")
    assert row.arithmetic in ("deployed", "real") and row.source
    with pytest.raises(ArgumentError, match=f"bogus: the method {row.name}.* takes no bogus"):
        row.check_options({"bogus": 1})
    assert (row.refusal("a word", torch.rand(1, 1, 4, 4)) or "").startswith("model: expected")


@proofs
@pytest.mark.parametrize("seed", SEEDS)
def test_no_change_of_one_or_two_pixels_within_the_radius(row, seed):
    small = SMALL[row.name](seed)
    certificate = proved(row, small)
    assert certificate.arithmetic == row.arithmetic and certificate.failure_probability == 0
    kept = ~certificate.abstained
    assert torch.equal(answers(small.model, small.x)[kept], certificate.prediction[kept])
    left = {1: 8, 2: 2}  # images enumerated
    for i, radius in enumerate(certificate.radius.tolist()):
        for k in (1, 2):
            if radius >= k and left[k]:
                left[k] -= 1
                values = small.values if k == 1 else small.values[::2]
                for some in changes(small.x[i], k, values):
                    assert (answers(small.model, some) == certificate.prediction[i]).all(), (i, k)


@proofs
def test_the_radius_is_not_always_0(row):
    radii = torch.cat([proved(row, SMALL[row.name](seed)).radius for seed in SEEDS])
    assert (radii >= 1).sum() >= 20 and (radii >= 2).sum() >= 4


def boundary(model: nn.Module, one: Tensor, other: Tensor) -> Tensor | None:
    """The two images on the line between two that are next to each other, and answered otherwise."""
    low, high = one[None], other[None]
    first, last = answers(model, low), answers(model, high)
    if torch.equal(first, last):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        if torch.equal(middle, low) or torch.equal(middle, high):
            break
        low, high = (middle, high) if torch.equal(answers(model, middle), first) else (low, middle)
    return torch.cat([low, high])


@proofs
@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_boundary_what_is_certified_is_what_the_model_answers(row, seed):
    """Alone, and in batches of odd sizes: whatever rounding makes of inputs that lie next to the boundary."""
    small = SMALL[row.name](seed)
    some = torch.rand(600, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    if claims_any_value(small):  # beyond the box too, so that classes differ
        some = 6 * some - 2
    by_class = [some[answers(small.model, some) == j][:3] for j in range(3)]
    pairs = [
        pair for one, other in itertools.combinations(by_class, 2) for pair in itertools.product(one, other)
    ]
    near = [found for one, other in pairs if (found := boundary(small.model, one, other)) is not None]
    if not near:
        pytest.skip("all images are of one class")
    x = torch.cat(near)
    x = torch.cat([x, torch.nextafter(x, x.roll(1, 0))])
    certificate = proved(row, small, x)
    for size in (1, 3, 7, 31, len(x)):
        found = torch.cat([answers(small.model, part) for part in x.split(size)])
        kept = ~certificate.abstained
        assert torch.equal(found[kept], certificate.prediction[kept]), size


@proofs
def test_blind_to_the_batch(row):
    small = SMALL[row.name](0)
    whole = proved(row, small)
    order = torch.randperm(len(small.x), generator=torch.Generator().manual_seed(0))
    for what in ("prediction", "radius", "margin"):
        found = getattr(whole, what)
        if found is None:
            continue
        assert torch.equal(getattr(proved(row, small, small.x[order]), what), found[order])
        alone = torch.cat([getattr(proved(row, small, one), what) for one in small.x[:9].split(1)])
        assert torch.equal(alone, found[:9])
        assert len(getattr(proved(row, small, small.x[:0]), what)) == 0


@proofs
def test_no_side_effects(row):
    small = SMALL[row.name](1)
    before = copy.deepcopy(small.model.state_dict()), small.x.clone(), torch.get_rng_state()
    modes = [part.training for part in small.model.modules()]
    proved(row, small)
    assert all(
        torch.equal(a, b) for a, b in zip(before[0].values(), small.model.state_dict().values(), strict=True)
    )
    assert torch.equal(small.x, before[1]) and torch.equal(torch.get_rng_state(), before[2])
    assert modes == [part.training for part in small.model.modules()]
    assert all(p.grad is None for p in small.model.parameters())


# -- modules that are not what they seem -------------------------------------------------------------------


def with_a_hook(model: nn.Module) -> None:
    list(model.modules())[-1].register_forward_hook(lambda module, args, z: -z)


def with_a_pre_hook(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, args: (args[0].flip(-1),))


def with_a_method_of_its_own(model: nn.Module) -> None:
    forward = model.forward
    model.forward = lambda x: -forward(x)


def of_a_subclass(model: nn.Module) -> None:
    part = next(m for m in model.modules() if not list(m.children()))
    part.__class__ = type(
        "Sub",
        (type(part),),
        {"forward": lambda self, x, *more: -type(part).__mro__[1].forward(self, x, *more)},
    )


def parametrized(model: nn.Module) -> None:
    part = next((m for m in model.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)), None)
    if part is None:
        pytest.skip("it has no parameters")
    parametrizations.weight_norm(part)


def of_no_number(model: nn.Module) -> None:
    tensor = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), None)
    assert tensor is not None
    with torch.no_grad():
        tensor.view(-1)[0] = math.nan


@proofs
@pytest.mark.parametrize(
    "change",
    [with_a_hook, with_a_pre_hook, with_a_method_of_its_own, of_a_subclass, parametrized, of_no_number],
    ids=lambda change: change.__name__,
)
def test_a_model_that_is_not_what_it_seems_is_refused(row, change):
    small = SMALL[row.name](0)
    change(small.model)
    with pytest.raises(ArgumentError, match="model: expected"):
        proved(row, small)


@proofs
def test_other_models_are_refused(row):
    class Mixed(nn.Module):
        """Its first stage spreads every pixel over its neighbours."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(nn.functional.avg_pool2d(x, 3, 1, 1))

    small = SMALL[row.name](0)
    others = [
        Mixed(small.model).eval(),
        small.model.forward,
        zn.models.load("digits"),
        nn.Linear(16, 3).eval(),
    ]
    for other in others:
        with pytest.raises(ArgumentError, match=r"model: expected|x: expected inputs of shape"):
            row.prove(other, small.x, {})
    with pytest.raises(ArgumentError, match="expected finite values"):
        row.prove(small.model, torch.full_like(small.x, math.inf), {})


@proofs
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_model_itself_refuses_inputs_that_are_no_numbers(row, value):
    small = SMALL[row.name](0)
    if not claims_any_value(small):
        pytest.skip("it claims nothing beyond a box")
    x = small.x[:2].clone()
    x[1, 0, 0, 0] = value
    with pytest.raises(ArgumentError, match="x: expected finite values"):
        small.model(x)


@proofs
def test_the_whole_way_through_records(row, tmp_path):
    small = SMALL[row.name](0)
    y = answers(small.model, small.x)
    result = zn.certify(small.model, (small.x, y), row.name, tmp_path / "run")
    record = result.summary.run["plan"]["method"]
    assert (record["unit"], record["arithmetic"]) == (row.unit, row.arithmetic)
    certificate = proved(row, small)
    for k in (0, 1, 2):
        share = certificate.holds(y, k).double().mean()
        assert (result.certified_accuracy[k] if k < len(result.summary.shares) else 0.0) == share
    assert f"arithmetic: {row.arithmetic}" in str(result)
    assert f"arithmetic: {row.arithmetic}" in (tmp_path / "run/report.html").read_text()
    assert zn.verify_certificates(tmp_path / "run", small.model, (small.x, y))


# -- votes -------------------------------------------------------------------------------------------------


def options_of(row: Certifier, **more: object) -> dict:
    known = {"retained": 3, "keep": 0.6, "levels": 4, "n0": 1, "n": 200, "alpha": 0.1}
    return row.options | {name: value for name, value in known.items() if name in row.options} | more


def true_radius(row: Certifier, share: float, shape: list[int]) -> int:
    """By the theorem, of a class with exactly this share: as far as it stays above one half."""
    if row.name == "randomized_ablation":
        return int(np.searchsorted(zn.certification.share_touched(math.prod(shape[1:]), 3), share - 0.5)) - 1
    r = 0
    while zn.certification.vote_threshold(r, 0.6, 4) < share:
        r += 1
    return r - 1


@pytest.mark.parametrize("row", VOTES, ids=lambda row: row.name)
@pytest.mark.parametrize("looks", [1, 3])
def test_at_the_worst_share_votes_claim_too_much_as_seldom_as_they_say(row, looks):
    """Just below the share that one change more needs, a larger radius is claimed with probability alpha at most."""
    if looks > 1 and "looks" not in row.options:
        pytest.skip("all votes are cast")
    shape, trials, rng = [1, 5, 5], 4000, np.random.default_rng(0)
    options = options_of(row, **({"looks": looks} if looks > 1 else {}))
    for share in (0.6, 0.7, 0.8):
        radius = true_radius(row, share, shape)
        while true_radius(row, share + 0.002, shape) == radius and share < 0.995:
            share += 0.002
        votes = np.zeros((trials, 2), np.int64)
        claimed = np.full(trials, ABSTAIN)
        for n in (
            [options["n"]]
            if looks == 1
            else zn.certification.randomized_ablation.votes_at_looks(options["n"], looks)
        ):
            votes[:, 0] += rng.binomial(n - int(votes[0].sum()), share, trials)
            votes[:, 1] = n - votes[:, 0]
            _, found = row.judge(
                np.array([[1, 0]] * trials), votes, shape, options | {"n": n if looks == 1 else options["n"]}
            )
            claimed = np.maximum(claimed, found)  # the luckiest look
        wrong = float((claimed > radius).mean())
        assert wrong <= options["alpha"] + 3 * math.sqrt(options["alpha"] / trials), (share, wrong)


class Brightest(nn.Module):
    """Class by the mean of what is shown."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        bright = (
            (x[:, :half] - x[:, half:]).sum((1, 2, 3)) if self.channels == 2 else (x - 0.5).sum((1, 2, 3))
        )
        return torch.stack([-bright, bright], 1)


@pytest.mark.parametrize("row", VOTES, ids=lambda row: row.name)
def test_votes_through_records(row, tmp_path):
    model = Brightest(2 if row.name == "randomized_ablation" else 1)
    x = torch.linspace(0.1, 0.9, 6)[:, None, None, None].expand(-1, 1, 5, 5).contiguous()
    y = (x[:, 0, 0, 0] > 0.5).long()
    asked = {
        name: options_of(row)[name]
        for name in ("retained", "keep", "levels", "n0", "n")
        if name in row.options
    }
    result = zn.certify(model, (x, y), row.name, tmp_path / "run", **(asked | {"n0": 20}))
    assert result.certified_accuracy[0] > 0.3 and result.summary.unit == row.unit
    assert (
        "PREDICT" in str(result)
        and "% abstained" in str(result)
        and f"arithmetic: {row.arithmetic}" in str(result)
    )
    assert result.as_json()["abstained"] == result.summary.abstained / 6
    assert zn.verify_certificates(tmp_path / "run", model, (x, y))
    again = zn.recertify(tmp_path / "run", tmp_path / "strict", alpha=0.001)
    assert all(a <= b for a, b in zip(again.summary.radii, result.summary.radii, strict=True))


@pytest.mark.parametrize("row", VOTES, ids=lambda row: row.name)
def test_a_part_in_training_mode_is_refused_and_left_as_it_was(row):
    channels = 2 if row.name == "randomized_ablation" else 1
    for part in (nn.Dropout(0.5), nn.BatchNorm2d(channels)):
        base = nn.Sequential(part, nn.Flatten(), nn.Linear(channels * 25, 2)).eval()
        part.train()
        before = copy.deepcopy(base.state_dict())
        asked = {
            name: options_of(row)[name] for name in ("retained", "keep", "levels") if name in row.options
        }
        with pytest.raises(ArgumentError, match=rf"0 \({type(part).__name__}\) in training mode"):
            zn.defenses.smoothed(base, row.name, **asked).vote_counts(torch.rand(3, 1, 5, 5), 10)
        with pytest.raises(ArgumentError, match=rf"0 \({type(part).__name__}\) in training mode"):
            zn.certify(base, (torch.rand(3, 1, 5, 5), torch.zeros(3, dtype=torch.int64)), row.name, **asked)
        assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
        assert part.training and not base.training


@pytest.mark.parametrize("row", VOTES, ids=lambda row: row.name)
def test_a_base_that_depends_on_its_batch_is_refused(row):
    class Centred(Brightest):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z - z.mean(0)

    asked = {name: options_of(row)[name] for name in ("retained", "keep", "levels") if name in row.options}
    base = Centred(2 if row.name == "randomized_ablation" else 1)
    with pytest.raises(
        ArgumentError, match="base_classifier: expected answers that do not depend on the batch"
    ):
        zn.defenses.smoothed(base, row.name, **asked).vote_counts(torch.rand(3, 1, 5, 5), 64)


def test_unbounded_is_above_and_abstaining_below_every_radius():
    certificate = Certificate(torch.tensor([0, ABSTAIN]), torch.tensor([UNBOUNDED, ABSTAIN]))
    y = torch.tensor([0, 0])
    assert certificate.holds(y, 10**6).tolist() == [True, False] == certificate.holds(y, 0).tolist()


@proofs
@pytest.mark.parametrize("of_inputs", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("of_weights", [torch.float64, torch.bfloat16, torch.float16, None], ids=str)
def test_in_another_type_it_holds_or_is_refused(row, of_weights, of_inputs):
    """Weights in one type, inputs in another: the answers are those of the model as it then runs."""
    if of_weights is None and of_inputs == torch.float32:
        pytest.skip("the other tests")
    changed = 0
    for seed in range(2):
        small = SMALL[row.name](seed)
        model = small.model if of_weights is None else small.model.to(of_weights)
        x = small.x.to(of_inputs)
        largest = min(torch.finfo(of_inputs).max, torch.finfo(torch.float32).max)
        try:
            certificate = row.prove(model, x, {})
        except ArgumentError as error:
            assert "\n" not in str(error)
            return
        kept = ~certificate.abstained
        for size in (1, 3, len(x)):
            found = torch.cat([answers(model, part) for part in x.split(size)])
            assert torch.equal(found[kept], certificate.prediction[kept])
        for i, radius in list(enumerate(certificate.radius.tolist()))[:8]:
            if radius < 1:
                continue
            for some in changes(x[i].float(), 1, tuple(max(-largest, min(v, largest)) for v in small.values)):
                changed += len(some)
                some = some.to(of_inputs)
                if of_inputs == torch.float64:  # any value is any of this type
                    some = torch.where(some.abs() > 1e38, 1e200 * some, some)
                assert (answers(model, some) == certificate.prediction[i]).all(), i
    assert changed > 0
