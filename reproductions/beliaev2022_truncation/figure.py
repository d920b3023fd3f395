"""robust-error.svg: the error of a truncated linear classifier against the bound that none can pass.

    python reproductions/beliaev2022_truncation/figure.py

Two Gaussian classes with all coordinates alike (ν_i = 1/√d, ‖ν‖₂ = 1), weights w = ν, k products dropped at each
end and k coordinates attacked.  Solid: the exact worst case, sampled.  Dashed: Theorem 1, or the error without an
adversary where that is more.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from zeronorm.theory import gaussian_mixture as gm

DIMENSIONS = {100: "#9ecae1", 784: "#4292c6", 3072: "#08519c"}
SAMPLES = 3000
LEFT, TOP, WIDTH, HEIGHT, LAST = 60, 20, 560, 300, 3000  # LAST: the largest k of the axis


def place(k: float, error: float) -> str:
    """A point of the picture: k on an axis of logarithms that has room for 0."""
    return f"{LEFT + WIDTH * math.log1p(k) / math.log1p(LAST):.1f},{TOP + HEIGHT * (1 - error):.1f}"


def line(points: list[tuple[float, float]], colour: str, dash: str = "") -> str:
    corners = " ".join(place(*point) for point in points)
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2" {dash}/>'


def main() -> None:
    parts = []
    for error in (0, 0.1587, 0.5, 1):
        x, y = place(0, error).split(",")
        label = "Φ̄(1)" if error == 0.1587 else f"{error:g}"
        parts.append(f'<line x1="{x}" y1="{y}" x2="{LEFT + WIDTH}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4}" text-anchor="end">{label}</text>')
    for k in (0, 1, 3, 10, 30, 100, 300, 1000, 3000):
        x = place(k, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{k}</text>')
    parts.append(
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">'
        "k: products dropped at each end, coordinates attacked</text>"
    )
    for row, (d, colour) in enumerate(DIMENSIONS.items()):
        nu = torch.full((d,), 1 / math.sqrt(d), dtype=torch.float64)
        variance = torch.ones_like(nu)
        budgets = [k for k in (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200) if 4 * k < d]
        sampled = [(k, gm.truncated_error(nu, nu, variance, k, k, samples=SAMPLES).value) for k in budgets]
        parts.append(line(sampled, colour))
        grid = sorted({round(1.1**step) for step in range(85)} - {0})
        bound = [(k, gm.best_lower_bound(nu, k)) for k in [0, *grid] if k <= min(LAST, d)]
        parts.append(line(bound, colour, 'stroke-dasharray="5 4"'))
        parts.append(
            f'<text x="{LEFT + WIDTH + 8}" y="{TOP + 16 + 18 * row}" fill="{colour}">d = {d:,}</text>'
        )
        print(d, " ".join(f"{k}:{error:.3f}" for k, error in sampled))
    picture = "\n".join(parts)
    Path(__file__).with_name("robust-error.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 100} {TOP + HEIGHT + 48}" '
        f'font-family="sans-serif" font-size="13">\n{picture}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
