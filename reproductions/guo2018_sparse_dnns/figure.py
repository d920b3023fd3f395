"""robustness.svg: Fig. 1 and Fig. 2 of Guo et al. 2018 from measured-cpu.json, with the ℓ0 adversary beside them.

    python reproductions/guo2018_sparse_dnns/figure.py

Above: shares of right answers.  Below: r2.  Bands from the lowest to the highest reference; dotted: the sparsity not to
go beyond.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from zeronorm.report.sparsity import Measure, measures, prune_until

TITLES = {
    "binary": "linear, 1 against 7", "linear": "linear, 10 classes", "lenet_300_100": "LeNet-300-100",
    "lenet5_caffe": "LeNet-5 (Caffe)",
}  # fmt: skip
ABOVE = {"clean accuracy": "#1b6ca8", "r∞, fgsm": "#c04e17", "robust accuracy, k = 4": "#85489a"}
BELOW = {"r2, deepfool": "#1a7a57"}
WIDTH, HEIGHT, LEFT, TOP, GAP = 230, 170, 44, 30, 40
TICKS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)


class Panel:
    """One chart of the picture; values up to `most`."""

    def __init__(self, column: int, row: int, most: float) -> None:
        self.x, self.y, self.most = LEFT + column * (WIDTH + GAP), TOP + row * (HEIGHT + GAP), most
        self.parts: list[str] = []

    def place(self, sparsity: float, value: float) -> str:
        """Each tenfold of the weights left takes the same room."""
        across = -math.log10(1 - sparsity) / 2.2
        return f"{self.x + WIDTH * across:.1f},{self.y + HEIGHT * (1 - value / self.most):.1f}"

    def frame(self) -> None:
        for i in range(5):
            x, y = self.place(0, self.most * i / 4).split(",")
            self.parts.append(f'<line x1="{x}" y1="{y}" x2="{self.x + WIDTH}" y2="{y}" stroke="#ddd"/>')
            self.parts.append(
                f'<text x="{self.x - 6}" y="{float(y) + 4}" text-anchor="end">{self.most * i / 4:g}</text>'
            )
        for s in TICKS:
            x, y = self.place(s, 0).split(",")
            self.parts.append(f'<text x="{x}" y="{float(y) + 15}" text-anchor="middle">{100 * s:g}</text>')

    def draw(self, sparsities: list[float], measure: Measure, colour: str) -> None:
        low = [self.place(s, min(of)) for s, of in zip(sparsities, measure.values, strict=True)]
        high = [self.place(s, max(of)) for s, of in zip(sparsities, measure.values, strict=True)]
        mean = [self.place(s, y) for s, y in zip(sparsities, measure.means, strict=True)]
        self.parts.append(f'<polygon points="{" ".join(low + high[::-1])}" fill="{colour}" opacity="0.2"/>')
        self.parts.append(
            f'<polyline points="{" ".join(mean)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )

    def mark(self, sparsity: float) -> None:
        x = self.place(sparsity, 0).split(",")[0]
        self.parts.append(
            f'<line x1="{x}" y1="{self.y}" x2="{x}" y2="{self.y + HEIGHT}" stroke="#666" stroke-dasharray="2 3"/>'
        )


def main() -> None:
    here = Path(__file__).parent
    results = json.loads((here / "measured-cpu.json").read_text())
    networks = [network for network in TITLES if network in results]
    parts = []
    for column, network in enumerate(networks):
        sparsities, found = measures(results[network])
        by_name = {measure.name: measure for measure in found}
        until, first = prune_until(found)
        most = max(by_name["r2, deepfool"].means)
        for row, (drawn, top) in enumerate(((ABOVE, 1.0), (BELOW, 2.4 if most > 1.5 else 1.6))):
            panel = Panel(column, row, top)
            panel.frame()
            for name, colour in drawn.items():
                panel.draw(sparsities, by_name[name], colour)
            panel.mark(sparsities[until])
            parts += panel.parts
        parts.append(
            f'<text x="{LEFT + column * (WIDTH + GAP)}" y="{TOP - 10}" font-weight="bold">{TITLES[network]}</text>'
        )
        print(f"{network}: not beyond {sparsities[until]:.1%} ({first.name})")
    bottom = TOP + 2 * (HEIGHT + GAP)
    x = LEFT
    for name, colour in (ABOVE | BELOW).items():
        parts.append(f'<text x="{x}" y="{bottom + 8}" fill="{colour}">{name}</text>')
        x += 7 * len(name) + 14
    parts.append(f'<text x="{LEFT}" y="{bottom + 26}">against the % of weights that are zero</text>')
    width = LEFT + len(networks) * (WIDTH + GAP)
    picture = "\n".join(parts)
    (here / "robustness.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 34}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>\n{picture}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
