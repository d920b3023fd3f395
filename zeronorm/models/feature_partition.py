"""Votes of disjoint groups of pixels: what no single changed pixel can move by more than one group's say.

b       examples
v       partitions of the pixels, each into as many groups
t, p    groups of a partition, and pixels of each
d, o    what a group's network, or a layer of it, reads and writes; at first its pixels' channels
i, j    classes; a pair (i, j): i's case against j
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError

UNIT = 1024
"""Soft votes are whole multiples of 1 / UNIT, so that sums of them are exact."""
VOTES = ("soft", "hard")
PATTERNS = ("strided", "random")

# every eighth row and every sixteenth column: thumbnails of 4x2 pixels in images of 32x32
_THUMBNAILS = (((8, 0), (0, 16)),)


def feature_partition(
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    classes: int = 10,
    votes: str = "soft",
    partition: str | Sequence[Any] = _THUMBNAILS,
    groups: int = 128,
    shared: bool = True,
    mirrored: bool = True,
    widths: Sequence[int] = (768, 384),
    subset_seed: int = 0,
) -> nn.Module:
    """Votes of disjoint groups of pixels, each seen by a small network; 416,650 parameters on CIFAR-10.

    Feature partition aggregation (Hammoudeh & Lowd, AAAI 2024).  A changed pixel lies in one group and moves no other's
    vote; the certificate is `certification.certify_feature_partition`, the training
    `training.partition.train_feature_partition`.  Soft votes, thumbnails and their joint training are this
    library's own.

    **Arguments:**

    - `votes`: "hard", one for the class of a group's largest logit (the paper's); or "soft": a group that gives classes
      the scores u prefers class i to j by clip(u_i - u_j, -1, 1).
    - `partition`: "strided" (pixel i, row by row, in group i modulo `groups`) and "random" (alike in size, named by
      `subset_seed`) are the paper's; a list of lattices, each of two steps (rows, columns), puts pixels that are whole
      steps apart, around the edges too, in one group.  Of several lattices the votes are averaged.
    - `groups`: how many, of "strided" and "random".
    - `shared`: one network for all groups of a partition, of which only the first bias is a group's own; else one each.
    - `mirrored`: a group's vote is the mean of those on the image and on its mirror image; of lattices with soft votes.
    - `widths`: hidden layers.

    The logits of soft votes are each class's smallest lead over another, in changed pixels (two votes); of hard ones
    the counts.  Gradients go through rounding, and past the clip, as if they were not there.
    """
    checks.choice("votes", votes, VOTES)
    height, width = (checks.integer("image_size", side, 1) for side in image_size)
    if isinstance(partition, str):
        checks.choice("partition", partition, PATTERNS)
        count = checks.integer("groups", groups, 2, height * width)
        members = _dealt(partition, height * width, count, checks.integer("subset_seed", subset_seed, 0))[
            None
        ]
    else:
        members = _lattices(partition, height, width)
    if votes == "hard" and len(members) > 1:
        raise ArgumentError(f"partition: expected one for hard votes, got {len(members)} lattices")
    if not widths:
        raise ArgumentError("widths: expected at least one hidden layer, got none")
    return FeaturePartition(
        in_channels,
        (height, width),
        classes,
        members,
        votes == "hard",
        shared,
        mirrored and votes == "soft" and not isinstance(partition, str),
        [checks.integer("widths", size, 1) for size in widths],
    )


class FeaturePartition(nn.Module):
    """The network."""

    members: (
        Tensor  # int64 (v, t, p): positions of pixels, row by row; one past the last where a group is smaller
    )
    owner: Tensor  # int64 (v, pixels): the group of each pixel
    reflected: Tensor  # int64 (v, t): the group that a group's pixels are when the image is mirrored

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        classes: int,
        members: Int[Tensor, "v t p"],
        hard: bool,
        shared: bool,
        mirrored: bool,
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.classes, self.hard, self.mirrored = classes, hard, mirrored
        self.partitions, self.groups, size = members.shape
        pixels = image_size[0] * image_size[1]
        owner = torch.empty(self.partitions, pixels + 1, dtype=torch.int64)
        names = torch.arange(self.groups)[:, None].expand(-1, size)
        for v in range(self.partitions):
            owner[v, members[v].flatten()] = names.flatten()
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("owner", owner[:, :-1].clone(), persistent=False)
        self.register_buffer("reflected", _reflected(members, owner, image_size, mirrored), persistent=False)
        kinds = 1 if shared else self.groups
        sizes = [in_channels * size, *widths, classes]
        # a first layer for each partition, since their groups are of different shapes
        self.first = nn.ModuleList(Grouped(kinds, sizes[0], sizes[1]) for _ in members)
        self.place = nn.Parameter(torch.zeros(self.partitions, self.groups, sizes[1]))
        self.rest = nn.ModuleList(Grouped(kinds, i, o) for i, o in pairwise(sizes[1:]))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b j"]:
        """Soft votes: each class's smallest lead, in changed pixels; above r, and r changes may not undo it.

        Computed in float64, whatever the weights are stored in: a score is then hardly ever so near to the next vote
        that the order of a sum decides, and nearly nothing is lost to a proof that allows for it.  A group has no vote
        where one of its scores overflows or is none.

        **Raises:** `ArgumentError` for inputs that are not finite.
        """
        dtype, x = x.dtype, checks.examples(x).double()
        with torch.autocast(x.device.type, enabled=False):
            if self.hard:
                u, counts = _with_votes(self.scores(x, 0))
                shares = u.softmax(2).sum(1)
                votes = F.one_hot(u.argmax(2), self.classes).to(u) * counts
                return (votes.sum(1) + (shares - shares.detach())).to(dtype)
            lead = x.new_zeros(len(x), self.classes, self.classes)
            for v in range(self.partitions):
                s = self.preferences(x, v) * UNIT
                lead = lead + (s.detach().round() + (s - s.detach())).sum(1)
            itself = torch.eye(self.classes, dtype=torch.bool, device=x.device)
            smallest = lead.masked_fill(itself, float("inf")).amin(2)
            return (smallest / (2 * UNIT * self.partitions)).to(dtype)

    def preferences(self, x: Float[Tensor, "b c h w"], partition: int) -> Float[Tensor, "b t i j"]:
        """How much each group prefers i to j, in [-1, 1], before rounding; gradients pass the clip."""
        s = _clipped(_with_votes(self.scores(x, partition))[0])
        if self.mirrored:
            mirrored = _with_votes(self.scores(x.flip(3), partition))[0]
            s = (s + _clipped(mirrored)[:, self.reflected[partition]]) / 2
        return s

    def scores(
        self, x: Float[Tensor, "b c h w"], partition: int, groups: Int[Tensor, "t"] | slice = slice(None)
    ) -> Float[Tensor, "b t j"]:
        """u, what (some of) the groups' networks say of every class."""
        z = self.first[partition](self.seen(x, partition, groups), groups)
        z = z + self.place[partition, groups].to(z.dtype)
        for layer in self.rest:
            z = layer(F.relu(z), groups)
        return z

    def seen(
        self, x: Float[Tensor, "b c h w"], partition: int, groups: Int[Tensor, "t"] | slice = slice(None)
    ) -> Float[Tensor, "b t d"]:
        """What (some of) the groups' networks see: the channels of their pixels."""
        pixels = F.pad(x.flatten(2), (0, 1))[:, :, self.members[partition, groups]]  # (b, c, t, p)
        return pixels.transpose(1, 2).flatten(2)


class Grouped(nn.Module):
    """A linear layer for all groups, or one for each, in the type of its inputs."""

    def __init__(self, kinds: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(kinds, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(kinds, outputs))

    def forward(self, z: Float[Tensor, "b t d"], groups: Int[Tensor, "t"] | slice) -> Float[Tensor, "b t o"]:
        weight, bias = self.weight.to(z.dtype), self.bias.to(z.dtype)
        if len(weight) == 1:
            return F.linear(z, weight[0].T, bias[0])
        weight, bias = weight[groups], bias[groups]
        return torch.baddbmm(bias[:, None], z.transpose(0, 1), weight).transpose(0, 1)


def _with_votes(u: Float[Tensor, "b t j"]) -> tuple[Float[Tensor, "b t j"], Bool[Tensor, "b t 1"]]:
    """Scores, all 0 in a group of which one is no finite number, and which groups have a vote."""
    finite = u.isfinite().all(2, keepdim=True)
    return torch.where(finite, u, 0.0), finite


def _clipped(u: Float[Tensor, "b t j"]) -> Float[Tensor, "b t i j"]:
    d = (u[..., None] - u[..., None, :]).nan_to_num()  # of huge scores it may overflow
    # a saturated group still tells an attack which way it leans
    return d.detach().clamp(-1, 1) + (d - d.detach())


def _dealt(pattern: str, pixels: int, groups: int, seed: int) -> Int[Tensor, "t p"]:
    """Strided groups, or the same of shuffled pixels."""
    size = -(-pixels // groups)
    places = torch.full((size * groups,), pixels)
    shuffled = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed))
    places[:pixels] = shuffled if pattern == "random" else torch.arange(pixels)
    return places.view(size, groups).T.contiguous()


def _lattices(partition: Sequence[Any], height: int, width: int) -> Int[Tensor, "v t p"]:
    try:
        steps = torch.tensor(partition, dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError):
        steps = torch.zeros(0)
    if steps.dim() != 3 or steps.shape[1:] != (2, 2):
        raise ArgumentError(
            f"partition: expected {', '.join(PATTERNS)}, or lattices of two steps (rows, columns) each, got "
            f"{partition!r}"
        )
    found = [_cosets(lattice.tolist(), height, width) for lattice in steps]
    if len({(len(groups), len(groups[0])) for groups in found}) > 1:
        sizes = ", ".join(str(len(groups[0])) for groups in found)
        raise ArgumentError(f"partition: expected lattices with groups of one size, got {sizes} pixels")
    if len(found[0]) < 2:
        raise ArgumentError("partition: expected at least 2 groups, got 1")
    return torch.tensor(found)


def _cosets(steps: list[list[int]], height: int, width: int) -> list[list[int]]:
    """The pixels that are whole steps apart, on the torus, as lists in row-major order."""
    # Euclid on the torus would do; images are small
    zero, seen, cosets = {(0, 0)}, set(), []
    while True:
        grown = zero | {((i + di) % height, (j + dj) % width) for i, j in zero for di, dj in steps}
        if grown == zero:
            break
        zero = grown
    for i in range(height):
        for j in range(width):
            if (i, j) not in seen:
                coset = sorted(((i + di) % height, (j + dj) % width) for di, dj in zero)
                seen.update(coset)
                cosets.append([row * width + column for row, column in coset])
    return cosets


def _reflected(
    members: Int[Tensor, "v t p"], owner: Tensor, image_size: tuple[int, int], mirrored: bool
) -> Int[Tensor, "v t"]:
    height, width = image_size
    mirror = torch.arange(height * width).view(height, width).flip(1).flatten()
    if not mirrored:
        return torch.arange(members.shape[1]).expand(members.shape[:2])
    images = mirror[members]  # where the pixels of each group are in the mirror image
    groups = torch.stack([owner[v][image] for v, image in enumerate(images)])
    if not bool((groups == groups[..., :1]).all()):
        raise ArgumentError(
            "mirrored: expected lattices whose groups are groups in the mirror image, got others; set it to false"
        )
    return groups[..., 0]
