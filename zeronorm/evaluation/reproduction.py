"""A paper's tables measured again, published figures beside ours.

A reproduction is a folder in `reproductions/` of the source, which an installed package does not have:

    plan.toml             the paper, its claim, and the settings of each scale
    expected.toml         the published figures, table by table, and what is expected of our own
    reproduce.py          a function for each table that yields its rows
    measured-SCALE.jsonl  the rows of a finished run
    README.md             what was found, and what differs from the paper

A row is one measurement: where in the table it stands, and its figures; of several seeds a figure is a list.  Rows are
written as they come, and trained models are kept, so that a run that was stopped goes on with what it lacks.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import zeronorm
from zeronorm import checks, models
from zeronorm.errors import ArgumentError
from zeronorm.files import json_lines, locked, remember, write_json_lines

ROOT = Path(zeronorm.__file__).parents[1] / "reproductions"

Row = dict[str, Any]  # table, where, figures, seconds


class TableWork:
    """What a table's function is given.

    Attributes:
        scale: the settings of the scale, from plan.toml.
        device: where to work.
        folder: of the run.
    """

    def __init__(self, scale: Mapping[str, Any], device: torch.device, folder: Path) -> None:
        self.scale, self.device, self.folder = scale, device, folder
        self._models: dict[str, models.Classifier] = {}
        self._done: list[Mapping[str, Any]] = []

    def todo(self, **values: Sequence[Any]) -> Iterator[dict[str, Any]]:
        """Every combination of the values that has no row yet; the last name varies fastest."""
        for combination in itertools.product(*values.values()):
            where = dict(zip(values, combination, strict=True))
            if where not in self._done:
                yield where

    def model(
        self, name: str, train: Callable[[], tuple[models.Classifier, dict[str, Any]]]
    ) -> models.Classifier:
        """The model of that name, trained once for all tables and kept in the folder of the run.

        `train` gives the model and what its sidecar should say about the training.
        """
        if name not in self._models:
            path = self.folder / "models" / name
            if not (path / models.checkpoint.SIDECAR).exists():
                trained, facts = train()
                models.save(trained.cpu().eval(), path, training=facts)
            self._models[name] = models.load(path).to(self.device)
        return self._models[name]


@dataclass(frozen=True)
class Reproduction:
    """One folder, read."""

    name: str
    plan: Mapping[str, Any]
    expected: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def scales(self) -> dict[str, Mapping[str, Any]]:
        """Settings by the name of the scale."""
        return dict(self.plan["scales"])

    @property
    def tables(self) -> list[str]:
        return list(self.expected["tables"])

    def module(self) -> ModuleType:
        """Its reproduce.py."""
        path = self.folder / "reproduce.py"
        spec = importlib.util.spec_from_file_location(f"reproductions_{self.name}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def recorded(self) -> dict[str, list[Row]]:
        """The rows that are kept beside it, by scale."""
        found = {scale: self.folder / f"measured-{scale}.jsonl" for scale in self.scales}
        return {scale: read_rows(path) for scale, path in found.items() if path.exists()}

    def run(
        self,
        scale: str,
        out: Path,
        device: torch.device,
        only: str | None = None,
        show: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Measure what `out` has no row of yet; all its rows, in the order they came.

        Raises:
            ArgumentError: for a scale or a table that there is not, and a folder with rows of other settings.
        """
        settings = self.scales[checks.choice("scale", scale, tuple(self.scales))]
        tables = self.tables if only is None else [checks.choice("only", only, tuple(self.tables))]
        module = self.module()
        with locked(out, "reproducing into"):
            asked = {"reproduction": self.name, "scale": scale, "settings": dict(settings)}
            remember(out / "run.json", asked, f"a run of {self.name} at these settings")
            rows = read_rows(out / "rows.jsonl") if (out / "rows.jsonl").exists() else []
            work = TableWork(settings, device, out)
            for table in tables:
                work._done = [row["where"] for row in rows if row["table"] == table]
                began = time.perf_counter()
                for where, figures in getattr(module, table)(work):
                    if where in work._done:  # by a function that does not ask what is left
                        continue
                    seconds = round(time.perf_counter() - began, 1)
                    rows.append({"table": table, "where": where, "figures": figures, "seconds": seconds})
                    write_json_lines(out / "rows.jsonl", rows)
                    show(rows[-1])
                    began = time.perf_counter()
        return rows

    def published(self, table: str, where: Mapping[str, Any]) -> dict[str, Any]:
        """The figures that the paper gives for a place in a table; empty if it gives none."""
        section = self.expected["tables"][table]
        for row in section.get("rows", ()):
            if {key: value for key, value in row.items() if key not in section["figures"]} == where:
                return {key: row[key] for key in section["figures"] if key in row}
        return {}

    def claims(self, scale: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """What is expected of our figures at a scale: each with its `value` and whether it `holds`.

        Without a row both are None.  Of several seeds the mean counts.
        """
        judged = []
        for claim in self.expected.get("claims", ()):
            if claim["scale"] != scale:
                continue
            found = [r for r in rows if r["table"] == claim["table"] and r["where"] == claim["where"]]
            value = found[0]["figures"][claim["figure"]] if found else None
            value = statistics.fmean(value) if isinstance(value, list) else value
            low, high = claim.get("at_least", -float("inf")), claim.get("at_most", float("inf"))
            judged.append(claim | {"value": value, "holds": None if value is None else low <= value <= high})
        return judged

    def markdown(self, table: str, measured: Mapping[str, Sequence[Row]]) -> str:
        """A table as Markdown: for each line of it what was published, and what was measured at each scale."""
        section = self.expected["tables"][table]
        across, formats = section.get("across", []), section["figures"]
        sources: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {
            "published": [
                ({k: v for k, v in row.items() if k not in formats}, row) for row in section.get("rows", ())
            ]
        }
        for scale, rows in measured.items():
            of_table = [(row["where"], row["figures"]) for row in rows if row["table"] == table]
            sources[f"measured, {scale}"] = of_table
        cells: dict[tuple[Any, ...], str] = {}
        lines: dict[str, dict[str, Any]] = {}
        for source, entries in sources.items():
            for where, figures in entries:
                own = {key: value for key, value in where.items() if key not in across}
                # numbered, so that columns come in the order of `across` and `figures`
                place = tuple((n, where[key]) for n, key in enumerate(across) if key in where)
                lines[line := json.dumps(own, sort_keys=True)] = own
                for n, (figure, style) in enumerate(formats.items()):
                    if figure in figures:
                        cells[line, source, place, n] = formatted(figures[figure], style)
        columns = sorted({key[2:] for key in cells})
        names = list(dict.fromkeys(key for own in lines.values() for key in own))
        figures_across = {n for place, n in columns if place}
        titles = [
            ", ".join(
                ([list(formats)[n]] if not place or len(figures_across) > 1 else [])
                + [f"{across[key]} {value}" for key, value in place]
            )
            for place, n in columns
        ]
        if not columns:
            return "Not measured."
        made = [f"| {' | '.join([*names, '', *titles])} |", f"|{'---|' * (len(names) + 1 + len(titles))}"]
        for line, own in lines.items():
            for source in sources:
                found = [cells.get((line, source, *column), "") for column in columns]
                if any(found):
                    words = [*(str(own.get(name, "")) for name in names), source, *found]
                    made.append(f"| {' | '.join(words)} |")
        return "\n".join([*made, "", _caption(formats, sources)]).strip()


def available() -> list[str]:
    """The names of the reproductions, none where only the package is installed."""
    return sorted(path.parent.name for path in ROOT.glob("*/plan.toml"))


def load(name: str) -> Reproduction:
    """The reproduction of that name.

    Raises:
        ArgumentError: for a name that there is not, and without the source.
    """
    if not ROOT.is_dir():
        raise ArgumentError(
            "name: reproductions are part of the source, not of the installed package; run this in a checkout of "
            "zeronorm that is installed with pip install --editable"
        )
    chosen = checks.choice("name", name, tuple(available()))
    plan, expected = (
        tomllib.loads((ROOT / chosen / f"{part}.toml").read_text()) for part in ("plan", "expected")
    )
    return Reproduction(chosen, plan, expected)


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, without a last one that was cut off."""
    return json_lines(
        path.read_text(), lambda number, line: f"{path}: expected a row in line {number}, got {line[:40]!r}"
    )


def formatted(value: Any, style: str) -> str:
    """A figure in its format; of values of several seeds the mean ± one standard deviation; words as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        spread = [statistics.stdev(value)] if len(value) > 1 else []
        return " ± ".join(formatted(part, style) for part in [statistics.fmean(value), *spread])
    # papers round halves up
    return f"{100 * value + 1e-9:.1f}" if style == "%" else f"{value:{style}}"


def _caption(formats: Mapping[str, str], sources: Mapping[str, Any]) -> str:
    """In per cent what is, and how many examples each of our figures is a share of."""
    shares = [figure for figure, style in formats.items() if style == "%"]
    said = [f"{' and '.join(shares)} in per cent"] if shares else []
    for source, entries in list(sources.items())[1:]:
        counted: dict[str, set[int]] = {}
        for _, figures in entries:
            for figure in formats:
                if figure in figures and "n" in figures:
                    counted.setdefault(figure, set()).add(figures["n"])
        parts = [f"{figure} n = {'/'.join(f'{n:,}' for n in sorted(ns))}" for figure, ns in counted.items()]
        said += [f"{source}: {', '.join(parts)}"] if parts else []
    return f"{'; '.join(said)}." if said else ""
