"""What every sparse attack shares: the batch under attack, the model's passes, and who is broken already.

b, a    examples of the batch, and those of them still under attack
g, p    the grid of an input: channels that change together, positions that are counted
s       positions an iterate changes
j       classes
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zeronorm import checks, losses
from zeronorm.errors import ArgumentError
from zeronorm.seeding import Streams
from zeronorm.threat_model import L0

Model = Callable[[Tensor], Tensor]
Objective = Literal["cross_entropy", "margin"]

# Matrix kernels work in tiles: on the CPUs tried, a row's logits and gradient depend on its batch only through
# the rows beyond the last multiple of 4.  Filled up to such a multiple, a row comes out bitwise the same in
# every batch, and a search of thousands of steps does not drift with who else is still under attack.
_TILE = 4


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """The model in evaluation mode, each module's own mode restored on the way out."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            module.training = training


@contextmanager
def searching(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: L0,
    *,
    targeted: Tensor | None,
    seed: int,
    ids: Tensor | None,
    objective: Objective = "cross_entropy",
) -> Iterator[Search]:
    """A `Search` over checked arguments, with the model in evaluation mode and no gradients recorded."""
    checks.model(model)
    checks.examples(x)
    checks.labels(y, x)
    checks.integer("seed", seed, 0)
    if targeted is not None:
        checks.labels(targeted, x, "targeted")
    if not isinstance(threat, L0):
        raise ArgumentError(f"threat: {name} works on an L0 threat model, got {type(threat).__name__}")
    if threat.k is None:
        raise ArgumentError(f"threat: {name} needs a budget, expected an integer k, got None")
    threat.check_inputs(x)
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        search = Search(name, model, x, y, threat, targeted, seed, ids, objective)
        if len(x) > 0:
            search.drop_those_at_goal()
        yield search


def filled_up(model: Model, inputs: Tensor) -> Tensor:
    """The inputs, with copies of the last one appended where that makes a row's logits independent of its batch."""
    missing = -len(inputs) % _TILE
    # a model that is only called, perhaps for money, is not asked more than the search needs
    if missing and len(inputs) and inputs.device.type == "cpu" and getattr(model, "differentiable", True):
        inputs = torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])
    return inputs


class Search:
    """A batch under attack.

    Iterates are sparse: `positions` (a, s) and `values` (a, g, s) to write there.  Examples leave once they are
    broken, and the attack keeps the rows of its own state that `record` names.

    A model may watch itself being searched, as the evaluation's query counter does: its method
    `passes_for(rows)` is told which examples the next pass is for, and `broken(rows, x_adv)` who just broke.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        x: Float[Tensor, "b ..."],
        y: Int[Tensor, "b"],
        threat: L0,
        targeted: Tensor | None,
        seed: int,
        ids: Tensor | None,
        objective: Objective,
    ) -> None:
        assert threat.k is not None
        self.name, self.model, self.k = name, model, threat.k
        self.result = x.detach().contiguous().clone()
        self.allowed = threat.allowed_positions(x)
        self.targeted = targeted is not None
        self._exact = getattr(model, "exact", None)
        self._shape = x.shape[1:]
        self._objective = losses.margin if objective == "margin" else losses.log_odds
        self._reached = losses.is_class if self.targeted else losses.is_wrong
        self.clean = threat.grid(self.result)  # a view: who writes here writes the result
        self._highest_label = max(
            (int(t.max()) for t in (y, targeted) if t is not None and len(y)), default=0
        )

        # what belongs to the examples still under attack
        self.rows = torch.arange(len(x), device=x.device)
        self.x = self.clean.clone()
        self.goal = (y if targeted is None else targeted).to(device=x.device, dtype=torch.int64)
        self.streams = Streams(seed, checks.identifiers(ids, x), name)
        self.low, self.high, self.width = _box(self.result, threat)
        self._best_objective = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)

        # the best iterate of every example of the batch: nothing changed, until an attempt is recorded
        self._positions = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        self._values = self.x[:, :, :0]

    def start_from(self, start: Tensor | None) -> tuple[Float[Tensor, "a g p"], Bool[Tensor, "a p"]] | None:
        """The values of a given starting point, and which positions it changes."""
        if start is None:
            return None
        if start.shape != self.result.shape:
            raise ArgumentError(
                f"start: expected the shape of x, {tuple(self.result.shape)}, got {tuple(start.shape)}"
            )
        checks.examples(start, "start")
        values = self.clamp_(start.to(self.result).reshape(self.clean.shape)[self.rows])
        changed = (values != self.x).any(1)
        return values, changed if self.allowed is None else changed & self.allowed

    # -- passes -----------------------------------------------------------------------------------------

    def score(self, inputs: Float[Tensor, "a g p"]) -> tuple[Float[Tensor, "a"], Bool[Tensor, "a"]]:
        """The objective, larger is better, and whether the goal is reached: one forward pass."""
        z = self._call(self._padded(inputs))[: len(inputs)]
        objective = self._objective(z, self.goal)
        return self._comparable(objective), self._reached(z, self.goal)

    def score_and_gradient(
        self, inputs: Float[Tensor, "a g p"]
    ) -> tuple[Float[Tensor, "a"], Bool[Tensor, "a"], Float[Tensor, "a g p"]]:
        """As `score`, and the objective's gradient at the inputs: one forward and one backward pass.

        The objective is the cross-entropy (minus that of the target), up to a monotone function of it: the
        gradient has its direction, but does not vanish where the model is very sure (`losses.log_odds`).
        """
        count = len(inputs)
        with torch.enable_grad():
            leaf = self._padded(inputs).requires_grad_()
            z = self._call(leaf)
        if not z.requires_grad:
            raise ArgumentError(
                f"model: {self.name} needs gradients, and this model gives none; "
                "sparse_rs works with any callable"
            )
        goal = self.goal
        if len(z) > count:
            goal = torch.cat([goal, goal[-1:].expand(len(z) - count)])
        objective, upstream = losses.log_odds_and_gradient(z.detach(), goal)
        if self.targeted:
            upstream = -upstream
        (gradient,) = torch.autograd.grad(z, leaf, upstream)
        if not math.isfinite(float(gradient.sum())):
            # a NaN would spread to the iterate and end its search
            gradient = gradient.nan_to_num(0.0, 1e12, -1e12)
        objective, reached = self._comparable(objective), self._reached(z.detach(), goal)
        gradient = gradient.reshape(-1, *inputs.shape[1:])  # to read only: it may be the model's own tensor
        if len(z) > count:
            return objective[:count], reached[:count], gradient[:count]
        return objective, reached, gradient

    def logits(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n j"]:
        """One forward pass.  `of` says which example under attack each input belongs to: its row, by default."""
        return self._call(self._padded(inputs), of)[: len(inputs)]

    def logits_and_pullback(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> tuple[Float[Tensor, "n j"], Callable[[Tensor], Tensor]]:
        """The logits, and a function from weights (n, j) to the gradient of the logits so weighted and summed.

        One forward pass, and one backward pass at every call of the function.
        """
        count = len(inputs)
        with torch.enable_grad():
            leaf = self._padded(inputs).requires_grad_()
            z = self._call(leaf, of)
        if not z.requires_grad:
            raise ArgumentError(
                f"model: {self.name} needs gradients, and this model gives none; "
                "sparse_rs works with any callable"
            )

        def pullback(weights: Tensor) -> Tensor:
            padded = torch.cat([weights, weights[-1:].expand(len(z) - count, -1)]).to(z)
            (gradient,) = torch.autograd.grad(z, leaf, padded, retain_graph=True)
            return gradient[:count].reshape(inputs.shape).nan_to_num(0.0, 1e12, -1e12)

        return z.detach()[:count], pullback

    def at_goal(self, z: Float[Tensor, "n j"], of: Int[Tensor, "n"] | None = None) -> Bool[Tensor, "n"]:
        """Whether these logits reach the goal; `of` as for `logits`."""
        return self._reached(z, self.goal if of is None else self.goal[of])

    def _comparable(self, objective: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """Larger is better, and logits that are not numbers are worse than any."""
        return (-objective if self.targeted else objective).nan_to_num(-math.inf, math.inf, -math.inf)

    def _call(self, inputs: Tensor, of: Tensor | None = None) -> Tensor:
        if (watch := getattr(self.model, "passes_for", None)) is not None:
            watch(self.rows if of is None else self.rows[of])
        # a copy: the model may write into what it is given
        return checks.logits(self.model(inputs.clone()), len(inputs), self._highest_label)

    def _padded(self, inputs: Float[Tensor, "a g p"]) -> Tensor:
        return filled_up(self.model, inputs.detach().reshape(len(inputs), *self._shape))

    # -- iterates ---------------------------------------------------------------------------------------

    def inputs(self, positions: Int[Tensor, "a s"], values: Float[Tensor, "a g s"]) -> Float[Tensor, "a g p"]:
        """The clean inputs with `values` written at `positions`."""
        return self.x.clone().scatter_(2, positions[:, None].expand_as(values), values)

    def at(self, grid: Float[Tensor, "#a g p"] | float, positions: Int[Tensor, "a s"]) -> Any:
        """The entries of `grid` at `positions`, (a, g, s); a number that stands for a grid is everywhere itself."""
        if not isinstance(grid, Tensor):
            return grid
        at = positions[:, None].expand(-1, grid.shape[1], -1)
        return grid.expand(len(at), -1, -1).gather(2, at)

    def clamp_(self, v: Float[Tensor, "a g p"]) -> Float[Tensor, "a g p"]:
        """Move values into the box, in place."""
        return v.clamp_(self.low, self.high)  # type: ignore[arg-type]  # two numbers or two tensors

    def move_(self, v: Float[Tensor, "a g p"], direction: Float[Tensor, "a g p"], α: float | Tensor) -> None:
        """v + α direction, back into the box, in place."""
        if isinstance(α, Tensor):
            v.addcmul_(direction, α)
        else:
            v.add_(direction, alpha=α)
        self.clamp_(v)

    def box_at(self, positions: Int[Tensor, "a s"]) -> tuple[Any, Any]:
        """Bounds of the entries at `positions`: numbers, or tensors (a, g, s)."""
        return self.at(self.low, positions), self.at(self.high, positions)

    def box_of(self, of: Int[Tensor, "n"]) -> tuple[Float[Tensor, "#n #g #p"], Float[Tensor, "#n #g #p"]]:
        """Bounds of the entries of these examples, tensors of the inputs' type that broadcast against them."""
        low, high = (torch.as_tensor(v, dtype=self.x.dtype, device=of.device) for v in (self.low, self.high))
        return (low[of], high[of]) if low.dim() else (low[None, None, None], high[None, None, None])

    def corners(self, bits: Bool[Tensor, "a g s"], positions: Int[Tensor, "a s"]) -> Float[Tensor, "a g s"]:
        """The corners of the box at `positions`: high where the bit is set, low elsewhere."""
        # of the inputs' type from the start: 0.3 in float32 is not 0.3 in float64
        low, high = (
            torch.as_tensor(v, dtype=self.x.dtype, device=bits.device) for v in self.box_at(positions)
        )
        return torch.where(bits, high, low)

    def record(
        self,
        objective: Float[Tensor, "a"],
        reached: Bool[Tensor, "a"],
        positions: Int[Tensor, "a s"],
        values: Float[Tensor, "a g s"],
    ) -> Int[Tensor, "c"] | None:
        """Note what a pass showed of the iterates: success, or a better attempt.

        Returns the rows that stay under attack, or None if all do.
        """
        if self._exact is not None and reached.any():
            reached = self.confirmed(reached, self.inputs(positions, values))
        if self._positions.shape[1] == 0:
            everyone = positions[:1].expand(len(self.result), -1).clone()
            self._positions, self._values = everyone, self.at(self.clean, everyone)
        better = (objective > self._best_objective).logical_or_(reached)
        self._best_objective = torch.where(better, objective, self._best_objective)
        chosen = better.nonzero().flatten()
        if len(chosen):
            rows = self.rows[chosen]
            self._positions[rows] = positions[chosen]
            self._values[rows] = values[chosen]
        return self.drop(reached)

    def confirmed(self, reached: Bool[Tensor, "a"], inputs: Float[Tensor, "a g p"]) -> Bool[Tensor, "a"]:
        """Success that holds in full precision, for a model that also offers a faster, rougher pass."""
        if self._exact is None or not reached.any():
            return reached
        some = reached.nonzero().flatten()
        z = self._exact(self._padded(inputs[some]))[: len(some)]
        return reached.index_put((some,), self._reached(z, self.goal[some]))

    def drop_those_at_goal(self) -> None:
        """Leave alone who is there without an attack: misclassified already, or already of the target class."""
        if self.k == 0:
            self.drop(torch.ones_like(self.goal, dtype=torch.bool), attacked=False)
            return
        z = self.logits(self.x)
        reached = self._reached(z, self.goal)
        if bad := int((~(z.amax(1) < math.inf)).sum()):
            raise ArgumentError(
                f"model: expected finite logits, got NaN or infinity for {bad} of {len(reached)} examples"
            )
        self.drop(reached, attacked=False)

    def drop(self, reached: Bool[Tensor, "a"], attacked: bool = True) -> Int[Tensor, "c"] | None:
        """Take examples out of the search; returns the rows that stay, or None if all do."""
        if not reached.any():
            return None
        if (
            attacked
            and self._positions.shape[1]
            and (tell := getattr(self.model, "broken", None)) is not None
        ):
            tell(self.rows[reached], self._best(self.rows[reached]))
        keep = (~reached).nonzero().flatten()
        for name in ("rows", "x", "goal", "_best_objective"):
            setattr(self, name, getattr(self, name)[keep])
        if isinstance(self.low, Tensor) and isinstance(self.high, Tensor):
            self.low, self.high = self.low[keep], self.high[keep]
        self.streams = self.streams.select(keep)
        return keep

    def _best(self, rows: Int[Tensor, "n"]) -> Float[Tensor, "n ..."]:
        """The best iterates found for these examples, in the shape of x."""
        values = self._values[rows]
        grid = self.clean[rows].scatter_(2, self._positions[rows][:, None].expand_as(values), values)
        return grid.view(-1, *self._shape)

    def finished(self) -> Tensor:
        """The result: who is broken as they broke, the others as the best attempt."""
        self.result.copy_(self._best(torch.arange(len(self.result), device=self.result.device)))
        return self.result


def _box(x: Tensor, threat: L0) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
    """Bounds of every entry of the grid, and the width steps are measured in; plain numbers where they can be.

    Clamping to numbers is faster than to tensors, and most boxes are the same everywhere.
    """
    if isinstance(threat.low, Tensor) or isinstance(threat.high, Tensor) or threat.linf is not None:
        low, high = threat.bounds(x)
        wide = threat.high - threat.low if threat.linf is None else threat.linf
        width = threat.grid(torch.as_tensor(wide, dtype=x.dtype, device=x.device).expand(x[:1].shape))
        return threat.grid(low), threat.grid(high), width
    return float(threat.low), float(threat.high), float(threat.high - threat.low)
