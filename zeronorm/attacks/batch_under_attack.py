"""What every attack shares: the batch under attack, the model's passes, and which examples are broken already.

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
from torch import Tensor

from zeronorm import checks, losses
from zeronorm.errors import ArgumentError
from zeronorm.modules import evaluation_mode
from zeronorm.seeding import Streams
from zeronorm.threat_model import L0, Linf

Model = Callable[[Tensor], Tensor]
LossName = Literal["cross_entropy", "margin"]

# Matrix kernels work in tiles: on the CPUs tried, a row's logits and gradient depend on its batch only through
# the rows beyond the last multiple of 4, or of 16 where they have AVX-512.  Filled up to such a multiple, a row comes
# out bitwise the same in every batch, and a search of thousands of steps does not drift with who else is attacked.
TILE = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4


@contextmanager
def attacking(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: L0 | Linf,
    *,
    targeted: Tensor | None,
    seed: int,
    ids: Tensor | None,
    objective: LossName = "cross_entropy",
    norm: type[L0] | type[Linf] = L0,
) -> Iterator[BatchUnderAttack]:
    """Check the arguments and hand out a `BatchUnderAttack`; the model is in evaluation mode meanwhile.

    An attack within an ℓ∞ budget searches the same way: all features may change, each by so much.
    """
    checks.model(model)
    checks.examples(x)
    checks.labels(y, x)
    checks.integer("seed", seed, 0)
    if targeted is not None:
        checks.labels(targeted, x, "targeted")
    if not isinstance(threat, norm):
        raise ArgumentError(
            f"threat: {name} works on an {norm.__name__} threat model, got {type(threat).__name__}"
        )
    if isinstance(threat, Linf):
        threat.check_inputs(x)
        threat = threat.as_l0(x)
    if isinstance(threat, L0) and threat.schema is not None:
        raise ArgumentError(
            f'unit: expected "pixel" or "feature" of {name}, got "column"; zeronorm.certify decides tables'
        )
    if threat.k is None:
        raise ArgumentError(f"threat: {name} needs a budget, expected an integer k, got None")
    threat.check_inputs(x)
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        batch = BatchUnderAttack(name, model, x, y, threat, targeted, seed, ids, objective)
        if len(x) > 0:
            batch.drop_those_at_goal()
        yield batch


def filled_up(model: Model, inputs: Tensor) -> Tensor:
    """Pad inputs to a multiple of `TILE` with copies of the last: a row's logits then do not depend on its batch."""
    missing = -len(inputs) % getattr(model, "tile", TILE)
    # a model that is only called, perhaps for money, is not asked more than the search needs
    if missing and len(inputs) and inputs.device.type == "cpu" and getattr(model, "differentiable", True):
        # to the copies nothing flows back
        inputs = torch.cat([inputs, inputs.detach()[-1:].expand(missing, *inputs.shape[1:])])
    return inputs


class BatchUnderAttack:
    """The examples of a batch that are still under attack, and the best attempt at each.

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
        objective: LossName,
    ) -> None:
        assert threat.k is not None
        self.name, self.model, self.k = name, model, threat.k
        self.result = x.detach().contiguous().clone()
        self.allowed = threat.allowed_positions(x)
        self.targeted = targeted is not None
        self._exact = getattr(model, "exact", None)
        self._grid, self._ungrid = threat.grid, threat.ungrid
        self._shape = x.shape[1:]
        self._objective = losses.margin if objective == "margin" else losses.log_odds
        self._reached = losses.is_class if self.targeted else losses.is_wrong
        self.clean = threat.grid(self.result)  # a view: who writes here writes the result
        self._highest_label = max(
            (int(t.max()) for t in (y, targeted) if t is not None and len(y)), default=0
        )

        # what belongs to the examples still under attack
        self.rows = torch.arange(len(x), device=x.device)
        self._hold(self.clean.clone(memory_format=torch.contiguous_format))
        self.goal = (y if targeted is None else targeted).to(device=x.device, dtype=torch.int64)
        self.streams = Streams(seed, checks.identifiers(ids, x), name)
        self.low, self.high, self.width = _box(self.result, threat)
        self._best_objective = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)

        self._best: tuple[Tensor, Tensor] | None = None  # positions and values, once an attempt is recorded

    def start_from(self, start: Tensor | None) -> tuple[Float[Tensor, "a g p"], Bool[Tensor, "a p"]] | None:
        """The values of a given starting point, clamped to the box, and a mask of the positions it changes."""
        if start is None:
            return None
        if start.shape != self.result.shape:
            raise ArgumentError(
                f"start: expected the shape of x, {tuple(self.result.shape)}, got {tuple(start.shape)}"
            )
        checks.examples(start, "start")
        values = self.clamp_(self._grid(start.to(self.result))[self.rows])
        changed = (values != self.x).any(1)
        return values, changed if self.allowed is None else changed & self.allowed

    # -- passes -----------------------------------------------------------------------------------------

    def score(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """The objective (larger is better) and whether the goal is reached: one forward pass; `of` as for `logits`."""
        return self.judged(self.logits(inputs, of), of)

    def score_iterate(
        self, positions: Int[Tensor, "a s"], values: Float[Tensor, "a g s"]
    ) -> tuple[Float[Tensor, "a"], Bool[Tensor, "a"]]:
        """`score` of the clean inputs with `values` written at `positions`."""
        written = self._filled.clone()
        self._write(written, positions, values)
        return self.judged(self._call(written)[: len(values)])

    def score_and_gradient(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"], Float[Tensor, "n g p"]]:
        """`score`, and the objective's gradient at the inputs: one forward and one backward pass.

        The objective is the cross-entropy (minus that of the target), up to a monotone function of it: the
        gradient has its direction, but does not vanish where the model is very sure (`losses.log_odds`).
        """
        leaf, z = self._traced(inputs, of)
        return self._judged_with_gradient(leaf, z, lambda G: G, self._goal_of(of))

    def score_and_gradient_iterate(
        self, positions: Int[Tensor, "a s"], values: Float[Tensor, "a g s"]
    ) -> tuple[Float[Tensor, "a"], Bool[Tensor, "a"], Float[Tensor, "a g p"]]:
        """`score_and_gradient` of the clean inputs with `values` written at `positions`."""
        # a leaf of zeros that takes no memory, so that one copy serves: it is not a leaf, and may be written into
        leaf = self.x.new_zeros(()).expand_as(self._filled).requires_grad_()
        with torch.enable_grad():
            written = self._filled + leaf
            self._write(written.detach(), positions, values)
            z = self._differentiable(self._call(written))
        return self._judged_with_gradient(leaf, z, lambda G: self._grid(G).contiguous(), self.goal)

    def logits(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> Float[Tensor, "n j"]:
        """One forward pass.  `of` says which example under attack each input belongs to: its row, by default."""
        return self._call(self._copied(inputs), of)[: len(inputs)]

    def logits_and_pullback(
        self, inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> tuple[Float[Tensor, "n j"], Callable[[Tensor], Tensor]]:
        """The logits, and a function that maps weights (n, j) to the gradient of the weighted sum of the logits.

        One forward pass, and one backward pass at every call of the function.
        """
        leaf, z = self._traced(inputs, of)
        count = len(inputs)

        def pullback(weights: Tensor) -> Tensor:
            padded = torch.cat([weights, weights[-1:].expand(len(z) - count, -1)]).to(z)
            (gradient,) = torch.autograd.grad(z, leaf, padded, retain_graph=True)
            return gradient.reshape(inputs.shape).nan_to_num(0.0, 1e12, -1e12)

        return z.detach()[:count], pullback

    def at_goal(self, z: Float[Tensor, "n j"], of: Int[Tensor, "n"] | None = None) -> Bool[Tensor, "n"]:
        """Whether these logits reach the goal; `of` as for `logits`."""
        return self._reached(z, self._goal_of(of))

    def _goal_of(self, of: Int[Tensor, "n"] | None) -> Int[Tensor, "n"]:
        return self.goal if of is None else self.goal[of]

    def judged(
        self, z: Float[Tensor, "n j"], of: Int[Tensor, "n"] | None = None
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
        """The objective and whether the goal is reached, from logits that were computed already."""
        goal = self._goal_of(of)
        return self._comparable(self._objective(z, goal)), self._reached(z, goal)

    def _comparable(self, objective: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The objective so signed that larger is better; -infinity where the logits are not numbers."""
        return (-objective if self.targeted else objective).nan_to_num(-math.inf, math.inf, -math.inf)

    def _traced(self, inputs: Float[Tensor, "n g p"], of: Tensor | None) -> tuple[Tensor, Tensor]:
        """The inputs as a leaf of the autograd graph, and their logits."""
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            z = self._differentiable(self._call(self._copied(leaf), of))
        return leaf, z

    def _differentiable(self, z: Tensor) -> Tensor:
        if not z.requires_grad:
            raise ArgumentError(
                f"model: {self.name} needs gradients, and this model gives none; "
                "sparse_rs works with any callable"
            )
        return z

    def _judged_with_gradient(
        self, leaf: Tensor, z: Tensor, in_grid: Callable[[Tensor], Tensor], goal: Int[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"], Float[Tensor, "n g p"]]:
        judged = z.detach()[: len(goal)]
        objective, upstream = losses.log_odds_and_gradient(judged, goal)
        if self.targeted:
            upstream = -upstream
        if len(z) > len(judged):
            upstream = torch.cat([upstream, upstream.new_zeros(len(z) - len(judged), z.shape[1])])
        (gradient,) = torch.autograd.grad(z, leaf, upstream)
        if not math.isfinite(float(gradient.sum())):
            # a NaN would spread to the iterate and end its search
            gradient = gradient.nan_to_num(0.0, 1e12, -1e12)
        gradient = in_grid(gradient[: len(judged)])  # to read only: it may be the model's own tensor
        return self._comparable(objective), self._reached(judged, goal), gradient

    def _call(self, inputs: Tensor, of: Tensor | None = None) -> Tensor:
        """One pass of the model over inputs that it may write into."""
        if (watch := getattr(self.model, "passes_for", None)) is not None:
            watch(self.rows if of is None else self.rows[of])
        return losses.finite_below(checks.logits(self.model(inputs), len(inputs), self._highest_label))

    def _copied(self, inputs: Float[Tensor, "n g p"]) -> Tensor:
        """A copy of the inputs in the model's shape, padded by `filled_up`."""
        inputs = self._ungrid(inputs, self._shape)
        filled = filled_up(self.model, inputs)
        return inputs.clone(memory_format=torch.contiguous_format) if filled is inputs else filled

    # -- iterates ---------------------------------------------------------------------------------------

    def _hold(self, x: Float[Tensor, "a g p"]) -> None:
        """Keep the clean inputs under attack: `_filled` padded, in the model's shape, and `x` as a grid."""
        self._filled = filled_up(self.model, self._ungrid(x, self._shape))
        self.x = self._grid(self._filled[: len(x)]).contiguous()  # a view, unless channels are last

    def _write(self, written: Tensor, positions: Int[Tensor, "a s"], values: Float[Tensor, "a g s"]) -> None:
        grid = self._grid(written)[: len(values)]
        grid.scatter_(2, positions[:, None].expand_as(values), values)

    def shaped(self, inputs: Float[Tensor, "n g p"]) -> Float[Tensor, "n ..."]:
        """Inputs in the shape that the model takes."""
        return self._ungrid(inputs, self._shape)

    def inputs(
        self,
        positions: Int[Tensor, "n s"],
        values: Float[Tensor, "n g s"],
        of: Int[Tensor, "n"] | None = None,
    ) -> Float[Tensor, "n g p"]:
        """The clean inputs with `values` written at `positions`; `of` as for `logits`."""
        x = self.x.clone() if of is None else self.x.index_select(0, of)
        return x.scatter_(2, positions[:, None].expand_as(values), values)

    def at(self, grid: Float[Tensor, "#a g p"] | float, positions: Int[Tensor, "a s"]) -> Any:
        """The entries of `grid` at `positions`, (a, g, s); a number, which stands for a constant grid, is returned."""
        if not isinstance(grid, Tensor):
            return grid
        at = positions[:, None].expand(-1, grid.shape[1], -1)
        return grid.expand(len(at), -1, -1).gather(2, at)

    def clamp_(self, v: Float[Tensor, "a g p"]) -> Float[Tensor, "a g p"]:
        """Move values into the box, in place."""
        return v.clamp_(self.low, self.high)  # type: ignore[arg-type]  # two numbers or two tensors

    def move_(self, v: Float[Tensor, "a g p"], direction: Float[Tensor, "a g p"], α: float | Tensor) -> None:
        """Add α · direction to v and clamp it to the box, in place."""
        if isinstance(α, Tensor):
            v.addcmul_(direction, α)
        else:
            v.add_(direction, alpha=α)
        self.clamp_(v)

    def box_at(self, positions: Int[Tensor, "a s"]) -> tuple[Any, Any]:
        """Bounds of the box at `positions`: numbers, or tensors (a, g, s)."""
        return self.at(self.low, positions), self.at(self.high, positions)

    def box_of(self, of: Int[Tensor, "n"]) -> tuple[Float[Tensor, "#n #g #p"], Float[Tensor, "#n #g #p"]]:
        """Bounds of the box for these examples, as tensors that broadcast against them."""
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
        """Keep the iterates that are better than any before, and drop the examples that reached the goal.

        Returns the rows that stay under attack, or None if all do.
        """
        if self._exact is not None and reached.any():
            reached = self.confirmed(reached, self.inputs(positions, values))
        if self._best is None:
            self._best = positions.clone(), self.at(self.x, positions)
        better = (objective > self._best_objective).logical_or_(reached)
        best = (self._best_objective, *self._best)
        for old, new in zip(best, (objective, positions, values), strict=True):
            torch.where(better.view(-1, *[1] * (old.dim() - 1)), new.to(old.dtype), old, out=old)
        return self.drop(reached)

    def confirmed(
        self, reached: Bool[Tensor, "n"], inputs: Float[Tensor, "n g p"], of: Int[Tensor, "n"] | None = None
    ) -> Bool[Tensor, "n"]:
        """Which successes hold in full precision too, for a model whose usual pass is faster and rougher."""
        if self._exact is None or not reached.any():
            return reached
        some = reached.nonzero().flatten()
        z = self._exact(self._copied(inputs[some]))[: len(some)]
        return reached.index_put((some,), self._reached(z, self._goal_of(of)[some]))

    def drop_those_at_goal(self) -> None:
        """Drop the examples that need no attack: misclassified already, or already of the target class."""
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
        """Drop the examples that reached the goal; returns the rows that stay, or None if all do."""
        if not reached.any():
            return None
        if attacked and self._best is not None:
            self._write_best(gone := reached.nonzero().flatten())
            if (tell := getattr(self.model, "broken", None)) is not None:
                tell(rows := self.rows[gone], self.result[rows])
        keep = (~reached).nonzero().flatten()
        self._hold(self.x.index_select(0, keep))
        self.rows, self.goal, self._best_objective = (
            part.index_select(0, keep) for part in (self.rows, self.goal, self._best_objective)
        )
        if self._best is not None:
            self._best = (self._best[0].index_select(0, keep), self._best[1].index_select(0, keep))
        if isinstance(self.low, Tensor) and isinstance(self.high, Tensor):
            self.low, self.high = self.low.index_select(0, keep), self.high.index_select(0, keep)
        self.streams = self.streams.select(keep)
        return keep

    def _write_best(self, of: Int[Tensor, "n"]) -> None:
        """Write the best iterates of these examples under attack into the result."""
        if self._best is not None:
            positions, values = (part[of] for part in self._best)
            self.clean[self.rows[of]] = self.inputs(positions, values, of)

    def attempt(self) -> tuple[Int[Tensor, "a s"], Float[Tensor, "a g s"]]:
        """Positions and values of the best iterate recorded so far, of each example under attack."""
        assert self._best is not None
        return self._best[0].clone(), self._best[1].clone()

    def finished(self) -> Tensor:
        """The result: adversarials of the examples that broke, the best attempts at the others."""
        self._write_best(torch.arange(len(self.rows), device=self.rows.device))
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
