"""A leaderboard from small result files, each the figures of one run and what it takes to check them.

A result file is `result_of` a complete run: counts rather than shares, the digests that `zeronorm verify` and this
module compare, the command that repeats the run, and `about`, which people write.  Files of others are read with
suspicion: every value is checked, none is trusted to be short, and the page escapes all.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from zeronorm.errors import ArgumentError, printable, reads_records
from zeronorm.files import local_path, parse_json, read_file, replace_files
from zeronorm.records.certificate_figures import summarise_certificates
from zeronorm.records.figures import Share, data_title, model_title, percent, summarise
from zeronorm.records.folders import CertificateFolder, RunFolder, digest_rows

FORMAT = "zeronorm-result/1"
ABOUT = ("name", "authors", "link", "venue", "notes")  # as RobustBench calls them
_LARGEST = 1_000_000  # bytes of a file
_CLAIMS = ("attacked", "proved")
_RADII = [2**i for i in range(11)]  # at which certificates are counted

_KINDS: dict[str, type | tuple[type, ...]] = {
    "claim": str,
    "about": dict,
    "model": dict,
    "model.name": str,
    "data": dict,
    "data.name": str,
    "data.split": (str, type(None)),
    "data.shape": (list, type(None)),
    "threat": dict,
    "threat.unit": str,
    "attack": dict,
    "attack.name": str,
    "attack.stages": list,
    "n": int,
    "clean": int,
    "robust": dict,
    "warnings": list,
    "command": (str, type(None)),
    "versions": dict,
    "plan_digest": str,
    "rows_digest": str,
}


@dataclass(frozen=True)
class Result:
    """One entry: what a result file says.  `checked`: its figures were counted again in the rows of its run."""

    record: Mapping[str, Any]
    checked: bool

    @property
    def name(self) -> str:
        """What it calls itself, or its model's name."""
        return self.record["about"].get("name") or model_title(self.record["model"])

    @property
    def link(self) -> str | None:
        """Where to read about it: an address of the web or nothing."""
        link = self.record["about"].get("link", "")
        return link if re.fullmatch(r"https?://[^\s\"'<>]+", link) else None

    @property
    def clean(self) -> Share:
        """Right answers without an attack."""
        return Share(self.record["clean"], self.record["n"])

    @property
    def robust(self) -> dict[int, Share]:
        """Right answers within each budget."""
        return {int(k): Share(right, self.record["n"]) for k, right in self.record["robust"].items()}


@dataclass(frozen=True)
class Board:
    """Entries on the same data within the same threat model, the best first, and the budget they are ranked by."""

    title: str
    proved: bool  # rather than left by a search
    budgets: list[int]
    ranked_by: int
    entries: list[Result]


@reads_records
def result_of(run: str | os.PathLike[str], about: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The result file of a complete run, its figures counted in its rows."""
    folder = CertificateFolder(run) if CertificateFolder(run).holds_certificates() else RunFolder(run)
    record, rows = folder.read_complete(), folder.read_rows()
    if digest_rows(rows) != record.get("rows_digest"):
        raise ArgumentError(
            f"run: the rows in {folder.path} were changed: their digest is not that of run.json"
        )
    for name in about or {}:
        if name not in ABOUT:
            raise ArgumentError(f"about: expected one of {', '.join(ABOUT)}, got {name!r}")
    plan = record["plan"]
    model = {name: plan["model"].get(name) for name in ("name", "architecture", "parameters", "digest")}
    return {
        "format": FORMAT,
        "about": {name: "" for name in ABOUT} | dict(about or {}),
        "model": model,
        "data": {name: plan["data"].get(name) for name in ("name", "split", "digest", "shape")},
        **(_proved if isinstance(folder, CertificateFolder) else _attacked)(record, rows),
        "seed": plan.get("seed"),
        "precision": plan.get("precision"),
        "command": record.get("command"),
        "versions": record.get("versions", {}),
        "plan_digest": record["plan_digest"],
        "rows_digest": record["rows_digest"],
    }


def _attacked(record: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    """What a search claims: no more are right than it left."""
    summary, plan = summarise(record, rows), record["plan"]
    return {
        "claim": "attacked",
        "threat": {name: value for name, value in plan["threat"].items() if name not in ("budgets", "curve")},
        "attack": plan["attack"],
        "n": summary.n,
        "clean": summary.clean_accuracy.count,
        "robust": {str(k): summary.robust_accuracy[k].count for k in summary.budgets},
        "warnings": list(dict.fromkeys(f["code"] for f in record["diagnosis"] if f["level"] == "warning")),
    }


def _proved(record: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    """What certificates claim: no fewer are right, whatever the changed positions become."""
    summary, shape = summarise_certificates(record, rows), record["plan"]["data"]["shape"]
    positions = math.prod(shape[1:] or shape)
    return {
        "claim": "proved",
        "threat": {"norm": "L0", "unit": "pixel" if shape[1:] else "feature"},
        "attack": {
            "name": summary.method.replace("_", " "),
            "stages": [record["plan"]["method"]],
        },
        "n": summary.n,
        "clean": summary.clean_accuracy.count,
        "robust": {str(k): summary.at(k).count for k in _RADII if k <= positions},
        "warnings": [],
    }


def save_result(result: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write a result file to a folder, under a name that tells its plan; returns its path."""
    words = f"{model_title(result['model'])}-{result['data']['name']}"
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:60]
    path = local_path(folder, "save") / f"{slug}-{result['plan_digest'].removeprefix('sha256:')[:8]}.json"
    if path.exists():  # what people wrote there stays, unless something else is said now
        said = {name: text for name, text in result["about"].items() if text}
        result = dict(result) | {"about": read_result(path)["about"] | said}
    try:
        replace_files({path: (json.dumps(result, indent=1) + "\n").encode()})
    except OSError as error:
        raise ArgumentError(f"save: cannot write {path}: {error.strerror}") from None
    return path


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result file; `ArgumentError` if it says less than, or other than, it must."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST:,} bytes, got {path.stat().st_size:,}")
        result = parse_json(read_file(path))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"results: {path} cannot be read: {error}") from None
    found = result.get("format") if isinstance(result, dict) else type(result).__name__
    if found != FORMAT:
        raise ArgumentError(f"results: expected format {FORMAT} in {path}, got {found!r:.60}")
    for name, kind in _KINDS.items():
        value: Any = result
        for key in name.split("."):
            value = value.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = " or ".join(one.__name__ for one in kinds)
            raise ArgumentError(f"results: expected {name} in {path} to be {names}, got {value!r:.60}")
    if result["claim"] not in _CLAIMS:
        raise ArgumentError(
            f"results: expected claim in {path} to be one of {', '.join(_CLAIMS)}, got {result['claim']!r:.60}"
        )
    _check_counts(result, path)
    for said in (*result["about"].values(), *result["warnings"]):
        if not isinstance(said, str):
            raise ArgumentError(
                f"results: expected about and warnings in {path} to be text, got {said!r:.60}"
            )
    return result


@reads_records
def read_boards(sources: Sequence[str | os.PathLike[str]]) -> tuple[list[Board], list[str]]:
    """The leaderboards of run folders, result files and folders of result files; and what contradicts its run.

    Where a run and a result file have the same plan, the file says what it is about and the run the figures.
    """
    paths = [local_path(source, "results") for source in sources]
    runs = [path for path in paths if RunFolder(path).exists()]
    rest = [path for path in paths if path not in runs]
    files = [file for path in rest for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not runs and not files:
        given = ", ".join(map(str, paths)) or "none"
        raise ArgumentError(f"results: expected run folders or result files, got {given}")
    entries = {}
    for path in files:
        result = read_result(path)
        entries[result["plan_digest"]] = Result(result, checked=False)
    problems = []
    for path in runs:
        own = result_of(path)
        claimed = entries.get(own["plan_digest"])
        about = claimed.record["about"] if claimed is not None else {}
        entries[own["plan_digest"]] = Result(own | {"about": own["about"] | about}, checked=True)
        if claimed is not None:
            problems += [
                f"{claimed.name}: {name} is {_short(claimed.record.get(name))} in its file, "
                f"{_short(own[name])} in {path}"
                for name in (
                    "claim",
                    "model",
                    "data",
                    "threat",
                    "attack",
                    "n",
                    "clean",
                    "robust",
                    "warnings",
                    "rows_digest",
                )
                if claimed.record.get(name) != own[name]
            ]
    return _boards(entries.values()), problems


def leaderboard_table(boards: Sequence[Board]) -> str:
    """The boards for a terminal."""
    lines = []
    for board in boards:
        width = max(len(entry.name[:40]) for entry in board.entries)
        lines += [board.title, ""]
        lines.append(
            f"{'':>4}  {'':<{width}}  {'clean':>7}" + "".join(f"  {f'k={k}':>7}" for k in board.budgets)
        )
        for place, entry in enumerate(board.entries, start=1):
            shares = [entry.clean, *(entry.robust.get(k) for k in board.budgets)]
            cells = "".join(f"  {'' if s is None else percent(s.value) + ' %':>7}" for s in shares)
            notes = ", ".join(
                [
                    "counted in its rows" if entry.checked else "as reported",
                    *([entry.record["attack"]["name"]] if is_custom(entry.record) else []),
                    *entry.record["warnings"],
                ]
            )
            lines.append(f"{place:>4}  {entry.name[:40]:<{width}}{cells}  n = {entry.record['n']}, {notes}")
        lines.append("")
    return printable(lines[:-1])


def leaderboard_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """The boards for a machine."""
    return [
        {
            "title": board.title,
            "ranked_by": board.ranked_by,
            "entries": [
                {
                    "name": entry.name,
                    "n": entry.record["n"],
                    "clean_accuracy": entry.clean.value,
                    "certified_accuracy" if board.proved else "robust_accuracy": {
                        str(k): share.value for k, share in entry.robust.items()
                    },
                    "checked": entry.checked,
                    "warnings": entry.record["warnings"],
                    "rows_digest": entry.record["rows_digest"],
                }
                for entry in board.entries
            ],
        }
        for board in boards
    ]


def is_custom(record: Mapping[str, Any]) -> bool:
    """Whether an attack of somebody's own took part, of which nobody else knows how strong it is."""
    stages = record["attack"]["stages"]
    return any(isinstance(stage, Mapping) and "custom" in stage for stage in stages)


def _boards(entries: Iterable[Result]) -> list[Board]:
    groups: dict[str, list[Result]] = {}
    for entry in entries:
        record = entry.record
        data = record["data"]
        key = [
            record["claim"],
            data["name"],
            data["split"],
            data.get("digest"),
            record["n"],
            record["threat"],
            record["claim"] == "attacked" and is_custom(record),
        ]
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(entry)
    return [_board(groups[key]) for key in sorted(groups)]


def _board(entries: list[Result]) -> Board:
    budgets = sorted({k for entry in entries for k in entry.robust})
    given = Counter(k for entry in entries for k in entry.robust)
    proved = entries[0].record["claim"] == "proved"
    if proved:
        # counted at all radii, of which the largest tell nothing: where the best still proves half of what it reads
        best = {k: max(e.robust[k].value for e in entries if k in e.robust) for k in budgets}
        while budgets[1:] and best[budgets[-2]] == 0:
            budgets.pop()
        half = max(entry.clean.value for entry in entries) / 2
        by = min(budgets, key=lambda k: (-given[k], abs(best[k] - half)))
    else:
        by = max(budgets, key=lambda k: (given[k], k))

    def rank(entry: Result) -> tuple[float, float, str]:
        robust = entry.robust.get(by)
        return -1.0 if robust is None else robust.value, entry.clean.value, entry.name

    return Board(
        _title(entries[0].record, budgets, by), proved, budgets, by, sorted(entries, key=rank, reverse=True)
    )


def _title(record: Mapping[str, Any], budgets: Sequence[int], by: int) -> str:
    data, threat = record["data"], record["threat"]
    cap, box = threat.get("linf"), [threat.get("low"), threat.get("high")]
    shape = data.get("shape")
    entries = math.prod(shape) if shape and all(isinstance(side, int) for side in shape) else None
    if record["claim"] == "proved":
        return f"{data_title(data)}, n = {record['n']}: proved, whatever k {threat['unit']}s become, ranked at k = {by}"
    if isinstance(cap, int | float) and threat["unit"] == "feature" and budgets == [entries]:
        words = [f"every value by at most {cap:g}"]
    else:
        words = [f"changed {threat['unit']}s"]
        words += [f"each by at most {cap:g}"] if isinstance(cap, int | float) else []
        words += [f"ranked at k = {by}"] if budgets[1:] else [f"k = {by}"]
    if not all(isinstance(bound, int | float) for bound in box):
        words.append("each value within bounds of its own")
    elif box != [0, 1]:
        words.append(f"within [{box[0]:g}, {box[1]:g}]")
    words += ["within a mask"] if threat.get("allowed") is not None else []
    words += ["by attacks of their own"] if is_custom(record) else []
    return f"{data_title(data)}, n = {record['n']}: {', '.join(words)}"


def _check_counts(result: Mapping[str, Any], path: Path) -> None:
    n, clean, robust = result["n"], result["clean"], result["robust"]
    budgets = [int(k) for k in robust if re.fullmatch(r"\d{1,9}", k)]
    rights = [right for right in robust.values() if isinstance(right, int) and not isinstance(right, bool)]
    if not robust or len(budgets) < len(robust) or len(rights) < len(robust):
        raise ArgumentError(
            f"results: expected robust in {path} to count right answers by budget, got {robust!r:.60}"
        )
    by_budget = [clean, *(robust[k] for k in sorted(robust, key=int))]
    falling = all(one >= other for one, other in pairwise(by_budget))
    if not 0 < n <= 10**9 or not n >= clean or by_budget[-1] < 0 or not falling:
        raise ArgumentError(
            f"results: expected counts in {path} that fall from n with the budget, got n {n}, clean {clean}, "
            f"{robust!r:.60}"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
