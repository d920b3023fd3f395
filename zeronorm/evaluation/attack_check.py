"""Does an attack keep the laws that an evaluation relies on?  Tried on small models, in about a minute."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zeronorm.attacks.catalogue import catalogue
from zeronorm.attacks.custom import CustomAttack, custom
from zeronorm.errors import ArgumentError, one_line
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.modules import evaluation_mode
from zeronorm.theory import UNBREAKABLE, minimal_changes
from zeronorm.threat_model import L0

_CLASSES = 4
_SHAPES: dict[str, tuple[int, ...]] = {"grey": (1, 6, 6), "colour": (3, 5, 5), "a table's row": (12,)}
_LAST_BITS = 1e-9  # of float64
_EXAMS = (((1, 6, 6), 0.0, 1.0), ((3, 5, 5), -2.0, 3.0), ((20,), 0.0, 1.0))


@dataclass(frozen=True)
class Law:
    """One law, and whether it held: "holds", "broken", "does not apply" to such an attack, or "cannot be tried".

    `matters` says what an evaluation gets wrong where the law is broken.
    """

    name: str
    outcome: str
    seen: str
    matters: str


@dataclass(frozen=True)
class Exam:
    """How an attack fares where the least number of changes is known: on random linear classifiers.

    Of `n` inputs, `reached` were broken within their own optimum, `near` within one and a half of it (rounded up).
    """

    n: int
    reached: int
    near: int


@dataclass(frozen=True)
class AttackCheck:
    """What `check_attack` found; true if no law is broken.

    Attributes:
        laws: each law with what was seen.
        exam: of the attack; None where it could not sit it.
        yardsticks: the exam of attacks of this library, as long, by name.
        forwards, backwards: passes of each kind spent on an example.
        seconds: how long all of it took.
    """

    attack: str
    laws: list[Law]
    exam: Exam | None
    yardsticks: dict[str, Exam]
    forwards: float
    backwards: float
    seconds: float

    def __bool__(self) -> bool:
        return all(law.outcome in ("holds", "does not apply") for law in self.laws)

    def table(self) -> str:
        """The report as text."""
        width = max(len(law.name) for law in self.laws)
        lines = [f"{self.attack}: checked in {self.seconds:.0f} s", ""]
        for law in self.laws:
            lines.append(f"   {law.outcome:<15}  {law.name:<{width}}  {law.seen}".rstrip())
            if law.outcome in ("broken", "cannot be tried"):
                lines.append(f"   {'':<15}  {'':<{width}}  {law.matters}")
        if self.exam is not None:
            lines += [
                "",
                f"exam: {self.exam.n} inputs of linear classifiers, whose least number of changes is known",
            ]
            for name, exam in ({self.attack: self.exam} | self.yardsticks).items():
                lines.append(
                    f"   {name:<{width}}  {exam.reached:>3} broken with as few, {exam.near:>3} with half as many again"
                )
            lines += [
                "",
                f"passes for an example: {self.forwards:,.0f} forward, {self.backwards:,.0f} backward",
            ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report for a machine."""
        exams = {} if self.exam is None else {self.attack: self.exam} | self.yardsticks
        return {
            "attack": self.attack,
            "ok": bool(self),
            "laws": [vars(law) for law in self.laws],
            "exam": {name: vars(exam) for name, exam in exams.items()},
            "forwards": self.forwards,
            "backwards": self.backwards,
        }


def check_attack(
    attack: CustomAttack | Callable[..., Tensor] | str, *, steps: int = 50, queries: int = 200
) -> AttackCheck:
    """Try an attack on the laws that an evaluation relies on, and on problems with known answers.

    Args:
        attack: as for `evaluate`: a function `(model, x, y, threat, ...) -> x_adv`, what `zeronorm.attacks.custom` made
            of one, or a name of the catalogue whose norm is ℓ0.
        steps, queries: how long each search is, passed if the attack has such an argument.

    Returns:
        Each law with what was seen, the exam beside that of attacks of this library, and the passes spent.  A law that
        is not broken here is not proved: the check is a search for violations on a few dozen small problems.
    """
    began = time.perf_counter()
    tried = _Tried(_own(attack), {"steps": steps, "queries": queries})
    laws = []
    for name, matters, law in _LAWS:
        try:
            problem = law(tried)
            outcome = "does not apply" if problem is None else "broken" if problem else "holds"
            laws.append(Law(name, outcome, problem or "", matters))
        except ArgumentError as error:
            laws.append(Law(name, "cannot be tried", str(error), matters))
        except Exception as error:  # whatever a stranger's attack raises
            laws.append(Law(name, "broken", f"raised {type(error).__name__}: {one_line(error)}", matters))
    exam, yardsticks, spent = None, {}, (0.0, 0.0)
    if all(law.outcome != "cannot be tried" for law in laws):
        try:
            exam, spent = _sit(tried)
        except Exception:  # said by a law already
            exam = None
    if exam is not None:
        for rival in ("sparse_pgd", "sparse_rs"):
            if rival != tried.attack.name:
                yardsticks[rival] = _sit(_Tried(_own(rival), {"steps": steps, "queries": queries}))[0]
    return AttackCheck(tried.attack.shown, laws, exam, yardsticks, *spent, time.perf_counter() - began)


def _own(attack: Any) -> CustomAttack:
    if isinstance(attack, CustomAttack):
        return attack
    if not isinstance(attack, str):
        return custom(attack)
    name = attack.replace("-", "_")
    if name not in catalogue or "L0" not in catalogue[name].norms:
        known = ", ".join(row.name for row in catalogue.values() if "L0" in row.norms)
        raise ArgumentError(f"attack: expected a function, or one of {known}, got {attack!r}")
    row = catalogue[name]
    return CustomAttack(row.function, name, row.kind, row.knowledge, row.options, {"library": "zeronorm"})


class _Tried:
    """An attack with the lengths it takes, called as an evaluation calls it."""

    def __init__(self, attack: CustomAttack, lengths: Mapping[str, int]) -> None:
        self.attack = attack
        self.lengths = {name: length for name, length in lengths.items() if attack.takes(name)}

    def __call__(self, model: Any, x: Tensor, y: Tensor, threat: L0, **told: Any) -> Tensor:
        told = {"seed": 0, "ids": torch.arange(len(x))} | told
        given = {name: value for name, value in told.items() if self.attack.takes(name)}
        x_adv = self.attack(model, x, y, threat, **self.lengths, **given)
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            got = f"shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
            raise TypeError(f"expected inputs of shape {tuple(x.shape)}, got {got}")
        return x_adv.detach()

    @property
    def is_random(self) -> bool:
        """Whether it asks for a seed."""
        return self.attack.takes("seed")


def _problem(
    kind: str, n: int = 8, dtype: torch.dtype = torch.float32, low: float = 0.0, high: float = 1.0
) -> tuple[nn.Module, Tensor, Tensor]:
    """A random network that a few changes fool, inputs in the box, and its own answers as labels."""
    shape = _SHAPES[kind]
    generator = torch.Generator().manual_seed(sum(shape))
    entries = int(np.prod(shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(entries, 32), nn.ReLU(), nn.Linear(32, _CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    x = low + (high - low) * torch.rand(n, *shape, generator=generator)
    model, x = model.to(dtype).eval(), x.to(dtype).clamp(low, high)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def _shape_and_type(tried: _Tried) -> str:
    for kind in _SHAPES:
        for dtype in (torch.float32, torch.float64):
            model, x, y = _problem(kind, dtype=dtype)
            x_adv = tried(model, x, y, L0(2))
            if x_adv.dtype != dtype:
                return f"of {dtype} inputs ({kind}) it returned {x_adv.dtype}"
            if not bool(torch.isfinite(x_adv).all()):
                return f"it returned NaN or infinity ({kind})"
    tried(*_problem("colour", 1), L0(2))
    return ""


def _inside(tried: _Tried) -> str:
    mask = torch.arange(25) % 3 != 1
    cases = {
        "k = 1": ("colour", L0(1)),
        "k = 3 in features": ("colour", L0(3, "feature")),
        "all pixels": ("grey", L0(36)),
        "the box [-0.1, 0.3]": ("colour", L0(3, low=-0.1, high=0.3)),
        "a cap on each change": ("colour", L0(3, linf=0.1)),
        "a mask of allowed pixels": ("colour", L0(3, allowed=mask)),
        "k = 2 of a row": ("a table's row", L0(2)),
    }
    wrong = []
    for name, (kind, threat) in cases.items():
        model, x, y = _problem(kind, 16, low=float(threat.low), high=float(threat.high))
        outside = int((~threat.contains(x, tried(model, x, y, threat))).sum())
        if outside:
            wrong.append(f"{name} ({outside} of 16)")
    return "outside the threat model: " + ", ".join(wrong) if wrong else ""


def _inputs_kept(tried: _Tried) -> str:
    model, x, y = _problem("colour")
    before = x.clone(), y.clone()
    x_adv = tried(model, x, y, L0(3))
    if not torch.equal(x, before[0]) or not torch.equal(y, before[1]):
        return "it wrote into its arguments"
    return "it returned its argument itself, not a copy" if x_adv.data_ptr() == x.data_ptr() else ""


def _repeatable(tried: _Tried) -> str:
    model, x, y = _problem("colour", 16)
    first = tried(model, x, y, L0(3))
    torch.manual_seed(12345)
    np.random.seed(12345)
    random.seed(12345)
    if not torch.equal(tried(model, x, y, L0(3)), first):
        return "a second call with the same arguments gave something else"
    return ""


def _batch_blind(tried: _Tried) -> str:
    model, x, y = _problem("colour", 8, torch.float64)
    ids = torch.tensor([5, 0, 9, 1_000_007, 3, 2**40, 4, 11])
    threat = L0(1)
    together = tried(model, x, y, threat, ids=ids)
    order = torch.tensor([3, 7, 0, 6, 2, 5, 1, 4])
    parts = {
        "in another order": order,
        "alone": torch.tensor([2]),
        "with some of them": torch.tensor([5, 1, 3]),
    }
    for what, rows in parts.items():
        some = tried(model, x[rows], y[rows], threat, ids=ids[rows])
        # a row's last bits may hang on its place in a matrix product
        if other := int(((some - together[rows]).abs() > _LAST_BITS).flatten(1).any(1).sum()):
            return f"{other} of {len(rows)} examples come out otherwise {what}"
    return ""


def _leaves_no_trace(tried: _Tried) -> str:
    model, x, y = _problem("colour")
    model.train()
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    with _watched(model) as changes:
        tried(_Evaluated(model), x, y, L0(2))
    return changes()


def _leaves_no_trace_after_an_error(tried: _Tried) -> str:
    model, x, y = _problem("colour")
    passes = []

    def fail(*_: Any) -> None:
        passes.append(1)
        if len(passes) == 2:
            raise KeyError("the model failed")

    handle = model.register_forward_pre_hook(fail)
    with _watched(model) as changes:
        try:
            tried(model, x, y, L0(2))
        except KeyError:
            pass
        else:
            if len(passes) > 1:
                return "it went on after an error of the model, which nobody heard of"
    handle.remove()
    return changes()


def _scores_only(tried: _Tried) -> str | None:
    if tried.attack.knowledge not in ("black", "decision"):
        return None
    model, x, y = _problem("colour")
    decides = tried.attack.knowledge == "decision"

    def answer(inputs: Tensor) -> Tensor:
        if inputs.requires_grad:
            raise RuntimeError("a gradient was asked of a model that is only called")
        with torch.no_grad():
            z = model(inputs.detach().clone())
        return nn.functional.one_hot(z.argmax(1), _CLASSES).to(z) if decides else z

    answer.differentiable = False  # type: ignore[attr-defined]
    tried(answer, x, y, L0(2))
    return ""


def _length_counts(tried: _Tried) -> str | None:
    if not tried.lengths:
        return None
    model, x, y = _problem("grey")
    with torch.no_grad():
        model[3].bias[0] += 1e3  # type: ignore[index]
    spent = []
    for length in (2, 20):
        counter = QueryCounter(model, len(x), x.device)
        with evaluation_mode(counter):  # nobody breaks, so that the search goes on to its end
            _Tried(tried.attack, dict.fromkeys(tried.lengths, length))(counter, x, 0 * y, L0(36))
        spent.append(int(counter.forwards.sum()) + counter.unattributed)
    told = ", ".join(f"{name}=2 and 20" for name in tried.lengths)
    return f"with {told} it spent the same {spent[0]} passes" if spent[1] <= spent[0] else ""


_LAWS: tuple[tuple[str, str, Callable[[_Tried], str | None]], ...] = (
    ("shape and type", "An evaluation stops where inputs of another shape come back.", _shape_and_type),
    ("inside the threat model", "What lies outside counts as robust: the figure is too good.", _inside),
    ("arguments as they were", "Clean rows and later stages are measured on other inputs.", _inputs_kept),
    (
        "named by its seed",
        "A resumed or repeated run gives other rows; take randomness from `seed` and `ids` alone.",
        _repeatable,
    ),
    (
        "blind to the batch",
        "The figure depends on the batch size and on the number of workers; name randomness by `ids`.",
        _batch_blind,
    ),
    ("no trace in the model", "Every later answer is another model's.", _leaves_no_trace),
    (
        "no trace after an error",
        "A run that is picked up again measures another model.",
        _leaves_no_trace_after_an_error,
    ),
    ("asks for no more than it says", "It cannot attack a model that is only called.", _scores_only),
    ("its length counts", "A longer search is recorded that was none.", _length_counts),
)


class _Evaluated(nn.Module):
    """A network in training mode, of which nothing in it knows: what an attack does to modes can be seen."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@contextmanager
def _watched(model: nn.Module) -> Iterator[Callable[[], str]]:
    """Hands out a function that says what has changed since: in the model, and in what all programs share."""

    def look() -> dict[str, Any]:
        return {
            "the model's weights or buffers": [value.clone() for value in model.state_dict().values()],
            "the model's mode": [module.training for module in model.modules()],
            "gradients of the weights": [
                None if p.grad is None else p.grad.clone() for p in model.parameters()
            ],
            "which weights want gradients": [p.requires_grad for p in model.parameters()],
            "torch's global random state": torch.get_rng_state(),
            "NumPy's global random state": str(np.random.get_state(legacy=False)),
            "Python's global random state": random.getstate(),
            "whether gradients are recorded": torch.is_grad_enabled(),
            "the default type": torch.get_default_dtype(),
        }

    before = look()

    def changes() -> str:
        after = look()
        moved = [name for name in before if not _equal(before[name], after[name])]
        return "changed: " + ", ".join(moved) if moved else ""

    yield changes


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _sit(tried: _Tried) -> tuple[Exam, tuple[float, float]]:
    """The exam, and the passes spent on each example."""
    n = reached = near = 0
    forwards = backwards = 0
    for seed, (shape, low, high) in enumerate(_EXAMS):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(_CLASSES, *shape, generator=generator, dtype=torch.float64)
        bias = torch.randn(_CLASSES, generator=generator, dtype=torch.float64)
        x = low + (high - low) * torch.rand(24, *shape, generator=generator, dtype=torch.float64)
        linear = nn.Linear(int(np.prod(shape)), _CLASSES).double()
        model = nn.Sequential(nn.Flatten(), linear).eval()
        with torch.no_grad():
            linear.weight.copy_(weight.flatten(1))
            linear.bias.copy_(bias)
            y = model(x).argmax(1)
        threat = L0(None, low=low, high=high)
        optimum, _ = minimal_changes(weight, bias, x, y, threat)
        known = (optimum > 0) & (optimum < UNBREAKABLE) & (optimum <= threat.positions(x) // 2)
        for k in optimum[known].unique().tolist():
            rows = (known & (optimum == k)).nonzero().flatten()
            n += len(rows)
            for budget in (k, -(-3 * k // 2)):
                counter = QueryCounter(model, len(rows), x.device)
                x_adv = tried(counter, x[rows], y[rows], threat.with_k(budget), ids=rows)
                with torch.no_grad():
                    wrong = (model(x_adv).argmax(1) != y[rows]) & threat.with_k(budget).contains(
                        x[rows], x_adv
                    )
                if budget == k:
                    reached += int(wrong.sum())
                    forwards += int(counter.forwards.sum()) + counter.unattributed
                    backwards += int(counter.backwards.sum())
                if budget != k or budget == -(-3 * k // 2):
                    near += int(wrong.sum())
    return Exam(n, reached, near), (forwards / n, backwards / n)
