"""robustness.svg: Fig. 1 and Fig. 2 of Guo et al. 2018 from measured-cpu.jsonl, with the ℓ0 adversary beside them.

    python reproductions/guo2018_sparse_dnns/figure.py

Above: shares of right answers.  Below: r2 over that of the dense network.  Bands from the lowest to the highest seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from zeronorm.evaluation import reproduction

NETWORKS = {"binary linear": "linear, 1 against 7", "linear": "linear, 10 classes", "LeNet-300-100": "LeNet-300-100",
    "pruned": "LeNet-300-100, all images", "LeNet-5": "LeNet-5"}  # fmt: skip
ABOVE = {
    ("clean", None): ("clean accuracy", "#1b6ca8"),
    ("r∞", "FGS"): ("r∞, FGS", "#c04e17"),
    ("robust", "4 pixels"): ("robust accuracy, 4 pixels", "#85489a"),
}
BELOW = {
    ("r2", "DeepFool"): ("r2, DeepFool", "#1a7a57"),
    ("r2", "C&W"): ("r2, Carlini and Wagner", "#8a6d00"),
}
WIDTH, HEIGHT, LEFT, TOP, GAP = 230, 170, 44, 30, 40
TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
Place = Callable[[float, float], str]


def placing(column: int, row: int, most: float) -> Place:
    """Where a sparsity and a value are in a panel: each tenfold of the weights left takes the same room."""
    x, y = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP)
    return lambda zero, value: (
        f"{x - WIDTH * math.log10(1 - zero) / 2.2:.1f},{y + HEIGHT * (1 - value / most):.1f}"
    )


def frame(place: Place, most: float) -> str:
    parts = []
    for i in range(5):
        (x, y), right = place(0, most * i / 4).split(","), place(1 - 10**-2.2, 0).split(",")[0]
        parts.append(f'<line x1="{x}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{float(x) - 6}" y="{float(y) + 4}" text-anchor="end">{most * i / 4:g}</text>')
    for zero in TICKS:
        x, y = place(zero, 0).split(",")
        parts.append(f'<text x="{x}" y="{float(y) + 15}" text-anchor="middle">{100 * zero:g}</text>')
    return "".join(parts)


def line(place: Place, points: Sequence[tuple[float, list[float]]], colour: str) -> str:
    low = [place(zero, min(values)) for zero, values in points]
    high = [place(zero, max(values)) for zero, values in points]
    mean = [place(zero, sum(values) / len(values)) for zero, values in points]
    return (
        f'<polygon points="{" ".join(low + high[::-1])}" fill="{colour}" opacity="0.2"/>'
        f'<polyline points="{" ".join(mean)}" fill="none" stroke="{colour}" stroke-width="2"/>'
    )


def main() -> None:
    rows = reproduction.load("guo2018_sparse_dnns").recorded()["cpu"]
    there = {row["where"]["network"] for row in rows}
    columns = [network for network in NETWORKS if network in there]
    parts = []
    for column, network in enumerate(columns):
        mine = [row for row in rows if row["where"]["network"] == network and "round" in row["where"]]
        zero = {row["where"]["round"]: row["figures"]["zero"] for row in mine if "zero" in row["figures"]}
        for row, (drawn, most) in enumerate(((ABOVE, 1.0), (BELOW, 1.2))):
            place = placing(column, row, most)
            parts.append(frame(place, most))
            for (figure, attack), (_, colour) in drawn.items():
                found = [
                    (zero[of["where"]["round"]], of["figures"][figure])
                    for of in mine
                    if of["where"].get("by") == attack and figure in of["figures"]
                ]
                if not found:
                    continue
                dense = sum(found[0][1]) / len(found[0][1]) if drawn is BELOW else 1.0
                parts.append(line(place, [(z, [v / dense for v in values]) for z, values in found], colour))
        parts.append(
            f'<text x="{LEFT + column * (WIDTH + GAP)}" y="{TOP - 10}" font-weight="bold">{NETWORKS[network]}</text>'
        )
    bottom, x = TOP + 2 * (HEIGHT + GAP), LEFT
    for name, colour in (ABOVE | BELOW).values():
        parts.append(f'<text x="{x}" y="{bottom + 8}" fill="{colour}">{name}</text>')
        x += 7 * len(name) + 14
    parts.append(
        f'<text x="{LEFT}" y="{bottom + 26}">against the % of zero weights; below, r2 over the dense one</text>'
    )
    picture = "\n".join(parts)
    Path(__file__).with_name("robustness.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + len(columns) * (WIDTH + GAP)} {bottom + 34}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n{picture}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
