"""The pictures of docs/certificates-explained.md, drawn from what the functions themselves say.

`python docs/make.py --tables` writes them; the same code gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INK, SOFT, PAPER, BLUE, RED, PALE = "#1d2023", "#5c6167", "#fcfbf8", "#17607f", "#c0391b", "#d5e4ea"
CELL, SIDE = 14, 8


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """A picture on paper of its own, so that it can be read in a dark theme too."""
    style = f'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="13" fill="{INK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" {style}>'
    paper = f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{title}</title>", paper, *parts, "</svg>\n"])


def text(
    x: float, y: float, said: str, colour: str = INK, anchor: str = "start", weight: str = "normal"
) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">{said}</text>'


def box(x: float, y: float, w: float, h: float, fill: str, stroke: str = "none", width: float = 1) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{width:g}"/>'
    )


def image(x: float, y: float, fill: Callable[[int], str], marked: Sequence[int] = ()) -> list[str]:
    """Eight by eight pixels, each of a colour; those that are marked have a red edge."""
    at = [(x + CELL * (p % SIDE), y + CELL * (p // SIDE)) for p in range(SIDE * SIDE)]
    pixels = [box(*at[p], CELL, CELL, fill(p), "#e4e0d7", 0.5) for p in range(SIDE * SIDE)]
    return pixels + [box(*at[p], CELL, CELL, "none", RED, 2.5) for p in marked]


def grey(value: float) -> str:
    level = round(255 * (1 - 0.85 * value))
    return f"#{level:02x}{level:02x}{level:02x}"


def digit() -> list[float]:
    """The first test image, row by row."""
    import zeronorm as zn

    return zn.data.load("digits", "test", 1).x.flatten().tolist()


CHANGED = (19, 29, 44)  # three pixels of the digit
SEED = 4  # of looks of which about as many see a change as of all


def bounds() -> str:
    """Where a certificate and a search end, on the scale of changed pixels."""
    scale = lambda k: 20 + 28 * k  # noqa: E731
    parts = [box(scale(0), 62, 28 * 5, 20, PALE), box(scale(9), 62, 28 * 4, 20, "#f5d8cf")]
    parts += [f'<path d="M{scale(0)} 82H{scale(13)}" stroke="{INK}" fill="none"/>']
    for k in range(14):
        parts += [f'<path d="M{scale(k)} 82v5" stroke="{INK}"/>', text(scale(k), 102, str(k), SOFT, "middle")]
    parts += [
        f'<path d="M{scale(5)} 50v32" stroke="{BLUE}" stroke-width="2"/>',
        f'<path d="M{scale(9)} 50v32" stroke="{RED}" stroke-width="2"/>',
        text(scale(5), 42, "proved up to 5", BLUE, "end", "600"),
        text(scale(9), 42, "broken with 9", RED, "start", "600"),
        text(scale(2.5), 77, "nothing breaks it", BLUE, "middle"),
        text(scale(7), 77, "nobody knows", SOFT, "middle"),
        text(scale(11), 77, "broken", RED, "middle"),
        text(scale(6.5), 124, "changed pixels", SOFT, "middle"),
    ]
    return svg(404, 136, "A certificate is a lower bound, a search an upper one", parts)


def ablation() -> str:
    """Five looks at an image with three changed pixels, twelve pixels shown in each."""
    import torch

    from zeronorm.certification.randomized_ablation import share_touched
    from zeronorm.seeding import Streams

    pixels, retained = digit(), 12
    share = 100 * float(share_touched(SIDE * SIDE, retained)[len(CHANGED)])
    parts = [text(12, 20, f"three changed pixels, and five random looks at {retained} of 64:")]
    parts += [text(12, 38, f"at most {share:.1f} % of all looks see a change")]
    parts += [*image(12, 52, lambda p: grey(pixels[p]), CHANGED), text(12, 182, "the image", SOFT)]
    looks = Streams(SEED, torch.arange(5), "picture").uniform(0, SIDE * SIDE).topk(retained, dim=1).indices
    for i, shown in enumerate(looks.tolist(), start=1):
        x, y, seen = 12 + 130 * (i % 3), 52 + 150 * (i // 3), [p for p in CHANGED if p in shown]
        parts += image(x, y, lambda p, shown=shown: grey(pixels[p]) if p in shown else PALE, seen)
        said, colour = (f"sees {len(seen)} of them", RED) if seen else ("votes as before", BLUE)
        parts.append(text(x, y + 130, said, colour))
    return svg(404, 346, "Few changed pixels touch few of the looks", parts)


def groups() -> str:
    """Sixteen disjoint groups on a lattice, one changed pixel, and the votes it may move."""
    import torch

    from zeronorm.certification import partition_radius

    pixels, changed = digit(), 29
    group = lambda p: (p // SIDE % 4) * 4 + p % 4  # noqa: E731
    mine = [p for p in range(64) if group(p) == group(changed)]
    parts = [text(12, 20, "a changed pixel, and its group of four")]
    parts += image(12, 32, lambda p: grey(pixels[p]), [changed])
    parts += image(142, 32, lambda p: RED if p == changed else "#eab5a6" if p in mine else PALE)
    votes = [12, 4]
    radius = int(partition_radius(torch.tensor([votes]))[0])
    for row, (label, n, colour) in enumerate([("for “2”", votes[0], BLUE), ("for “8”", votes[1], SOFT)]):
        parts.append(text(12, 182 + 30 * row, f"{n} votes {label}", colour))
        parts += [box(122 + 20 * i, 169 + 30 * row, 16, 18, colour) for i in range(n)]
    parts.append(
        text(12, 246, f"one pixel moves one vote: {radius} pixels cannot turn {votes[0]} : {votes[1]}")
    )
    return svg(404, 262, "A changed pixel is in one group and moves one vote", parts)


def window() -> str:
    """The products of a truncated neuron, sorted, before and after the worst change of one of them."""
    import torch

    from zeronorm.certification import truncated_range

    products, k = [9.0, 7.0, 6.0, 4.0, 3.0, 1.0, -1.0, -3.0, -4.0, -8.0], 2
    least, greatest = (float(v) for v in truncated_range(torch.ones(1, 10), torch.tensor([products]), k, 1))
    worst = [*products[1:], -30.0]
    assert sum(worst[k:-k]) == least
    parts = []
    for side, (said, terms) in enumerate([("as it is", products), ("the largest sent far down", worst)]):
        y0 = 96 + 190 * side
        parts.append(text(20, y0 - 74, f"{said}: what is kept sums to {sum(terms[k:-k]):g}"))
        for i, value in enumerate(terms):
            high = min(abs(value), 12.0) * 7
            colour = RED if value == -30.0 else BLUE if k <= i < len(terms) - k else "#c9cdd2"
            parts.append(box(20 + 34 * i, y0 - high if value > 0 else y0, 26, high, colour))
        parts.append(f'<path d="M20 {y0}h340" stroke="{INK}"/>')
    parts.append(text(20, 396, f"whatever one product becomes, the sum is in {least:g} ... {greatest:g}"))
    return svg(404, 410, "A change moves the window of kept products by one place", parts)


def lipschitz() -> str:
    """A margin, and what each changed pixel may take from it."""
    margin, parts = 11, [text(20, 22, "a margin of 11: each changed pixel takes at most 2")]
    for row in range(6):
        left = margin - 2 * row
        parts.append(text(20, 55 + 30 * row, f"{row} changed" if row else "unchanged", SOFT))
        parts += [
            box(96 + 18 * i, 41 + 30 * row, 16, 18, BLUE if i < left else "#f5d8cf") for i in range(margin)
        ]
        parts.append(text(304, 55 + 30 * row, f"at least {left} left" if row else "", BLUE))
    parts.append(text(20, 240, "after 5 something is left: radius 5"))
    return svg(404, 256, "The margin is the certificate", parts)


PICTURES: dict[str, Callable[[], str]] = {
    "certificate-bounds.svg": bounds,
    "certificate-ablation.svg": ablation,
    "certificate-groups.svg": groups,
    "certificate-window.svg": window,
    "certificate-lipschitz.svg": lipschitz,
}
