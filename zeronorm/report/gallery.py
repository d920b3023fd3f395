"""The examples a reader looks at: clean, adversarial, and what changed."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from zeronorm.errors import ArgumentError
from zeronorm.records.certificate_figures import CertificateSummary
from zeronorm.records.columns import changed_columns, table_columns
from zeronorm.records.figures import Summary, channels_last, class_name, count

Floats = npt.NDArray[np.float64]

_SHOWN = 6  # per group
_ENTRIES = 12  # changed entries listed of a tabular example


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, with outlines of some of its pixels as an SVG path over width x height."""

    uri: str
    alt: str
    width: int
    height: int
    outline: str = ""


@dataclass(frozen=True)
class Card:
    """One example; `pictures` of images, `changes` (position, old, new) of other inputs."""

    title: str
    label: str
    prediction: str
    broken: bool
    note: str
    pictures: list[Picture]
    changes: list[tuple[str, str, str]]
    more: int = 0


@dataclass(frozen=True)
class Group:
    """Cards that share a fate."""

    title: str
    cards: list[Card]

    @property
    def compact(self) -> bool:
        """Whether no card needs room for more than one picture."""
        return not any(card.broken for card in self.cards)


def groups(summary: Summary, rows: pa.Table, images: Mapping[int, Floats]) -> list[Group]:
    """The easiest and the hardest to break among the examples with a stored image, and some never broken."""
    if not images:
        return []
    mine = rows.filter(pc.is_in(rows["example"], pa.array(list(images), pa.int64()))).to_pylist()
    labels = {row["example"]: row for row in mine if row["stage"] < 0}
    proved: dict[int, int] = {}
    for row in mine:
        if row["outcome"] == "proved":
            proved[row["example"]] = max(row["k"] or 0, proved.get(row["example"], 0))
    found: dict[int, dict[str, Any]] = {}
    for row in mine:
        best = found.get(row["example"])
        if row["outcome"] == "broken" and (best is None or row["distance"] < best["distance"]):
            found[row["example"]] = row
    # within an ℓ∞ ball the number of changes says nothing
    fewest = summary.epsilon is None
    broken = sorted(found.values(), key=lambda row: (row["distance"] if fewest else 0, row["example"]))
    stood = [row for id_, row in sorted(labels.items()) if row["outcome"] == "correct" and id_ not in found]
    if not fewest:
        chosen = [("Broken", broken[: 2 * _SHOWN])]
    elif len(broken) > 2 * _SHOWN:
        chosen = [("Broken with the fewest changes", broken[:_SHOWN])]
        chosen += [("Broken only with the most changes", broken[-_SHOWN:])]
    else:
        chosen = [("Broken, the fewest changes first", broken)]
    kept = (
        f"Not broken {'by' if summary.epsilon is None else 'within'} {summary.within(len(summary.curve) - 1)}"
        + ("" if summary.complete else " so far")
    )
    chosen += [(kept, stood[:_SHOWN])]
    return [
        Group(
            title,
            [_card(summary, row, images[row["example"]], proved.get(row["example"], 0)) for row in members],
        )
        for title, members in chosen
        if members
    ]


def certified_groups(
    summary: CertificateSummary, rows: pa.Table, images: Mapping[int, Floats]
) -> list[Group]:
    """The most and the least certified of the examples with a stored image."""
    plan = summary.run["plan"]
    shape = tuple(plan["data"]["shape"])
    mine = rows.filter(pc.is_in(rows["example"], pa.array(list(images), pa.int64()))).to_pylist()
    mine.sort(key=lambda row: (-1 if row["radius"] is None else row["radius"], row["example"]))
    half = len(mine) // 2
    groups = []
    for title, members in (("Least certified", mine[:half]), ("Most certified", mine[half:][::-1])):
        cards = []
        for row in members:
            title_ = str(row["name"]) if row["name"] else f"example {row['example']}"
            label = class_name(plan["data"].get("class_names"), row["label"])
            pictures = []
            if len(shape) == 3 and shape[0] in (1, 3):
                pictures = [_picture(images[row["example"]].reshape(shape), f"{title_}: {label}")]
            radius = row["radius"]
            proved = f"radius {radius}" if (radius or 0) < 2**62 else "any change"
            note = "nothing proved" if radius is None else proved
            cards.append(Card(title_, label, label, False, note, pictures, []))
        if cards:
            groups.append(Group(title, cards))
    return groups


def _card(summary: Summary, row: Mapping[str, Any], flat: Floats, proved: int) -> Card:
    """What to show of a row; of its example no fewer than `proved` + 1 changes are needed, as far as is proved."""
    plan = summary.run["plan"]
    shape = tuple(plan["data"]["shape"])
    if flat.size != math.prod(shape):
        raise ArgumentError(
            f"run: expected {math.prod(shape)} values of example {row['example']} in images.parquet, "
            f"got {flat.size}"
        )
    clean = flat.reshape(shape)
    bounds = [np.broadcast_to(plan["threat"][bound], shape) for bound in ("low", "high")]
    if channels_last(plan):
        clean, *bounds = (np.moveaxis(values, -1, 0) for values in (clean, *bounds))
        shape = clean.shape
    names = plan["data"].get("class_names")
    broken = row["outcome"] == "broken"
    columns = table_columns(plan)
    adversarial, changed = _apply(clean, row, summary.unit) if broken else (clean, np.zeros(shape, bool))
    title = str(row["name"]) if row["name"] else f"example {row['example']}"
    epsilon = summary.epsilon
    note = f"{count(row['distance'], summary.unit)} changed" if broken and epsilon is None else ""
    if broken and columns is not None:
        needs = "needs" if row["distance"] == proved + 1 else "needs at most"
        note = f"{needs} {row['distance']} of {count(len(columns), 'column')}"
    label, prediction = (class_name(names, row[key]) for key in ("label", "prediction"))
    pictures: list[Picture] = []
    changes: list[tuple[str, str, str]] = []
    more = 0
    if len(shape) == 3 and shape[0] in (1, 3):
        low, high = bounds
        pictures = [_picture((clean - low) / (high - low), f"{title}, unchanged: {label}")]
        if broken and epsilon is not None:
            seen, change = (adversarial - low) / (high - low), 0.5 + (adversarial - clean) / (2 * epsilon)
            pictures += [
                _picture(seen, f"{title}, changed by at most {epsilon:g}: read as {prediction}"),
                _picture(change, f"{title}: the change, from -{epsilon:g} (black) to {epsilon:g} (white)"),
            ]
        elif broken:
            seen = (adversarial - low) / (high - low)
            pictures += [
                _picture(seen, f"{title} with {note}: read as {prediction}"),
                _picture(seen, f"{title}: where the {note} are", changed),
            ]
    elif broken and columns is not None:
        told = changed_columns(columns, clean.reshape(-1), adversarial.reshape(-1))
        more, changes = max(len(told) - _ENTRIES, 0), told[:_ENTRIES]
    elif broken:
        entries = np.flatnonzero(changed)
        more = max(len(entries) - _ENTRIES, 0)
        changes = [(str(i), f"{clean.flat[i]:.4g}", f"{adversarial.flat[i]:.4g}") for i in entries[:_ENTRIES]]
    return Card(title, label, prediction, broken, note, pictures, changes, more)


def _apply(clean: Floats, row: Mapping[str, Any], unit: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The adversarial example of a broken row, and which of its entries the row names."""
    # (channels that change together, positions), as the threat model counts them
    channels = clean.shape[0] if unit == "pixel" else 1
    grid = clean.reshape(channels, -1).copy()
    named = np.zeros(grid.shape, bool)
    positions = np.asarray(row["positions"] or [], dtype=np.int64)
    values = np.asarray(row["values"] or [], dtype=np.float64)
    if (
        len(values) != channels * len(positions)
        or (positions >= grid.shape[1]).any()
        or (positions < 0).any()
    ):
        raise ArgumentError(
            f"run: expected {channels} values for each of the changed positions of example {row['example']}, "
            f"within an input of {grid.shape[1]} positions, got {len(values)} for {len(positions)}"
        )
    grid[:, positions] = values.reshape(len(positions), channels).T
    named[:, positions] = True
    return grid.reshape(clean.shape), named.reshape(clean.shape)


def _picture(shares: Floats, alt: str, changed: npt.NDArray[np.bool_] | None = None) -> Picture:
    """An image of values 0..1; with `changed`, the other pixels fade and these are outlined."""
    _, height, width = shares.shape
    entries = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    rgb = np.broadcast_to(entries, (height, width, 3))
    outline = ""
    if changed is not None:
        where = np.max(changed, axis=0)  # a pixel counts as changed when one of its channels does
        rgb = np.dstack([rgb, np.where(where, 255, 56).astype(np.uint8)])
        outline = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(where).tolist())
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, alt, width, height, outline)
