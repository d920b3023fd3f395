"""figures.svg: Figs. 6 to 8 and 10 of the paper, from the measured rows.

python reproductions/gopalakrishnan2020_front_end/figure.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLOURS = ("#08519c", "#e6550d", "#31a354", "#756bb1")
LEFT, TOP, WIDTH, HEIGHT = 52, 34, 300, 190  # of a panel's axes
ACROSS, DOWN = 380, 305  # from panel to panel
DASHES = ("", "7 3", "2 3", "9 3 2 3")

NONE = "no front end"
ORDER = (NONE, "semi-white", "white", "white, iterated")  # the same line in every panel

Points = list[tuple[float, float]]


def found(table: str, figure: str, against: str = "", **where: Any) -> list[tuple[Any, Any]]:
    """(place against which it is drawn, figure) of the rows of a table at a place."""
    lines = (HERE / "measured-cpu.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["table"] == table and figure in row["figures"]]
    rows = [row for row in rows if all(row["where"].get(name) == value for name, value in where.items())]
    return [(row["where"].get(against, 0.0), row["figures"][figure]) for row in rows]


def panel(
    place: int, title: str, xlabel: str, series: dict[str, Points], *, top: float, mark: Callable[[float], str]
) -> str:  # fmt: skip
    """Lines over one pair of axes, x from the least to the largest of all points, y from 0 to `top`."""
    x0, y0 = LEFT + ACROSS * (place % 2), TOP + DOWN * (place // 2)
    low = min(x for points in series.values() for x, _ in points)
    high = max(x for points in series.values() for x, _ in points)

    def at(x: float, y: float) -> str:
        return f"{x0 + WIDTH * (x - low) / (high - low):.1f},{y0 + HEIGHT * (1 - y / top):.1f}"

    parts = [f'<text x="{x0}" y="{y0 - 14}" font-weight="bold">{title}</text>']
    for i in range(5):
        x, y = at(low, top * i / 4).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x0 + WIDTH}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6}" y="{float(y) + 4}" text-anchor="end">{mark(top * i / 4)}</text>')
        value = low + (high - low) * i / 4
        x = at(value, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{y0 + HEIGHT + 17}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{x0 + WIDTH / 2}" y="{y0 + HEIGHT + 35}" text-anchor="middle">{xlabel}</text>')
    for place, (name, points) in enumerate(series.items()):
        i = ORDER.index(name) if name in ORDER else place
        corners = " ".join(at(*point) for point in points)
        style = f'stroke="{COLOURS[i]}" stroke-width="2" stroke-dasharray="{DASHES[i]}"'
        parts.append(f'<polyline points="{corners}" fill="none" {style}/>')
        x, y = x0 + 150 * (place % 2), y0 + HEIGHT + 52 + 15 * (place // 2)
        parts.append(f'<line x1="{x}" y1="{y - 4}" x2="{x + 26}" y2="{y - 4}" {style}/>')
        parts.append(f'<text x="{x + 31}" y="{y}">{name}</text>')
    return "\n".join(parts)


def main() -> None:
    def share(value: float) -> str:
        return f"{100 * value:.0f} %"

    clean = {name: found("table1", "accuracy", defence=name, attack="none") for name in ("none", "front end")}
    against_epsilon = {
        NONE: clean["none"] + found("figure6b", "accuracy", "ε", defence="none"),
        **{
            attack: clean["front end"]
            + found("figure6b", "accuracy", "ε", defence="front end", attack=attack)
            for attack in ORDER[1:]
        },
    }
    against_percent = {
        attack: found("figure6a", "accuracy", "percent", attack=attack) for attack in ORDER[1:]
    }
    layers = {
        shown: found("figure7", "clean", defence=name)
        + found("figure7", "robust", "ε", defence=name, attack="all of them")
        for name, shown in (("none", NONE), ("front end", "front end, worst case"))
    }
    histograms = {}
    for name, shown in (("SVM, ε = 0.1", "SVM, white, ε = 0.1"), ("CNN, ε = 0.2", "CNN, 100 steps, ε = 0.2")):
        ((_, counts),) = found("figure8", "histogram", model=name)
        histograms[shown] = [(i / (len(counts) - 1), count / sum(counts)) for i, count in enumerate(counts)]
    flips = {}
    for name, shown in (("none", NONE), ("front end", "front end")):
        ((_, by_step),) = found("figure10", "by_step", defence=name)
        flips[shown] = [(float(i + 1), flipped) for i, flipped in enumerate(by_step[:20])]
    kept = "coefficients kept, in %"
    panels = [
        panel(0, "Fig. 6b: SVM, right under attack, ρ = 2 %", "ε", against_epsilon, top=1.0, mark=share),
        panel(1, "Fig. 6a: SVM, right at ε = 0.1", kept, against_percent, top=1.0, mark=share),
        panel(2, "Fig. 7: two layers, right under attack", "ε", layers, top=1.0, mark=share),
        panel(3, "Fig. 8: kept before and under attack", "share of the K", histograms, top=0.4, mark=share),
        panel(4, "Fig. 10: ReLUs flipped by a step of 0.01", "step", flips, top=0.04, mark=share),
    ]
    height = TOP + 3 * DOWN
    picture = "\n".join(panels)
    (HERE / "figures.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * ACROSS} {height}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{picture}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
