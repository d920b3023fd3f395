"""Pointwise attack (Schott et al. 2019): from salt-and-pepper noise, put back all that need not differ.

a       examples still under attack
g, p    the grid of an input: channels that change together, positions that are counted
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.columns import on_columns
from zeronorm.attacks.minimal_search import MinimalSearch, searching_minimal
from zeronorm.seeding import below
from zeronorm.threat_model import L0

_START, _WALK, _CHECK = 0, 1, 2


@on_columns(gradients=False)
def pointwise(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    queries: int = 10_000,
    restarts: int = 50,
    repetitions: int = 1,
    targeted: Int[Tensor, "b"] | None = None,
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change as few pixels as possible so that the model errs, by asking it for labels only: decision-based, minimal.

    Source: Schott, Rauber, Bethge & Brendel, "Towards the first adversarially robust neural network model on
    MNIST", ICLR 2019, section 5 (the pointwise attack), and its implementation in foolbox.

    Salt-and-pepper noise of growing density is added until the model errs.  Then the changed pixels are put
    back in random order, each for good if the model still errs, until none can be: the result is 1-minimal,
    not of all subsets.  The sparsest of several restarts is kept.

    Args:
        model: any callable from inputs to logits (batch, class), of which only the largest is looked at.  It
            may answer at random: what is kept was confirmed by an answer of its own.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: unit and box; its budget bounds the result, k = None does not.  Noise is at the ends of the box.
        queries: forward passes per example at most, all restarts together, apart from one on the clean input.
        restarts: searches of each example, each from noise of its own; the papers have 10.
        repetitions: how often the noise is made anew for a sparser start, in each restart; the papers have 10,
            but the same queries find fewer pixels when they go into restarts.
        targeted: classes to reach instead of leaving y, or None; noise seldom reaches a given class.
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model.  Examples misclassified already (or of
        the target class already) come back clean, and so do those for which nothing was found.

    Noise is a blind start, and without a start there is no result: on linear models of 20 to 75 positions, where
    a third of them suffices, 500 queries found none for 6 of a thousand examples.

    Deviations from foolbox: a pixel is put back with all its channels, or each feature by itself, as the
    threat model counts; in every second restart the channels of a noisy pixel are drawn each for itself, so
    that its colour is any corner; after a success the walk goes on in its order (foolbox 2 begins anew, at
    quadratic cost), round and round until every position left was needed since the last success; a repetition
    ends with the first noise no sparser than the best start; values are not bisected, as l0 does not see it.
    What a walk has come to is asked about once more, and if that answer does not hold, what was put back last
    is taken out again, until one does.
    """
    checks.integer("queries", queries, 1)
    checks.integer("restarts", restarts, 1)
    checks.integer("repetitions", repetitions, 1)

    with searching_minimal(
        "pointwise", model, x, y, threat, targeted=targeted, seed=seed, ids=ids
    ) as minimal:
        batch, walk, step = minimal.batch, _Walk(minimal, repetitions), 0
        while len(batch.rows):
            walk.check_now(walk.spent == queries - 1)
            inputs, asked = walk.candidates(step)
            of = asked.nonzero().flatten()
            if len(of):
                asked[of] = batch.at_goal(batch.logits(inputs[of], of), of)
                walk.spent[of] += 1
            walk.learn(inputs, asked, step)
            walk.leave((walk.restart >= restarts) | (walk.spent == queries) | (minimal.fewest == 1))
            step += 1
        return minimal.finished()


class _Walk:
    """The state of each example: looking for a start, walking back from it, or checking what it came to.

    Each goes by its own clock, one query at a time, so that the batch stays full.

    restart, spent              restarts done, and queries
    repetition, level, density  of the noise, and the most of it worth a try
    start, changes              the best start; how many positions it, and later `current`, changes; 0: none yet
    current, ring, head         the walk: where it is, and the positions that still differ, in a circle
    needed                      how many of them in a row could not be put back
    back, undoable              positions put back, in order, and their number
    """

    def __init__(self, minimal: MinimalSearch, repetitions: int) -> None:
        self.minimal, self.repetitions = minimal, repetitions
        rows, x = minimal.batch.rows, minimal.batch.x
        self.levels = min(100, x.shape[2])
        self.density = x.new_ones(len(rows))
        self.start, self.current = x.clone(), x.clone()
        self.ring, self.back = (rows.new_zeros(len(rows), x.shape[2]) for _ in range(2))
        self.phase, self.restart, self.spent, self.changes = rows.new_zeros(4, len(rows))
        self.repetition, self.level, self.head, self.needed, self.undoable = rows.new_zeros(5, len(rows))
        self.dense = torch.zeros_like(rows, dtype=torch.bool)

    def leave(self, done: Bool[Tensor, "a"]) -> None:
        """Drop examples, and their rows of the state."""
        if (keep := self.minimal.leave(done)) is not None:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value[keep])

    def candidates(self, step: int) -> tuple[Float[Tensor, "a g p"], Bool[Tensor, "a"]]:
        """The next input of each example, and whether it is worth a query: noise no sparser than the best is not."""
        x = self.minimal.batch.x
        asked = torch.ones_like(self.phase, dtype=torch.bool)
        at = self._head()[:, None].expand(-1, x.shape[1], -1)
        clean = (self.phase == _WALK)[:, None, None]
        inputs = self.current.scatter(2, at, torch.where(clean, x.gather(2, at), self.current.gather(2, at)))
        of = (self.phase == _START).nonzero().flatten()
        if len(of):
            inputs[of] = self._noise(of, step)
            count = (inputs[of] != x[of]).any(1).sum(1)
            self.dense[of] = (self.changes[of] > 0) & (count >= self.changes[of])
            asked[of] = (count > 0) & ~self.dense[of]
        return inputs, asked

    def learn(self, inputs: Float[Tensor, "a g p"], reached: Bool[Tensor, "a"], step: int) -> None:
        """Update the state by the model's answers."""
        starting, walking, checking = (self.phase == phase for phase in (_START, _WALK, _CHECK))
        if walking.any():
            self._walked(inputs, walking, walking & reached)
        if checking.any():
            self._checked(inputs, checking, checking & reached)
        if starting.any():
            self._started(inputs, starting, starting & reached, step)

    def check_now(self, last: Bool[Tensor, "a"]) -> None:
        """Spend the last query of an example on confirming its adversarial, if it has one."""
        if last.any():
            unwalked = last & (self.phase == _START) & (self.changes > 0)
            self.current[unwalked] = self.start[unwalked]
            self.undoable[unwalked] = 0
            self.phase[unwalked | (last & (self.phase == _WALK))] = _CHECK

    def _noise(self, of: Int[Tensor, "m"], step: int) -> Float[Tensor, "m g p"]:
        """Salt-and-pepper noise: each position at an end of the box, with the probability of this try."""
        batch = self.minimal.batch
        channels, pixels = batch.x.shape[1:]
        bits = batch.streams.select(of).bits(2 * step, pixels)
        noisy = below(bits, 1 << 31) < (self._share()[of, None] * 2.0**31).long()  # the upper half of a word
        if batch.allowed is not None:
            noisy &= batch.allowed
        # the lower half: all channels alike, salt or pepper; in every second restart each for itself
        channel = torch.arange(channels, device=of.device)[:, None] % 32
        coins = bits[:, None] >> torch.where((self.restart[of] % 2 == 1)[:, None, None], channel, 0)
        low, high = batch.box_of(of)
        corner = torch.where((coins & 1).bool(), high, low)
        return torch.where(noisy[:, None], corner, batch.x[of])

    def _share(self) -> Float[Tensor, "a"]:
        return self.density * (self.level + 1) / self.levels

    def _started(self, inputs: Tensor, starting: Tensor, reached: Tensor, step: int) -> None:
        batch = self.minimal.batch
        over = starting & (reached | self.dense | (self.level + 1 == self.levels))
        if reached.any():
            of = reached.nonzero().flatten()
            self.start[of], self.density[of] = inputs[of], (1.2 * self._share()[of]).clamp_max_(1.0)
            self.changes[of] = (inputs[of] != batch.x[of]).any(1).sum(1)
        self.level[starting] += 1
        self.level[over] = 0
        self.repetition[over] += 1

        ready = over & (self.repetition == self.repetitions)
        self._begin_again(ready & (self.changes == 0))
        of = (ready & (self.changes > 0)).nonzero().flatten()
        if len(of):
            self.phase[of], self.current[of] = _WALK, self.start[of]
            self.head[of] = self.needed[of] = self.undoable[of] = 0
            # positions in random order, those that differ first
            key = batch.streams.select(of).bits(2 * step + 1, batch.x.shape[2]) >> 1
            same = (self.start[of] == batch.x[of]).all(1)
            self.ring[of] = key.masked_fill_(same, torch.iinfo(torch.int64).max).argsort(dim=1)
            self._arrive(ready & (self.changes == 1))

    def _walked(self, inputs: Tensor, walking: Tensor, reached: Tensor) -> None:
        position = self._head()
        self.current = torch.where(reached[:, None, None], inputs, self.current)
        self.back.scatter_(1, self.undoable[:, None].clamp_max(self.back.shape[1] - 1), position)
        # behind the last that differs; where this one was put back, nobody looks there any more
        self.ring.scatter_(1, ((self.head + self.changes) % self.ring.shape[1])[:, None], position)
        self.head += walking
        self.undoable += reached
        self.changes -= reached.long()
        self.needed = torch.where(reached, 0, self.needed + walking)
        self._arrive(walking & ((self.needed >= self.changes) | (self.changes == 1)))

    def _arrive(self, arrived: Bool[Tensor, "a"]) -> None:
        """End a walk: nothing more can be put back, and the result is checked if it is the sparsest."""
        worth = self.changes < self.minimal.fewest
        self.phase[arrived & worth] = _CHECK
        self._begin_again(arrived & ~worth)

    def _checked(self, inputs: Tensor, checking: Tensor, reached: Tensor) -> None:
        self.minimal.note(reached, inputs)
        # a model that answers at random: take back what was put back last
        of = (checking & ~reached & (self.undoable > 0)).nonzero().flatten()
        self.undoable[of] -= 1
        self.changes[of] += 1
        at = self.back[of].gather(1, self.undoable[of, None])[:, None].expand(-1, inputs.shape[1], -1)
        self.current[of] = self.current[of].scatter(2, at, self.start[of].gather(2, at))
        again = torch.zeros_like(checking).index_fill_(0, of, True) & (self.changes < self.minimal.fewest)
        self._begin_again(checking & ~again)

    def _begin_again(self, done: Bool[Tensor, "a"]) -> None:
        """Begin the next restart of these examples."""
        self.restart += done
        self.density[done] = 1.0
        for state in (self.phase, self.repetition, self.level, self.changes):
            state[done] = 0  # phase 0 is the start

    def _head(self) -> Int[Tensor, "a 1"]:
        """The position that each walk tries to put back next."""
        return self.ring.gather(1, (self.head % self.ring.shape[1])[:, None])
