"""What can be asked for by name: architectures to train, and trained models that ship with zeronorm."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from zeronorm.models.checkpoint import RELEASED, WEIGHTS, read_sidecar, released
from zeronorm.models.classifier import ARCHITECTURES


@dataclass(frozen=True)
class Available:
    """A name for `build` (kind "architecture") or `load` (kind "trained"), in one line."""

    name: str
    kind: str
    description: str


def available() -> list[Available]:
    """Every architecture and every trained model that ships with zeronorm."""
    architectures = [
        Available(name, "architecture", (inspect.getdoc(constructor) or "").partition("\n")[0])
        for name, constructor in ARCHITECTURES.items()
    ]
    return architectures + [Available(name, "trained", _summary(name)) for name in released()]


def _summary(name: str) -> str:
    sidecar = read_sidecar(RELEASED / name)
    data, accuracy = sidecar["data"], sidecar["accuracy"]
    size = (RELEASED / name / WEIGHTS).stat().st_size
    proved = (
        f", half proved at {certified['median_radius']} pixels"
        if (certified := sidecar.get("certified"))
        else ""
    )
    return (
        f"{sidecar['architecture']} trained on {data['name']}: {accuracy['value']:.1%} of {accuracy['n']} "
        f"{accuracy['split']} images right{proved}; {sidecar['parameters']:,} parameters, {size / 1000:.0f} kB."
    )
