"""The slow twin of bound propagation: the smallest margin over a region, exactly, as a mixed-integer program (HiGHS).

Also the small random networks and the random regions that both are tried on.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_matrix
from torch import Tensor, nn

from zeronorm.certification.bound_propagation.region import FREE, Regions, split_group, split_values
from zeronorm.certification.network_graph import MaxPool2d, Network, Relu


class Undecided(Exception):
    """The solver's time was up."""


class Residual(nn.Module):
    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2, 3, padding=1)
        self.second = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.third = nn.Conv2d(2, 2, 1)
        self.last = nn.Linear(2 * height * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.third(torch.relu(self.second(x)))).flatten(1))


KINDS = ("conv", "two convs", "three convs", "mlp", "max pool", "residual", "flat", "average pool")


def random_network(
    seed: int, kind: str, sides: tuple[int, int] = (3, 5)
) -> tuple[nn.Module, tuple[int, ...]]:
    """A tiny network of a kind and the shape of its inputs; every stride, padding and scale is drawn."""
    draw = random.Random(seed)
    channels, (height, width) = draw.choice([1, 1, 2]), (draw.randint(*sides) for _ in range(2))

    def conv(maps: int, out: int, most: int = 3) -> nn.Module:
        kernel = [min(side, draw.randint(1, most)) for side in (height, width)]
        stride, padding = (draw.randint(1, 2), draw.randint(1, 2)), (draw.randint(0, 1), draw.randint(0, 1))
        return nn.Conv2d(maps, out, kernel, stride=stride, padding=padding)

    flat: list[nn.Module] = [nn.Flatten(), nn.LazyLinear(3)]
    hidden: list[nn.Module] = [nn.Flatten(), nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3)]
    groups = draw.choice([1, 2])
    pool = nn.MaxPool2d(2, stride=draw.choice([1, 2]), padding=1)
    layers: dict[str, list[nn.Module]] = {
        "conv": [conv(channels, 3), nn.BatchNorm2d(3), nn.ReLU(), *hidden],
        "two convs": [
            *[conv(channels, 2), nn.ReLU(), nn.Conv2d(2, 4, 2, padding=1, groups=groups), nn.ReLU()],
            *hidden,
        ],
        "three convs": [
            *[
                nn.Conv2d(channels, 2, 2, padding=draw.randint(0, 1)),
                nn.ReLU(),
                nn.Conv2d(2, 2, 2, padding=1),
            ],
            *[nn.ReLU(), nn.Conv2d(2, 2, 2, stride=draw.randint(1, 2), padding=1), nn.ReLU(), *flat],
        ],
        "mlp": [
            nn.Flatten(),
            nn.LazyLinear(5),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.LazyLinear(5),
            nn.ReLU(),
            *hidden,
        ],
        "max pool": [
            *[conv(channels, 2), nn.ReLU(), pool, nn.Conv2d(2, 2, 2, padding=1), nn.MaxPool2d(2, padding=1)],
            *[nn.ReLU(), *flat],
        ],
        "average pool": [
            *[
                conv(channels, 2),
                nn.ReLU(),
                nn.AvgPool2d(2, stride=1, padding=1, count_include_pad=groups == 1),
            ],
            *[nn.ZeroPad2d((1, 0, 0, 2)), nn.Conv2d(2, 2, 2), nn.ReLU(), *flat],
        ],
        "flat": [nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3)],
    }
    shape = (width * 2,) if kind == "flat" else (channels, height, width)
    # the weights are named by the seed, whatever was drawn before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Residual(*shape) if kind == "residual" else nn.Sequential(*layers[kind])
        model.eval()(torch.rand(2, *shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 2)
        scale = draw.choice([1, 2, 3])
        for parameter in model.parameters():
            parameter.data *= scale
    return model, shape


def random_part(region: Regions, draw: random.Random, splits: int) -> Regions:
    """Some part of a region, after so many splits at random."""
    for _ in range(splits):
        group, counts = region.group[0], region.counts[0]
        groups = [g + 1 for g in range(len(counts)) if counts[g] > 0]
        if groups:
            g = draw.choice(groups)
            own = (group == g).nonzero().tolist()
            first = torch.zeros(group.shape, dtype=torch.bool)
            for p, u in draw.sample(own, draw.randint(1, len(own) - 1)):
                first[p, u] = True
            region = draw.choice(split_group(region, g, first))
        elif places := (group == FREE).nonzero().tolist():
            p, u = draw.choice(places)
            channel = draw.randrange(region.centre.shape[1]) if region.per_pixel else u
            region = draw.choice(split_values(region, channel, p))
    return region


def random_points(region: Regions, draw: random.Random, count: int) -> Tensor:
    """Inputs of one region, mostly at corners and with as many changes as are allowed, `(count, *shape)`."""
    points = region.centre[0].repeat(count, 1, 1)
    group = region.group[0]
    for point in points:
        units = (group == FREE).nonzero().tolist()
        for g, most in enumerate(region.counts[0].tolist()):
            own = (group == g + 1).nonzero().tolist()
            units += draw.sample(own, min(len(own), most if draw.random() < 0.8 else draw.randint(0, most)))
        for p, u in units:
            for c in range(len(point)) if region.per_pixel else (u,):
                low, high = float(region.low[0, c, p]), float(region.high[0, c, p])
                point[c, p] = draw.choice([low, high, low + (high - low) * draw.random()])
    return points.reshape(count, *region.shape)


def least(
    network: Network, region: Regions, row: Tensor, ranges: list[tuple[Tensor, Tensor]], of: int = -1
) -> tuple[float, Tensor]:
    """The smallest value of a linear function of an operation's result, and where; by HiGHS, one region.

    `ranges` hold for every operation, as the big-M constants; any valid ones give the same result.  The value is that
    of the point, computed again in float64: what the solver says is off by its tolerances.
    """
    columns: list[tuple[float, float]] = []
    integer: list[int] = []
    entries: list[tuple[int, int, float]] = []
    sides: list[tuple[float, float]] = []

    def variable(low: float, high: float, whole: bool = False) -> int:
        columns.append((low, high))
        integer.append(int(whole))
        return len(columns) - 1

    def constrain(terms: list[tuple[int, float]], low: float, high: float) -> None:
        entries.extend((len(sides), column, weight) for column, weight in terms)
        sides.append((low, high))

    centre, group = region.centre[0], region.group[0]
    low, high = (torch.minimum(region.low, region.centre)[0], torch.maximum(region.high, region.centre)[0])
    values: list[list[int]] = []
    changed: dict[tuple[int, int], int] = {}
    for p, u in (group > 0).nonzero().tolist():
        changed[p, u] = variable(0, 1, True)
    for g, count in enumerate(region.counts[0].tolist()):
        own = [(changed[p, u], 1.0) for p, u in (group == g + 1).nonzero().tolist()]
        if own:
            constrain(own, -np.inf, count)
    inputs = []
    for c in range(centre.shape[0]):
        for p in range(centre.shape[1]):
            u = 0 if region.per_pixel else c
            x, bottom, top = float(centre[c, p]), float(low[c, p]), float(high[c, p])
            kind = int(group[p, u])
            if kind == 0:
                bottom = top = x
            elif kind == FREE:
                bottom, top = float(region.low[0, c, p]), float(region.high[0, c, p])
            column = variable(bottom, top)
            if kind > 0:
                constrain([(column, 1.0), (changed[p, u], x - bottom)], x, np.inf)
                constrain([(column, 1.0), (changed[p, u], x - top)], -np.inf, x)
            inputs.append(column)
    values.append(inputs)
    operations = network.operations
    last = len(operations) - 1 if of < 0 else of
    for number, operation in enumerate(operations[1 : last + 1], 1):
        bottom, top = (side.flatten().tolist() for side in ranges[number])
        made = [variable(lo, hi) for lo, hi in zip(bottom, top, strict=True)]
        values.append(made)
        given = [values[i] for i in operation.inputs]
        if operation.affine:
            shapes = [operations[i].shape for i in operation.inputs]
            zeros = [torch.zeros(1, *shape, dtype=torch.float64) for shape in shapes]
            constant = operation.apply(*zeros).flatten()
            eye = torch.eye(len(made), dtype=torch.float64).view(-1, *operation.shape)
            parts = [part.flatten(1) for part in operation.transpose(eye)]
            for i, column in enumerate(made):
                terms = [(column, 1.0)]
                for part, source in zip(parts, given, strict=True):
                    terms += [(source[j], -float(part[i, j])) for j in part[i].nonzero()[:, 0].tolist()]
                constrain(terms, float(constant[i]), float(constant[i]))
        elif isinstance(operation, Relu):
            lows, highs = (side.flatten().tolist() for side in ranges[operation.inputs[0]])
            for i, column in enumerate(made):
                source, lo, hi = given[0][i], lows[i], highs[i]
                if hi <= 0:
                    constrain([(column, 1.0)], 0, 0)
                elif lo >= 0:
                    constrain([(column, 1.0), (source, -1.0)], 0, 0)
                else:
                    on = variable(0, 1, True)
                    constrain([(column, 1.0), (source, -1.0)], 0, np.inf)
                    constrain([(column, 1.0)], 0, np.inf)
                    constrain([(column, 1.0), (on, -hi)], -np.inf, 0)
                    constrain([(column, 1.0), (source, -1.0), (on, -lo)], -np.inf, -lo)
        else:
            assert isinstance(operation, MaxPool2d)
            shape = operations[operation.inputs[0]].shape
            numbers = torch.arange(1.0, 1 + len(given[0]), dtype=torch.float64).view(1, *shape)
            lows, highs = (side.flatten().tolist() for side in ranges[operation.inputs[0]])
            for i, column in enumerate(made):
                window = [j for j in range(len(given[0])) if _in_window(operation, numbers, j, i)]
                choices = [variable(0, 1, True) for _ in window]
                constrain([(choice, 1.0) for choice in choices], 1, 1)
                most = max(highs[j] for j in window)
                for j, choice in zip(window, choices, strict=True):
                    constrain([(column, 1.0), (given[0][j], -1.0)], 0, np.inf)
                    gap = most - lows[j]
                    constrain([(column, 1.0), (given[0][j], -1.0), (choice, gap)], -np.inf, gap)
    objective = np.zeros(len(columns))
    for column, weight in zip(values[last], row.flatten().tolist(), strict=True):
        objective[column] += weight
    rows, places, weights = zip(*entries, strict=True)
    matrix = coo_matrix((weights, (rows, places)), shape=(len(sides), len(columns)))
    bounds = np.array(columns)
    solved = milp(
        objective,
        integrality=np.array(integer),
        bounds=(bounds[:, 0], bounds[:, 1]),
        constraints=LinearConstraint(matrix, *np.array(sides).T),
        options={"mip_rel_gap": 0.0, "time_limit": 20},
    )
    if solved.x is None or solved.status != 0:
        raise Undecided(solved.message)
    point = _into(region, torch.tensor(solved.x[inputs]).view(centre.shape), solved.x, changed)
    value = network.values(point.reshape(1, *region.shape))[last]
    return float((value.flatten() * row.flatten()).sum()), point.reshape(region.shape)


def _into(
    region: Regions, point: Tensor, solution: np.ndarray, changed: dict[tuple[int, int], int]
) -> Tensor:
    """The solver's point, exactly within the region."""
    point = torch.maximum(
        torch.minimum(point, torch.maximum(region.high, region.centre)[0]),
        torch.minimum(region.low, region.centre)[0],
    )
    for (p, u), column in changed.items():
        channels = slice(None) if region.per_pixel else slice(u, u + 1)
        if solution[column] < 0.5:
            point[channels, p] = region.centre[0, channels, p]
        else:
            point[channels, p] = torch.minimum(
                torch.maximum(point[channels, p], region.low[0, channels, p]), region.high[0, channels, p]
            )
    return point


def _in_window(operation: MaxPool2d, numbers: Tensor, j: int, i: int) -> bool:
    """Whether a pool's cell i looks at its input j."""
    only = torch.where(numbers == j + 1, 1.0, 0.0).double()
    return bool(operation.apply(only).flatten()[i] == 1)
