"""Loops over the leaves of decision trees, compiled by numba: evaluation, leaves as boxes, branch and bound.

The cells of a unit (a column, or a one-hot group) are numbered; a leaf allows some cells of some units, its
*conditions*.  Of an interval unit it allows cells `lo` to `hi`, and perhaps the cell of a missing value, numbered
after all others; of a mask unit the set bits of `mask`.  `certification/tree_ensemble.py` says what is searched for,
and why the bounds hold.  Nothing here is reassociated: sums are the sums that are written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# what `search` returns
EXHAUSTED, FOUND, ASK, LIMIT, GROW = 0, 1, 2, 3, 4
# registers of a search
TASKS, VISITS, MOST_VISITS, VERDICT, FRAME, NODES, BOXES, MULTIPLIERS, SIZE = 0, 1, 2, 3, 4, 5, 6, 7, 8
# verdicts on a candidate that `search` asked about
NONE, REFUSED = 0, 1
# a task: make a frame narrower in a new frame, or in place (these first); exclude a unit in place; look at it as it is
_NEW, _NARROW, _EXCLUDE, _LOOK = 0, 1, 2, 3
# what a frame knows of a unit
_FREE, _CHANGED, _EXCLUDED = 0, 1, 2

# a condition of a leaf; `bad`: whether the row at hand misses it
CONDITION = np.dtype(
    [("unit", "i4"), ("lo", "i4"), ("hi", "i4"), ("nan", "u1"), ("bad", "u1"), ("mask", "u8")], align=True
)
# a unit: the cells of the row at hand (`own`) and of the adversary's choice (`d_`), and where its cells and buckets
# are among all; `every`: the mask of all its cells; `missing`: whether an interval has a cell for a missing value
UNIT = np.dtype(
    [
        ("is_mask", "u1"), ("missing", "u1"), ("d_nan", "u1"), ("cells", "i4"), ("own", "i4"), ("d_lo", "i4"),
        ("d_hi", "i4"), ("first_cell", "i8"), ("first_bucket", "i8"), ("buckets", "i8"), ("every", "u8"),
        ("d_mask", "u8"),
    ],
    align=True,
)  # fmt: skip

BUCKETS = 8  # of neighbouring cells, on each side of a row's own cell


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and keep the code on disk where that is possible."""
    plain = inspect.unwrap(function)  # without the shape checks that tests wrap around it
    try:
        compiled: Callable[..., Any] = numba.njit(plain, cache=True, nogil=True)
    except RuntimeError:  # nowhere to write the compiled code
        compiled = numba.njit(plain, nogil=True)
    return compiled


@kernel
def leaves_reached(
    x: Any, roots: Any, feature: Any, threshold: Any, left: Any, right: Any, nan_left: Any,
    set_start: Any, set_codes: Any, out: Any,
) -> None:  # fmt: skip
    """The leaf (node number) that each row reaches in each tree; `x` as the library casts it, in float64."""
    for row in range(x.shape[0]):
        for t in range(roots.shape[0]):
            node = roots[t]
            while feature[node] >= 0:
                v = x[row, feature[node]]
                if np.isnan(v):
                    goes_left = nan_left[node]
                elif set_start[node] < set_start[node + 1]:
                    goes_left = False
                    for at in range(set_start[node], set_start[node + 1]):
                        if set_codes[at] == v:
                            goes_left = True
                else:
                    goes_left = v <= threshold[node]
                node = left[node] if goes_left else right[node]
            out[row, t] = node


@kernel
def leaf_conditions(
    leaves: Any, parent: Any, left: Any, node_unit: Any, node_cut: Any, node_mask: Any, nan_left: Any,
    units: Any, start: Any, cond: Any, reachable: Any,
) -> int:  # fmt: skip
    """Conditions of each leaf, from its path: returns how many were written, or would have been.

    `node_cut` is the last cell that goes left, of an interval unit; `node_mask` the categories that do.  `reachable`
    says which leaves allow at least one cell of every unit.
    """
    room = cond.shape[0]
    end = 0
    for i in range(leaves.shape[0]):
        begin = end
        start[i] = begin
        node = leaves[i]
        while parent[node] >= 0:
            above = parent[node]
            went_left = left[above] == node
            u = node_unit[above]
            at = begin
            while at < end and at < room and cond[at].unit != u:
                at += 1
            if at == end:
                end += 1
                if at < room:
                    cond[at].unit, cond[at].lo, cond[at].hi = u, 0, units[u].cells - 1
                    cond[at].nan, cond[at].mask = units[u].missing, units[u].every
            if at < room:
                if units[u].is_mask:
                    cond[at].mask &= node_mask[above] if went_left else ~node_mask[above]
                else:
                    if went_left:
                        cond[at].hi = min(cond[at].hi, node_cut[above])
                    else:
                        cond[at].lo = max(cond[at].lo, node_cut[above] + 1)
                    if nan_left[above] != went_left:
                        cond[at].nan = 0
            node = above
        reachable[i] = True
        if end <= room:
            # what restricts nothing is no condition
            kept = begin
            for at in range(begin, end):
                u = cond[at].unit
                if units[u].is_mask:
                    reachable[i] &= cond[at].mask != 0
                    full = cond[at].mask == units[u].every
                else:
                    reachable[i] &= cond[at].lo <= cond[at].hi or cond[at].nan == 1
                    full = (
                        cond[at].lo == 0
                        and cond[at].hi == units[u].cells - 1
                        and cond[at].nan == units[u].missing
                    )
                if not full:
                    cond[kept] = cond[at]
                    kept += 1
            end = kept
    start[leaves.shape[0]] = end
    return end


@kernel
def _allows(
    i: int, u: int, lo: int, hi: int, box: Any, cond: Any, units: Any,
) -> bool:  # fmt: skip
    """Whether condition i allows some cell of a box of unit u: cells lo to hi, or the set bits of `box`."""
    if units[u].is_mask:
        return (cond[i].mask & box) != 0
    if lo == units[u].cells:
        return cond[i].nan == 1
    return max(cond[i].lo, lo) <= min(cond[i].hi, hi)


@kernel
def mark_row(
    start: Any, cond: Any, units: Any, count: Any
) -> None:  # fmt: skip
    """Which conditions the row's own cells miss (`bad`), how many of each leaf; -1 for a leaf it cannot reach."""
    for leaf in range(start.shape[0] - 1):
        missed = 0
        for i in range(start[leaf], start[leaf + 1]):
            u = cond[i].unit
            if units[u].is_mask:
                inside = (cond[i].mask >> np.uint64(units[u].own)) & np.uint64(1) == 1
                possible = (cond[i].mask & units[u].d_mask) != 0
            else:
                inside = (
                    cond[i].nan == 1
                    if units[u].own == units[u].cells
                    else cond[i].lo <= units[u].own <= cond[i].hi
                )
                possible = max(cond[i].lo, units[u].d_lo) <= min(cond[i].hi, units[u].d_hi) or (
                    cond[i].nan == 1 and units[u].d_nan == 1
                )
            cond[i].bad = 0 if inside else 1
            if not inside:
                if not possible:
                    missed = -1
                    break
                missed += 1
        count[leaf] = missed


@kernel
def number_buckets(units: Any, cell_bucket: Any) -> int:
    """Number the buckets of neighbouring cells of all units, in `cell_bucket` by cell; returns how many there are."""
    at = 0
    for u in range(units.shape[0]):
        units[u].first_bucket = at
        if units[u].is_mask:
            at += units[u].cells  # one for each category
        else:
            begin, own, cells = units[u].first_cell, units[u].own, units[u].cells
            for part in range(3):  # below the row's own cell, that cell, above it
                first, last = own, own
                if own == cells:  # missing: all are one part
                    first, last = units[u].d_lo, units[u].d_hi if part == 0 else -1
                elif part == 0:
                    first, last = units[u].d_lo, min(own - 1, units[u].d_hi)
                elif part == 2:
                    first, last = max(own + 1, units[u].d_lo), units[u].d_hi
                width = last - first + 1
                if width > 0:
                    buckets = min(BUCKETS, width)
                    for c in range(width):
                        cell_bucket[begin + first + c] = at + c * buckets // width
                    at += buckets
            cell_bucket[begin + cells] = at  # the missing value
            at += 1
        units[u].buckets = at - units[u].first_bucket
    return at


@kernel
def _holds(i: int, point: Any, cond: Any, units: Any) -> bool:
    """Whether condition i allows the cell of a point."""
    u = cond[i].unit
    if units[u].is_mask:
        return (cond[i].mask >> np.uint64(point[u])) & np.uint64(1) == 1
    if point[u] == units[u].cells:
        return cond[i].nan == 1
    return cond[i].lo <= point[u] <= cond[i].hi


@kernel
def climb(
    value: Any, first_leaf: Any, last_leaf: Any, start: Any, cond: Any, units: Any, point: Any, base: float,
    goal: float, most: int, count: Any, gain: Any, single: Any, visits: Any,
) -> float:  # fmt: skip
    """Change one unit at a time to the cell that raises the sum most, from `point` (cells, in and out).

    Stops when the sum exceeds `goal`, when `most` units differ from the row, or when no change helps; returns the sum.
    """
    n_units = units.shape[0]
    changed = 0
    for u in range(n_units):
        if point[u] != units[u].own:
            changed += 1
    while True:
        total = base
        gain[:] = 0.0
        for t in range(first_leaf.shape[0]):
            now = 0.0
            singles = 0  # leaves that one change would reach
            for leaf in range(first_leaf[t], last_leaf[t]):
                # changes are needed for all that the row misses but those made
                if not 0 <= count[leaf] <= changed + 1:
                    continue
                which, several = -1, False
                for i in range(start[leaf], start[leaf + 1]):
                    if not _holds(i, point, cond, units):
                        if which >= 0:
                            several = True
                            break
                        which = i
                if several:
                    continue
                if which < 0:
                    now = value[leaf]
                else:
                    single[singles, 0], single[singles, 1] = which, leaf
                    singles += 1
            visits[0] += last_leaf[t] - first_leaf[t]
            total += now
            for n in range(singles):
                i = single[n, 0]
                u = cond[i].unit
                more = value[single[n, 1]] - now
                at = units[u].first_cell
                if units[u].is_mask:
                    allowed = cond[i].mask & units[u].d_mask
                    for c in range(units[u].cells):
                        if (allowed >> np.uint64(c)) & np.uint64(1) == 1:
                            gain[at + c] += more
                else:
                    for c in range(max(cond[i].lo, units[u].d_lo), min(cond[i].hi, units[u].d_hi) + 1):
                        gain[at + c] += more
                    if cond[i].nan == 1 and units[u].d_nan == 1:
                        gain[at + units[u].cells] += more
        if total > goal:
            return total
        best, best_unit, best_cell = 0.0, -1, -1
        for u in range(n_units):
            if changed >= most and point[u] == units[u].own:
                continue
            for c in range(units[u].cells + 1):
                if gain[units[u].first_cell + c] > best and c != units[u].own:
                    best, best_unit, best_cell = gain[units[u].first_cell + c], u, c
        if best_unit < 0 or best <= 1e-12:
            return total
        if point[best_unit] == units[best_unit].own:
            changed += 1
        point[best_unit] = best_cell


@kernel
def _filter(
    f: int, to: int, u: int, lo: int, hi: int, box: Any, excluding: bool,
    pool_leaf: Any, pool_count: Any, frame_start: Any, most: int,
    start: Any, cond: Any, units: Any, was_free: bool,
) -> int:  # fmt: skip
    """Leaves of frame f that stay when unit u is excluded, or its box narrowed, into frame `to` (may be f itself)."""
    trees = frame_start.shape[1] - 1
    write = frame_start[f, 0] if to == f else frame_start[f, trees]
    seen = 0
    begin = frame_start[f, 0]
    for t in range(trees):
        end = frame_start[f, t + 1]
        seen += end - begin
        first = write
        for s in range(begin, end):
            leaf, count = pool_leaf[s], pool_count[s]
            keep = True
            for i in range(start[leaf], start[leaf + 1]):
                if cond[i].unit == u:
                    if excluding:
                        keep = cond[i].bad == 0
                    else:
                        keep = _allows(i, u, lo, hi, box, cond, units)
                        if was_free and cond[i].bad == 1:
                            count -= 1
                    break
            if keep and count <= most:
                pool_leaf[write] = leaf
                pool_count[write] = count
                write += 1
        begin = end
        frame_start[to, t] = first
    frame_start[to, trees] = write
    return seen


@kernel
def _filter_excluded(
    f: int, state: Any, pool_leaf: Any, pool_count: Any, frame_start: Any, start: Any, cond: Any
) -> int:
    """Drop, in place, the leaves that need a change of an excluded unit."""
    trees = frame_start.shape[1] - 1
    write = frame_start[f, 0]
    seen = 0
    begin = frame_start[f, 0]
    for t in range(trees):
        end = frame_start[f, t + 1]
        seen += end - begin
        first = write
        for s in range(begin, end):
            leaf = pool_leaf[s]
            keep = True
            for i in range(start[leaf], start[leaf + 1]):
                if cond[i].bad == 1 and state[f, cond[i].unit] == _EXCLUDED:
                    keep = False
                    break
            if keep:
                pool_leaf[write] = leaf
                pool_count[write] = pool_count[s]
                write += 1
        begin = end
        frame_start[f, t] = first
    frame_start[f, trees] = write
    return seen


@kernel
def _charges(
    f: int, r: int, equal: bool, state: Any, pool_leaf: Any, frame_start: Any, base_at: Any, value: Any,
    start: Any, cond: Any, units: Any, cell_bucket: Any,
    weight: Any, mu: Any, total: Any, touched: Any, best: Any, best_bucket: Any,
) -> int:  # fmt: skip
    """What the changes of each free unit can add at most: by bucket in `total`, the largest in `best`."""
    trees = frame_start.shape[1] - 1
    total[:] = 0.0
    work = 0
    for t in range(trees):
        floor = value[pool_leaf[base_at[t]]]
        n_touched = 0
        for s in range(frame_start[f, t], base_at[t]):
            leaf = pool_leaf[s]
            g = value[leaf] - floor
            work += 1
            whole = 0.0
            for i in range(start[leaf], start[leaf + 1]):
                if cond[i].bad == 1 and state[f, cond[i].unit] == _FREE:
                    whole += 1.0 if equal else weight[i]
            for i in range(start[leaf], start[leaf + 1]):
                u = cond[i].unit
                if cond[i].bad == 0 or state[f, u] != _FREE:
                    continue
                part = g * ((1.0 if equal else weight[i]) / whole)
                if units[u].is_mask:
                    allowed = cond[i].mask & units[u].d_mask
                    for c in range(units[u].cells):
                        if (allowed >> np.uint64(c)) & np.uint64(1) == 1:
                            b = units[u].first_bucket + c
                            if part > mu[b]:
                                if mu[b] == 0.0:
                                    touched[n_touched] = b
                                    n_touched += 1
                                mu[b] = part
                else:
                    lo, hi = max(cond[i].lo, units[u].d_lo), min(cond[i].hi, units[u].d_hi)
                    if lo <= hi:
                        for b in range(
                            cell_bucket[units[u].first_cell + lo], cell_bucket[units[u].first_cell + hi] + 1
                        ):
                            if part > mu[b]:
                                if mu[b] == 0.0:
                                    touched[n_touched] = b
                                    n_touched += 1
                                mu[b] = part
                    if cond[i].nan == 1 and units[u].d_nan == 1:
                        b = cell_bucket[units[u].first_cell + units[u].cells]
                        if part > mu[b]:
                            if mu[b] == 0.0:
                                touched[n_touched] = b
                                n_touched += 1
                            mu[b] = part
        for n in range(n_touched):
            total[touched[n]] += mu[touched[n]]
            mu[touched[n]] = 0.0
    for u in range(best.shape[0]):
        best[u], best_bucket[u] = 0.0, -1
        if state[f, u] == _FREE:
            for b in range(units[u].first_bucket, units[u].first_bucket + units[u].buckets):
                if total[b] > best[u]:
                    best[u], best_bucket[u] = total[b], b
    return work


@kernel
def _largest(best: Any, r: int, top: Any) -> float:
    """The sum of the r largest entries; `top` gets the count, in falling order, r + 1 of them where there are."""
    count = best.shape[0]
    n = min(r + 1, count)
    filled = 0
    for u in range(count):
        v = best[u]
        if filled < n or v > best[top[filled - 1]]:
            at = filled if filled < n else n - 1
            while at > 0 and best[top[at - 1]] < v:
                if at < n:
                    top[at] = top[at - 1]
                at -= 1
            top[at] = u
            if filled < n:
                filled += 1
    whole = 0.0
    for i in range(min(r, count)):
        whole += best[top[i]]
    return whole


@kernel
def _shift_weights(
    f: int, r: int, rate: float, state: Any, pool_leaf: Any, frame_start: Any, base_at: Any, value: Any,
    start: Any, cond: Any, units: Any, cell_bucket: Any,
    weight: Any, top: Any, best_bucket: Any, in_top: Any, leader: Any, leader_value: Any,
) -> int:  # fmt: skip
    """Charge the leaves that make the largest units large less to those units, and so more to their others."""
    trees = frame_start.shape[1] - 1
    work = 0
    for n in range(r):
        in_top[top[n]] = n + 1
    for t in range(trees):
        floor = value[pool_leaf[base_at[t]]]
        for n in range(r):
            leader[n], leader_value[n] = -1, 0.0
        for s in range(frame_start[f, t], base_at[t]):
            leaf = pool_leaf[s]
            work += 1
            whole, free = 0.0, 0
            for i in range(start[leaf], start[leaf + 1]):
                if cond[i].bad == 1 and state[f, cond[i].unit] == _FREE:
                    whole += weight[i]
                    free += 1
            for i in range(start[leaf], start[leaf + 1]):
                u = cond[i].unit
                if cond[i].bad == 0 or state[f, u] != _FREE or in_top[u] == 0:
                    continue
                b = best_bucket[u]
                if units[u].is_mask:
                    covers = (cond[i].mask >> np.uint64(b - units[u].first_bucket)) & np.uint64(1) == 1
                else:
                    lo, hi = max(cond[i].lo, units[u].d_lo), min(cond[i].hi, units[u].d_hi)
                    covers = lo <= hi and (
                        cell_bucket[units[u].first_cell + lo] <= b <= cell_bucket[units[u].first_cell + hi]
                    )
                    covers |= (
                        cond[i].nan == 1
                        and units[u].d_nan == 1
                        and cell_bucket[units[u].first_cell + units[u].cells] == b
                    )
                if covers:
                    part = (value[leaf] - floor) * weight[i] / whole
                    n = in_top[u] - 1
                    if part > leader_value[n]:
                        leader_value[n] = part
                        leader[n] = i if free > 1 else -1
        for n in range(r):
            if leader[n] >= 0:
                weight[leader[n]] = max(weight[leader[n]] * rate, 1e-6)
    for n in range(r):
        in_top[top[n]] = 0
    return work


@kernel
def _own_answer(base_at: Any, pool_leaf: Any, proba: Any, leaf_node: Any, sums: Any) -> int:
    """The class a forest answers: votes added in the order of its trees, divided by their number, the first largest."""
    trees = base_at.shape[0]
    sums[:] = 0.0
    for t in range(trees):
        node = leaf_node[pool_leaf[base_at[t]]]
        for c in range(sums.shape[0]):
            sums[c] += proba[node, c]
    answer = 0
    for c in range(sums.shape[0]):
        sums[c] /= trees
        if sums[c] > sums[answer]:
            answer = c
    return answer


@kernel
def search(
    value: Any, start: Any, cond: Any, units: Any, cell_bucket: Any, buckets: int,
    base_score: float, tolerance: float, answer: int, proba: Any, leaf_node: Any,
    pool_leaf: Any, pool_count: Any, frame_start: Any, state: Any, box_lo: Any, box_hi: Any, box_mask: Any,
    left_to: Any, task: Any, task_mask: Any, reg: Any, weight: Any, met_lo: Any, met_hi: Any, met_mask: Any,
) -> int:  # fmt: skip
    """Is there a point within the budget whose sum exceeds the threshold?  Continues where it was left.

    Points whose sum is within `tolerance` of the threshold are candidates that are decided by the forest's own sum
    (`proba` not empty), or asked about (`ASK`; the caller calls again with `reg[VERDICT] = REFUSED`, or stops).
    """
    trees = frame_start.shape[1] - 1
    count = units.shape[0]
    depth = state.shape[0]
    theta = -tolerance
    mu, total, touched = np.zeros(buckets), np.zeros(buckets), np.zeros(buckets, np.int32)
    best, best_bucket = np.zeros(count), np.zeros(count, np.int32)
    equal_best = np.zeros(count)
    top, in_top = np.zeros(count + 2, np.int32), np.zeros(count, np.int32)
    leader, leader_value = np.zeros(count + 1, np.int32), np.zeros(count + 1)
    base_at = np.zeros(trees, np.int32)
    relevant = np.zeros(count, np.uint8)
    sums = np.zeros(proba.shape[1])
    most_cells = 1
    for u in range(count):
        most_cells = max(most_cells, units[u].cells + 1)
    ends, begins = np.zeros(most_cells, np.int32), np.zeros(most_cells, np.int32)
    probe = np.zeros(64)
    probe_best = np.zeros(64)

    refused = reg[VERDICT] == REFUSED
    reg[VERDICT] = NONE
    f = reg[FRAME]
    while True:
        if not refused:
            if reg[TASKS] == 0:
                return EXHAUSTED
            if reg[VISITS] > reg[MOST_VISITS]:
                return LIMIT
            n = reg[TASKS] - 1
            f, kind, u = task[n, 0], task[n, 1], task[n, 2]
            if reg[TASKS] + 8 > task.shape[0]:
                return GROW
            if kind == _NEW:
                size = frame_start[f, trees] - frame_start[f, 0]
                if f + 1 >= depth or frame_start[f, trees] + size > pool_leaf.shape[0]:
                    return GROW
            reg[TASKS] = n
            if kind <= _NARROW:
                to = f + 1 if kind == _NEW else f
                was_free = state[f, u] == _FREE
                r = left_to[f] - (1 if was_free else 0)
                reg[VISITS] += _filter(
                    f, to, u, task[n, 3], task[n, 4], task_mask[n], False, pool_leaf, pool_count, frame_start, r,
                    start, cond, units, was_free,
                )  # fmt: skip
                if kind == _NEW:
                    state[to] = state[f]
                    box_lo[to], box_hi[to], box_mask[to] = box_lo[f], box_hi[f], box_mask[f]
                f = to
                state[f, u], left_to[f] = _CHANGED, r
                box_lo[f, u], box_hi[f, u], box_mask[f, u] = task[n, 3], task[n, 4], task_mask[n]
            elif kind == _EXCLUDE:
                state[f, u] = _EXCLUDED
                reg[VISITS] += _filter(
                    f, f, u, 0, 0, task_mask[n], True, pool_leaf, pool_count, frame_start, left_to[f],
                    start, cond, units, False,
                )  # fmt: skip
            reg[FRAME] = f

        # -- the frame as it is
        again = True
        while again:
            again = False
            r = left_to[f]
            base_sum = base_score
            for t in range(trees):
                s = frame_start[f, t]
                while pool_count[s] != 0:
                    s += 1
                base_at[t] = s
                base_sum += value[pool_leaf[s]]
                reg[VISITS] += s - frame_start[f, t] + 1
            reg[NODES] += 1
            extending = False
            if base_sum > theta:
                # where do the best leaves meet?
                clash = -1
                for u in range(count):
                    if state[f, u] == _CHANGED:
                        met_lo[u], met_hi[u], met_mask[u] = box_lo[f, u], box_hi[f, u], box_mask[f, u]
                    else:  # where it may move without another leaf
                        met_lo[u], met_hi[u] = units[u].d_lo, units[u].d_hi
                for t in range(trees):
                    leaf = pool_leaf[base_at[t]]
                    for i in range(start[leaf], start[leaf + 1]):
                        u = cond[i].unit
                        if state[f, u] != _CHANGED:
                            met_lo[u], met_hi[u] = max(met_lo[u], cond[i].lo), min(met_hi[u], cond[i].hi)
                        elif units[u].is_mask:
                            met_mask[u] &= cond[i].mask
                            if met_mask[u] == 0:
                                clash = u
                        elif box_lo[f, u] != units[u].cells:
                            met_lo[u], met_hi[u] = max(met_lo[u], cond[i].lo), min(met_hi[u], cond[i].hi)
                            if met_lo[u] > met_hi[u]:
                                clash = u
                    if clash >= 0:
                        break
                if clash < 0:
                    if not refused:
                        if base_sum > tolerance:
                            return FOUND
                        if proba.shape[0] == 0:
                            return ASK
                        reg[VISITS] += trees
                        if _own_answer(base_at, pool_leaf, proba, leaf_node, sums) != answer:
                            return FOUND
                    refused = False
                    # the same leaves, the same answer: the meeting is closed, what is outside of it is not
                    cut = False
                    for u in range(count):
                        if state[f, u] != _CHANGED:
                            continue
                        if units[u].is_mask:
                            if met_mask[u] != box_mask[f, u]:
                                _push(task, task_mask, reg, f, _NARROW, u, 0, 0, met_mask[u])
                                _push(task, task_mask, reg, f, _NEW, u, 0, 0, box_mask[f, u] & ~met_mask[u])
                                cut = True
                        elif met_lo[u] > box_lo[f, u] or met_hi[u] < box_hi[f, u]:
                            _push(task, task_mask, reg, f, _NARROW, u, met_lo[u], met_hi[u], np.uint64(0))
                            if met_lo[u] > box_lo[f, u]:
                                _push(
                                    task,
                                    task_mask,
                                    reg,
                                    f,
                                    _NEW,
                                    u,
                                    box_lo[f, u],
                                    met_lo[u] - 1,
                                    np.uint64(0),
                                )
                            if met_hi[u] < box_hi[f, u]:
                                _push(
                                    task,
                                    task_mask,
                                    reg,
                                    f,
                                    _NEW,
                                    u,
                                    met_hi[u] + 1,
                                    box_hi[f, u],
                                    np.uint64(0),
                                )
                            cut = True
                        if cut:
                            break
                    if cut or r == 0:
                        break
                    extending = True  # other units may change as well, and the sum may stay a tie
                else:
                    refused = False
                    reg[BOXES] += 1
                    if r == 0:
                        # probe: what is the sum at most in each part of a unit's box?
                        pruned, shrunk = False, False
                        for u in range(count):
                            if state[f, u] != _CHANGED or (
                                not units[u].is_mask and box_lo[f, u] == box_hi[f, u]
                            ):
                                continue
                            if units[u].is_mask:
                                parts = units[u].cells
                            else:
                                width = box_hi[f, u] - box_lo[f, u] + 1
                                parts = min(16, width)
                            probe[:parts] = base_score
                            for t in range(trees):
                                probe_best[:parts] = -np.inf
                                missing = parts
                                for s in range(frame_start[f, t], frame_start[f, t + 1]):
                                    leaf = pool_leaf[s]
                                    if pool_count[s] != 0:
                                        continue
                                    reg[VISITS] += 1
                                    where = -1
                                    for i in range(start[leaf], start[leaf + 1]):
                                        if cond[i].unit == u:
                                            where = i
                                            break
                                    v = value[leaf]
                                    if units[u].is_mask:
                                        allowed = (
                                            box_mask[f, u] if where < 0 else box_mask[f, u] & cond[where].mask
                                        )
                                        for p in range(parts):
                                            if (
                                                probe_best[p] == -np.inf
                                                and (allowed >> np.uint64(p)) & np.uint64(1) == 1
                                            ):
                                                probe_best[p] = v
                                                missing -= 1
                                    else:
                                        p0, p1 = 0, parts - 1
                                        if where >= 0:
                                            lo = max(cond[where].lo, box_lo[f, u]) - box_lo[f, u]
                                            hi = min(cond[where].hi, box_hi[f, u]) - box_lo[f, u]
                                            p0, p1 = lo * parts // width, hi * parts // width
                                        for p in range(p0, p1 + 1):
                                            if probe_best[p] == -np.inf:
                                                probe_best[p] = v
                                                missing -= 1
                                    if missing == 0:
                                        break
                                for p in range(parts):
                                    probe[p] += probe_best[p]
                            first, last, kept = -1, -1, np.uint64(0)
                            for p in range(parts):
                                if probe[p] > theta:
                                    if first < 0:
                                        first = p
                                    last = p
                                    kept |= np.uint64(1) << np.uint64(p)
                            if first < 0:
                                pruned = True
                                break
                            if units[u].is_mask:
                                new_lo, new_hi, new_mask = 0, 0, box_mask[f, u] & kept
                                smaller = new_mask != box_mask[f, u]
                            else:
                                # cell c is in part (c * parts) // width
                                new_lo = box_lo[f, u] + (first * width + parts - 1) // parts
                                new_hi = box_lo[f, u] + ((last + 1) * width + parts - 1) // parts - 1
                                new_mask = np.uint64(0)
                                smaller = new_lo > box_lo[f, u] or new_hi < box_hi[f, u]
                            if smaller:
                                box_lo[f, u], box_hi[f, u], box_mask[f, u] = new_lo, new_hi, new_mask
                                reg[VISITS] += _filter(
                                    f, f, u, new_lo, new_hi, new_mask, False, pool_leaf, pool_count, frame_start, 0,
                                    start, cond, units, False,
                                )  # fmt: skip
                                shrunk = True
                        if pruned:
                            break
                        if shrunk:
                            again = True
                            if reg[VISITS] > reg[MOST_VISITS]:
                                _push(task, task_mask, reg, f, _LOOK, 0, 0, 0, np.uint64(0))
                                return LIMIT
                            continue
                    # split the unit in which the best leaves cannot meet
                    u = clash
                    if units[u].is_mask:
                        part = np.uint64(0)
                        for t in range(trees):
                            leaf = pool_leaf[base_at[t]]
                            for i in range(start[leaf], start[leaf + 1]):
                                if cond[i].unit == u and (cond[i].mask & box_mask[f, u]) != box_mask[f, u]:
                                    part = cond[i].mask & box_mask[f, u]
                                    break
                            if part != 0:
                                break
                        _push(task, task_mask, reg, f, _NARROW, u, 0, 0, box_mask[f, u] & ~part)
                        _push(task, task_mask, reg, f, _NEW, u, 0, 0, part)
                    else:
                        lo, hi = box_lo[f, u], box_hi[f, u]
                        ends[: hi - lo + 1], begins[: hi - lo + 1] = 0, 0
                        for t in range(trees):
                            leaf = pool_leaf[base_at[t]]
                            for i in range(start[leaf], start[leaf + 1]):
                                if cond[i].unit == u:
                                    if cond[i].hi < hi:
                                        ends[cond[i].hi - lo] += 1
                                    if cond[i].lo > lo:
                                        begins[cond[i].lo - lo] += 1
                                    break
                        below, above = 0, 0
                        for c in range(hi - lo + 1):
                            above += begins[c]
                        at, most = -1, -1
                        for c in range(hi - lo):  # between cells c and c + 1
                            below += ends[c]
                            if c > 0:
                                above -= begins[c]
                            else:
                                above -= begins[0]
                            score = min(below, above) * trees + max(below, above)
                            if score > most:
                                at, most = c, score
                        _push(task, task_mask, reg, f, _NARROW, u, lo + at + 1, hi, np.uint64(0))
                        _push(task, task_mask, reg, f, _NEW, u, lo, lo + at, np.uint64(0))
                    break
            elif r == 0:
                break
            refused = False

            # -- which other unit can raise the sum far enough?
            reg[VISITS] += _charges(
                f, r, True, state, pool_leaf, frame_start, base_at, value, start, cond, units, cell_bucket,
                weight, mu, total, touched, best, best_bucket,
            )  # fmt: skip
            bound = base_sum + _largest(best, r, top)
            equal_best[:] = best
            if not extending and bound > theta and r > 1 and (reg[MULTIPLIERS] > 0 or reg[NODES] > 300):
                rounds = 40 if f == 0 and reg[NODES] < 3 else 12
                lowest = bound
                reg[MULTIPLIERS] = 2  # the weights are used
                for n in range(rounds):
                    reg[VISITS] += _charges(
                        f, r, False, state, pool_leaf, frame_start, base_at, value, start, cond, units, cell_bucket,
                        weight, mu, total, touched, best, best_bucket,
                    )  # fmt: skip
                    now = base_sum + _largest(best, r, top)
                    if now <= theta:
                        bound = now
                        break
                    if n >= 4 and now > lowest - (lowest - theta) * 0.01 and n % 4 == 0:
                        break
                    lowest = min(lowest, now)
                    reg[VISITS] += _shift_weights(
                        f, min(r, count), 0.7 if n < 20 else 0.9, state, pool_leaf, frame_start, base_at, value,
                        start, cond, units, cell_bucket, weight, top, best_bucket, in_top, leader, leader_value,
                    )  # fmt: skip
                bound = min(bound, now)
            if not extending and bound <= theta:
                break
            chosen = -1
            if extending:
                relevant[:] = 0
                for s in range(frame_start[f, 0], frame_start[f, trees]):
                    leaf = pool_leaf[s]
                    for i in range(start[leaf], start[leaf + 1]):
                        if cond[i].bad == 1:
                            relevant[cond[i].unit] = 1
                reg[VISITS] += frame_start[f, trees] - frame_start[f, 0]
                for u in range(count):
                    if (
                        state[f, u] == _FREE
                        and relevant[u] == 1
                        and (chosen < 0 or equal_best[u] > equal_best[chosen])
                    ):
                        chosen = u
                if chosen < 0:
                    break
            else:
                # `best`, `total` and `top` are of the last weights; any weights will do
                _largest(best, r, top)
                fixed = False
                for u in range(count):
                    if state[f, u] != _FREE:
                        continue
                    others = _others(best, top, r, u, count)
                    if base_sum + best[u] + others <= theta:
                        state[f, u] = _EXCLUDED
                        fixed = True
                    elif chosen < 0 or equal_best[u] > equal_best[chosen]:
                        chosen = u
                if fixed:
                    reg[VISITS] += _filter_excluded(f, state, pool_leaf, pool_count, frame_start, start, cond)
                if chosen < 0:
                    break
            u = chosen
            others = 0.0 if extending else _others(best, top, r, u, count)
            _push(task, task_mask, reg, f, _EXCLUDE, u, 0, 0, np.uint64(0))
            if units[u].is_mask:
                kept = units[u].d_mask & ~(np.uint64(1) << np.uint64(units[u].own))
                if not extending:
                    for c in range(units[u].cells):
                        if base_sum + total[units[u].first_bucket + c] + others <= theta:
                            kept &= ~(np.uint64(1) << np.uint64(c))
                if kept != 0:
                    _push(task, task_mask, reg, f, _NEW, u, 0, 0, kept)
            else:
                missing_cell = units[u].cells
                if units[u].d_nan == 1 and units[u].own != missing_cell:
                    b = cell_bucket[units[u].first_cell + missing_cell]
                    if extending or base_sum + total[b] + others > theta:
                        _push(task, task_mask, reg, f, _NEW, u, missing_cell, missing_cell, np.uint64(0))
                sides = np.zeros((2, 2), np.int64)
                if units[u].own == missing_cell:
                    sides[0, 0], sides[0, 1], sides[1, 0], sides[1, 1] = units[u].d_lo, units[u].d_hi, 1, 0
                else:
                    sides[0, 0], sides[0, 1] = units[u].d_lo, min(units[u].own - 1, units[u].d_hi)
                    sides[1, 0], sides[1, 1] = max(units[u].own + 1, units[u].d_lo), units[u].d_hi
                gains = np.full(2, -1.0)
                for side in range(2):
                    lo, hi = sides[side, 0], sides[side, 1]
                    if not extending:
                        while (
                            lo <= hi
                            and base_sum + total[cell_bucket[units[u].first_cell + lo]] + others <= theta
                        ):
                            lo += 1
                        while (
                            lo <= hi
                            and base_sum + total[cell_bucket[units[u].first_cell + hi]] + others <= theta
                        ):
                            hi -= 1
                    sides[side, 0], sides[side, 1] = lo, hi
                    for c in range(lo, hi + 1):
                        gains[side] = max(gains[side], total[cell_bucket[units[u].first_cell + c]])
                first = 0 if gains[0] >= gains[1] else 1
                for side in (1 - first, first):  # the last pushed is looked at first
                    if sides[side, 0] <= sides[side, 1]:
                        _push(task, task_mask, reg, f, _NEW, u, sides[side, 0], sides[side, 1], np.uint64(0))


@kernel
def _push(
    task: Any, task_mask: Any, reg: Any, f: int, kind: int, u: int, lo: int, hi: int, mask: Any
) -> None:
    n = reg[TASKS]
    task[n, 0], task[n, 1], task[n, 2], task[n, 3], task[n, 4] = f, kind, u, lo, hi
    task_mask[n] = mask
    reg[TASKS] = n + 1


@kernel
def _others(best: Any, top: Any, r: int, u: int, count: int) -> float:
    """The sum of the r - 1 largest entries other than u."""
    whole, taken = 0.0, 0
    for n in range(min(r + 1, count)):
        if taken == r - 1:
            break
        if top[n] != u:
            whole += best[top[n]]
            taken += 1
    return whole
