"""What a search costs on a model: the passes it makes, their time, and what it adds to them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import catalogue
from zeronorm.data import Dataset
from zeronorm.evaluation import diagnosis
from zeronorm.evaluation.examples import DataLike, as_dataset, on_device
from zeronorm.evaluation.fresh_pass import device_of, predict
from zeronorm.evaluation.plan import AttackLike, PlannedStage, resolve_stages, resolve_threats, takes
from zeronorm.evaluation.query_counter import QueryCounter
from zeronorm.modules import evaluation_mode
from zeronorm.threat_model import L0, Linf

SHORT = {"steps": 100, "queries": 200}  # long enough for a ratio


@dataclass(frozen=True)
class Cost:
    """What one attack cost on n examples; a forward and a backward pass over one example count alike.

    Attributes:
        passes: of all examples together.
        seconds, bare: time of the attack, and of the same passes at the same batch sizes with nothing between
            them; of several rounds the fastest, of each.
        right: share of the examples still classified correctly afterwards.
        default: passes per example of the search at its default length, at most: examples that withstood this one
            might be broken later.  None for an attack without a default.
    """

    name: str
    n: int
    passes: int
    seconds: float
    bare: float
    right: float
    default: float | None

    @property
    def rate(self) -> float:
        """Passes per second, NaN without any."""
        return self.passes / self.seconds if self.passes else math.nan

    @property
    def overhead(self) -> float:
        """The attack's time over that of its passes alone, less 1; NaN without any pass."""
        return self.seconds / self.bare - 1 if self.passes else math.nan

    @property
    def default_seconds(self) -> float | None:
        """Time per example of the search at its default length, at most."""
        return None if self.default is None else self.default / self.rate if self.passes else 0.0


def measure(
    model: Model,
    data: DataLike,
    threat: L0 | Linf,
    attack: AttackLike | Sequence[AttackLike] = "sparse_autoattack",
    *,
    steps: int | None = None,
    queries: int | None = None,
    rounds: int = 3,
    seed: int = 0,
    precision: str = "float32",
    on_stage: Callable[[str], None] | None = None,
) -> list[Cost]:
    """The cost of each attack, or of each stage of an ensemble, on all examples at once.

    Args:
        model, data, threat, attack, precision: as for `evaluate`.
        steps, queries: length of the searches; 100 and 200 by default.
        rounds: of which the fastest counts, after one to warm up.
        seed: of every random number.
        on_stage: told the name of each stage before it is measured.

    Raises:
        ArgumentError: for input that cannot be used.
    """
    checks.model(model)
    rounds = checks.integer("rounds", rounds, 1)
    checks.choice("precision", precision, ("float32", "bfloat16"))
    dataset = as_dataset(data)
    examples = on_device(dataset, device_of(model)).first(len(dataset))
    if isinstance(threat, Linf):
        (threat,) = resolve_threats(threat, False, examples.x)
    threat.check_inputs(examples.x)
    with evaluation_mode(model):
        look = diagnosis.look_at(model, examples)
        stages = resolve_stages(attack, differentiable=look.differentiable, steps=steps, queries=queries)
        for stage in stages:
            stage.check(model, examples.x, examples.y, threat)
        short = {name: n for name, n in SHORT.items() if {"steps": steps, "queries": queries}[name] is None}
        costs = []
        for stage in stages:
            if on_stage is not None:
                on_stage(stage.name)
            options = stage.options | {name: n for name, n in short.items() if name in stage.options}
            stage = replace(stage, options=options)
            costs.append(_measured(model, examples, threat, stage, rounds, seed, precision))
        return costs


def _measured(
    model: Model,
    examples: Dataset,
    threat: L0,
    stage: PlannedStage,
    rounds: int,
    seed: int,
    precision: str,
) -> Cost:
    x, y, budget = examples.x, examples.y, stage.own(threat, examples.x)
    own = {
        name: value for name, value in (("seed", seed), ("ids", examples.ids)) if takes(stage.function, name)
    }

    def attack(watched: Model) -> Tensor:
        return stage.function(watched, x.clone(), y.clone(), budget, **stage.options, **own)

    counter = QueryCounter(model, len(x), x.device, precision=precision)
    x_adv = attack(counter)  # to warm up, and to count example by example
    right = predict(model, x_adv).argmax(1) == y
    noted = _NotedPasses(model, x.device, precision)
    seconds = bare = math.inf
    for _ in range(rounds):
        noted.calls.clear()
        started = _now(x.device)
        attack(noted)
        attacked = _now(x.device)
        noted.repeat(x)
        seconds, bare = min(seconds, attacked - started), min(bare, _now(x.device) - attacked)
    spent = (counter.forwards + counter.backwards).double()
    # a minimal attack goes on with whom it has broken
    spent[right | stage.minimal] *= _of_default(stage)
    return Cost(
        stage.name,
        len(x),
        sum(size * (1 + len(backward)) for size, _, backward in noted.calls),
        seconds,
        bare,
        float(right.double().mean()),
        float(spent.mean()) if math.isfinite(float(spent.sum())) else None,
    )


def _of_default(stage: PlannedStage) -> float:
    """How many times longer the default search is than this one; NaN if it has no length."""
    entry = catalogue.get(stage.attack)
    if entry is None or entry.function is not stage.function:
        return math.nan
    return max(
        (entry.options[c] / stage.options[c] for c in entry.cost if stage.options[c]), default=math.nan
    )


class _NotedPasses(nn.Module):
    """A model that notes the batch size of each pass, whether it was traced, and the backward passes that followed."""

    def __init__(self, model: Model, device: torch.device, precision: str) -> None:
        super().__init__()
        self.calls: list[tuple[int, bool, list[None]]] = []
        self._inner = QueryCounter(model, 1, device, precision=precision)
        self.exact, self.differentiable = self._inner.exact, self._inner.differentiable
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        backward: list[None] = []
        self.calls.append((len(x), x.requires_grad, backward))
        z = self._inner(x)
        if z.requires_grad:
            z.register_hook(lambda _: backward.append(None))
        return z

    def repeat(self, x: Tensor) -> None:
        """The noted passes alone, on copies of x."""
        calls = list(self.calls)
        most = max((size for size, *_ in calls), default=0)
        pool = x.repeat(-(-most // len(x)), *[1] * (x.dim() - 1))
        for size, traced, backward in calls:
            with torch.set_grad_enabled(traced):
                leaf = pool[:size].detach().requires_grad_(traced)
                z = self._inner(leaf)
                for _ in backward:
                    torch.autograd.grad(z, leaf, torch.ones_like(z), retain_graph=len(backward) > 1)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()  # other processes on the machine do not count
    return time.perf_counter()
