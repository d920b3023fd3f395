"""One page that stands alone: no script, no font, no picture from elsewhere.  Reads records, writes HTML."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from zeronorm.errors import ArgumentError, reading, reads_records
from zeronorm.files import local_path, replace_files
from zeronorm.records import matrix_figures as matrix
from zeronorm.records.certificate_figures import (
    CertificateSummary,
    contradictions,
    describe_method,
    short_radius,
    summarise_certificates,
)
from zeronorm.records.columns import ColumnUse, column_use, table_columns
from zeronorm.records.comparison_figures import (
    ComparisonFigures,
    Entry,
    ModelFigures,
    read_comparison,
    short_median,
)
from zeronorm.records.figures import (
    Share,
    Summary,
    check_again,
    count,
    data_title,
    describe_median,
    facts,
    model_title,
    percent,
    positions,
    summarise,
)
from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder, RunFolder
from zeronorm.records.results import Board, Result
from zeronorm.report import gallery, plots, sparsity, training

PathLike = str | os.PathLike[str]

_NAMES = 12  # examples named that one attack alone broke
_CARRIED = 4  # budgets in the table of transfer: as many as fit on paper


@dataclass(frozen=True)
class Section:
    """What the page says of one run, beside the summary itself."""

    id: str
    title: str
    path: Path
    data: str
    summary: Summary
    adversary: Markup
    findings: list[Mapping[str, Any]]
    checks: list[str]
    curve: plots.Chart | None
    passes: plots.Chart | None
    columns: list[ColumnUse]
    groups: list[gallery.Group]
    gallery_note: str
    provenance: list[tuple[str, list[str]]]


@reads_records
def render(runs: PathLike | Sequence[PathLike], out: PathLike) -> Path:
    """Write the report of one or several run folders to the file `out`; returns its path.

    Several runs are compared in a table first.  The folder of a comparison gives the page of the comparison;
    beside others it stands for its runs.  That of a training gives its curves, that of a matrix or of a sweep over
    sparsity its own.  Runs of certificates share a page, with what attacks found beside them.  The page depends on
    the records alone: the same records give the same bytes.
    """
    out = local_path(out)
    return _write(page(runs, out.parent), out)


def page(runs: PathLike | Sequence[PathLike], beside: Path | None = None) -> str:
    """The report of one or several run folders, as `render` writes it; that of a matrix links to those of its runs
    from the folder `beside`, if there is one."""
    given = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    folders = [local_path(folder, "runs") for folder in given]
    if not folders:
        raise ArgumentError("runs: expected at least one run folder, got none")
    for folder in folders:
        for kind, fits, made in _ALONE:
            if fits(folder) and len(folders) == 1:
                return made(folder, beside)
            if fits(folder):
                raise ArgumentError(
                    f"runs: expected evaluations, comparisons or certificates side by side, got {kind} in {folder}, "
                    "which has a page of its own; pages of all kinds are joined by --site"
                )
    if len(folders) == 1 and ComparisonFolder(folders[0]).exists():
        return comparison_page(ComparisonFolder(folders[0]))
    paths = [path for folder in folders for path in _runs_in(folder)]
    if any(CertificateFolder(path).holds_certificates() for path in paths):
        return certificates_page(paths)
    sections = [_section(RunFolder(path), f"run-{i}") for i, path in enumerate(paths, start=1)]
    if len(sections) > 1:
        sections = _told_apart(sections)
    return (
        environment()
        .get_template("page.html")
        .render(
            sections=sections,
            comparison=_comparison(sections) if len(sections) > 1 else None,
        )
    )


def sparsity_page(folder: Path) -> str:
    """The page of a sweep over sparsity."""
    return environment().get_template("sparsity.html").render(**sparsity.page_of(folder))


def training_page(folder: Path) -> str:
    """The page of a training."""
    return environment().get_template("training.html").render(**training.page_of(folder))


def render_leaderboard(boards: Sequence[Board], problems: Sequence[str], out: PathLike) -> Path:
    """Write the page of leaderboards, and of what contradicts its run, to the file `out`; returns its path."""
    with reading("the results"):
        about = {entry.record["plan_digest"]: _about(entry) for board in boards for entry in board.entries}
        template = environment().get_template("leaderboard.html")
        text = template.render(boards=boards, problems=problems, about=about)
    return _write(text, local_path(out))


def _about(entry: Result) -> list[tuple[str, list[str]]]:
    record = entry.record
    said = record["about"]
    stages = record["attack"].get("stages") or []
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return facts(
        [
            ("Authors", [said.get("authors") or None]),
            ("Notes", [said.get("notes") or None]),
            ("Model", [record["model"]["name"], record["model"].get("digest")]),
            (
                "Searches" if record["claim"] == "attacked" else "Method",
                [f"{stage.get('name')}: {_options(stage)}" for stage in stages if isinstance(stage, Mapping)],
            ),
            ("Command", [record["command"]]),
            ("Rows", [record["rows_digest"]]),
            ("Versions", [versions or None]),
        ]
    )


def _options(stage: Mapping[str, Any]) -> str:
    options = stage.get("options")
    given = options.items() if isinstance(options, Mapping) else ()
    return ", ".join(f"{name} {_plain(value)}" for name, value in given)


def _runs_in(path: Path) -> list[Path]:
    """The run itself, or those of a comparison."""
    comparison = ComparisonFolder(path)
    if not comparison.exists():
        return [path]
    runs = [comparison.run(run["path"]) for run in comparison.read()["runs"]]
    return [run.path for run in runs if run.exists()]


def _write(text: str, target: Path) -> Path:
    try:
        replace_files({target: text.encode()})
    except OSError as error:
        raise ArgumentError(f"out: cannot write the report to {target}: {error.strerror}") from None
    return target


@functools.cache  # compiling the templates takes longer than filling them in
def _shown(value: Any) -> Any:
    """What stands in a page: names come from files, and a page has no control characters."""
    if isinstance(value, str) and not value.isprintable():
        kept = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value)
        return Markup(kept) if isinstance(value, Markup) else kept  # escaped before
    return value


@functools.cache
def environment() -> jinja2.Environment:
    """Where templates are found, and what they may call; all text is escaped.  Kept, with the templates it compiled."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "median": describe_median,
        "radius": short_radius,
        "duration": duration,
        "signed": signed,
        "breakable": breakable,
    }
    environment.globals |= {
        "count": count,
        "infinity": math.inf,
        "short_median": short_median,
        "half_note": plots.half_note,
    }
    return environment


def _section(folder: RunFolder, id_: str) -> Section:
    run = folder.read()
    rows = folder.read_rows()
    summary = summarise(run, rows)
    groups = gallery.groups(summary, rows, folder.read_images())
    columns = table_columns(run["plan"])
    return Section(
        id=id_,
        title=model_title(run["plan"]["model"]),
        path=folder.path,
        data=data_title(run["plan"]["data"]),
        summary=summary,
        adversary=_adversary(summary),
        findings=_findings(summary),
        checks=[str(check) for check in run.get("checks") or []],
        curve=plots.against_k(summary) if summary.n else None,
        passes=plots.against_passes(summary) if summary.n else None,
        columns=[] if columns is None else column_use(columns, rows),
        groups=groups,
        gallery_note=_gallery_note(
            summary, pictures=any(card.pictures for group in groups for card in group.cards)
        ),
        provenance=_provenance(run, folder.path),
    )


def _told_apart(sections: list[Section]) -> list[Section]:
    """The sections under titles that differ: the model's name, with the folder's where needed, or its path."""
    for place in (lambda s: s.path.name, lambda s: str(s.path)):
        titles = [model_title(section.summary.run["plan"]["model"]) for section in sections]
        again = {
            section.title for section in sections if [s.title for s in sections].count(section.title) > 1
        }
        sections = [
            replace(s, title=f"{title} ({place(s)})") if s.title in again else s
            for s, title in zip(sections, titles, strict=True)
        ]
    return sections


def _gallery_note(summary: Summary, pictures: bool) -> str:
    if summary.epsilon is None:
        which = "Unchanged; with the smallest change found; and where that change is."
        return which if pictures else "The smallest change found of each."
    which = "Unchanged; changed; and the change itself, grey where there is none."
    return which if pictures else "The change found of each."


def _adversary(summary: Summary) -> Markup:
    """What the adversary may do, after "may change"."""
    plan, unit = summary.run["plan"], summary.unit
    threat = plan["threat"]
    low, high = np.min(threat["low"]), np.max(threat["high"])
    own = "" if np.ndim(threat["low"]) == np.ndim(threat["high"]) == 0 else ", each within its own bounds"
    if (columns := table_columns(plan)) is not None:
        text = f"of {count(len(columns), 'column')}, to any value that the schema of the table allows"
        if (wanted := plan["data"].get("toward")) is not None:
            text += f", to be answered {wanted}"
        if threat.get("allowed") is not None:
            text += f", and only among {len(threat['allowed']):,} of them"
        return Markup("up to <i>k</i> {}").format(text)
    if summary.epsilon is not None:
        return Markup("every value by at most <i>ε</i> = {}, within [{}, {}]{}").format(
            f"{summary.epsilon:g}", f"{low:g}", f"{high:g}", own
        )
    text = f"of {count(positions(plan, unit), unit)}, to any value in [{low:g}, {high:g}]{own}"
    if threat.get("linf") is not None:
        text += f", by at most {threat['linf']:g} each"
    if threat.get("allowed") is not None:
        text += f", and only among {len(threat['allowed']):,} of them"
    return Markup("up to <i>k</i> {}").format(text)


def _findings(summary: Summary) -> list[Mapping[str, Any]]:
    """The run's own diagnosis, warnings first, after what its rows say against run.json."""
    told = summary.run.get("summary") or {}
    figures = {"clean": (told.get("clean_accuracy"), summary.clean_accuracy.value)}
    shares = {str(k): share.value for k, share in summary.robust_accuracy.items()}
    for k, value in (told.get("robust_accuracy") or {}).items():
        figures[f"k = {k}"] = (value, shares.get(k, math.nan))
    wrong = [
        f"{name}: {100 * was:.2f} % in run.json, {100 * now:.2f} % from the rows"
        for name, (was, now) in figures.items()
        if was is not None and not abs(was - now) < 1e-9
    ]
    if summary.complete and summary.n != summary.asked:
        wrong.append(f"{summary.asked} examples in run.json, {summary.n} in the rows")
    own = [
        {
            "level": "warning",
            "seen": "The rows and run.json disagree. " + "; ".join(wrong) + ".",
            "meaning": "One of the two was changed after the run. This page shows what the rows say.",
            "advice": "Run zeronorm verify on the folder.",
        }
    ]
    found = [*(own if wrong else []), *(summary.run.get("diagnosis") or [])]
    return sorted(found, key=lambda finding: finding.get("level") != "warning")


def _provenance(run: Mapping[str, Any], path: Path) -> list[tuple[str, list[str]]]:
    """Where every figure comes from: (what, lines), without what the run does not say."""
    plan = run["plan"]
    model, data, versions = plan["model"], plan["data"], run.get("versions") or {}
    execution, sessions = run.get("execution") or {}, run.get("sessions") or []
    shape = " × ".join(map(str, data["shape"]))
    seconds = float(sum(session.get("seconds", 0.0) for session in sessions))
    parameters = model.get("parameters")
    stages = [f"{i}. {line}" for i, line in enumerate(_stages(plan), start=1)] if "attack" in plan else []
    entries: list[tuple[str, list[Any]]] = [
        (
            "Model",
            [
                model["name"],
                model.get("architecture"),
                f"{parameters:,} parameters" if parameters is not None else None,
                "black box: no gradients" if model.get("differentiable") is False else None,
                model.get("digest"),
            ],
        ),
        (
            "Data",
            [
                f"{data_title(data)}, {data['n']:,} examples of {shape}, {data.get('dtype', '')}".rstrip(
                    ", "
                ),
                data.get("note"),
                data.get("digest"),
            ],
        ),
        ("Attack", [plan["attack"]["name"], *stages] if "attack" in plan else []),
        ("Method", [_method(plan["method"])] if "method" in plan else []),
        ("Seed", [plan.get("seed")]),
        ("Precision", [plan.get("precision")]),
        ("Versions", [", ".join(f"{name} {version}" for name, version in versions.items()) or None]),
        (
            "Machine",
            [
                execution.get("device_name"),
                ", ".join(
                    f"{name.replace('_', ' ')} {execution[name]}"
                    for name in ("device", "threads", "batch_size", "workers")
                    if execution.get(name) is not None
                )
                or None,
            ],
        ),
        (
            "Time",
            [
                f"started {run['created']}" if run.get("created") else None,
                f"finished {run['finished']}" if run.get("finished") else None,
                f"{duration(seconds)} in {count(len(sessions), 'session')}" if sessions else None,
            ],
        ),
        ("Done again", [fault for session in sessions for fault in session.get("faults") or ()]),
        ("Command", [run.get("command")]),
        ("Plan", [run.get("plan_digest")]),
        ("Rows", [run.get("rows_digest")]),
        (
            "Check again",
            [
                check_again(
                    run.get("command"), [model["name"]], path, "" if "attack" in plan else "_certificates"
                )
            ],
        ),
        (
            "Continue",
            ["The same command again, with the same --out, goes on where the run stopped."]
            if run["status"] != "complete"
            else [],
        ),
    ]
    return facts(entries)


def _stages(plan: Mapping[str, Any]) -> list[str]:
    """Each stage of the attack with its options."""
    return [
        f"{stage['name']}: " + ", ".join(f"{k} {_plain(v)}" for k, v in (stage.get("options") or {}).items())
        for stage in plan["attack"]["stages"]
    ]


def _method(method: Mapping[str, Any]) -> str:
    """A way to certify, with its options."""
    given = ", ".join(
        f"{name} {_plain(value)}" for name, value in method["options"].items() if value is not None
    )
    return f"{method['name']}: {given}" if given else str(method["name"])


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def duration(seconds: float) -> str:
    """Seconds for people: "12.3 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def signed(points: float) -> str:
    """Percentage points, with a minus as long as a digit is wide."""
    return f"{points:z.1f}".replace("-", "−")


def breakable(name: str) -> Markup:
    """A name that may be broken where its words end."""
    return Markup("<wbr>").join(Markup(escape(part)) for part in re.split(r"(?<=[_:=/])", name))


# -- several runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide:
    """The table over several runs, and what keeps their figures from being like for like.

    `columns` are headings, each with every run's share, None where a run did not ask.
    """

    columns: list[tuple[str, list[Share | None]]]
    balls: bool  # whether some are within an ℓ∞ ball
    differences: list[str]
    chart: plots.Chart | None


def _comparison(sections: list[Section]) -> SideBySide:
    def differs(what: Any) -> bool:
        return len({repr(what(s.summary.run["plan"], s.summary)) for s in sections}) > 1

    questions = {
        "data": lambda plan, _: (plan["data"]["name"], plan["data"].get("split"), plan["data"].get("digest")),
        "number of examples": lambda plan, _: plan["data"]["n"],
        "unit": lambda _, summary: summary.unit if summary.epsilon is None else "ε",
        "box": lambda plan, _: [plan["threat"].get(key) for key in ("low", "high", "allowed")],
        "cap": lambda plan, summary: plan["threat"].get("linf") if summary.epsilon is None else None,
        "attack": lambda plan, _: plan["attack"],
        "progress": lambda _, summary: summary.complete,
    }
    summaries = [section.summary for section in sections]
    counted = [(s.title, s.summary) for s in sections if s.summary.epsilon is None]
    columns: list[tuple[str, list[Share | None]]] = [
        (f"k = {k}", [s.robust_accuracy.get(k) if s.epsilon is None else None for s in summaries])
        for k in sorted({k for _, summary in counted for k in summary.budgets})
    ]
    balls = sorted({s.epsilon for s in summaries if s.epsilon is not None})
    columns += [
        (f"ε = {e:g}", [s.robust_accuracy[s.budgets[-1]] if s.epsilon == e else None for s in summaries])
        for e in balls
    ]
    return SideBySide(
        columns=columns,
        balls=bool(balls),
        differences=[name for name, what in questions.items() if differs(what)],
        chart=plots.compared(counted) if any(summary.n for _, summary in counted) else None,
    )


# -- several attacks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OfModel:
    """One model of a comparison, with its charts."""

    model: ModelFigures
    against_k: plots.Chart | None
    against_passes: plots.Chart | None
    iterations: list[plots.Chart]


def comparison_page(folder: ComparisonFolder) -> str:
    """The page of a comparison."""
    comparison = read_comparison(folder)
    attacks = list(dict.fromkeys(entry.attack for entry in comparison.entries))
    names = [model.name for model in comparison.models]
    return (
        environment()
        .get_template("comparison.html")
        .render(
            title=f"{count(len(attacks), 'attack') if len(attacks) > 1 else attacks[0]} on "
            f"{count(len(names), 'model') if len(names) > 1 else names[0]}",
            comparison=comparison,
            adversary=_adversary(comparison.first),
            data=data_title(comparison.first.run["plan"]["data"]),
            models=[
                _OfModel(
                    model,
                    plots.attacks_against_k(model),
                    plots.attacks_against_passes(model),
                    plots.iterations_needed(model),
                )
                for model in comparison.models
            ],
            transfers=[
                list(group) for _, group in groupby(comparison.transfers, key=lambda t: (t.source, t.target))
            ],
            carried=plots.evenly(comparison.first.budgets, _CARRIED),
            findings=_shared_findings(comparison.entries),
            provenance=_shared_provenance(comparison, folder.path),
            shown=_NAMES,
        )
    )


def _shared_findings(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Warnings of the runs, those of a kind together, and there the attacks on a model that saw the same."""
    by_code: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for finding in _findings(entry.summary):
            if finding.get("level") != "warning":
                continue
            same = by_code.setdefault(
                str(finding.get("code", "records disagree")), {**finding, "seen_by": {}}
            )
            same["seen_by"].setdefault((entry.model, finding.get("seen", "")), []).append(entry.attack)
    return [
        finding
        | {
            "code": code.replace("-", " "),
            "runs": [
                (f"{', '.join(attacks)} on {model}", seen)
                for (model, seen), attacks in finding["seen_by"].items()
            ],
        }
        for code, finding in by_code.items()
    ]


def _shared_provenance(comparison: ComparisonFigures, path: Path) -> list[tuple[str, list[str]]]:
    """What the runs share, and what tells them apart."""
    of_run = dict(_provenance(comparison.first.run, path))
    attacks = {
        f"{entry.attack} = {line}": None
        for entry in comparison.entries
        for line in _stages(entry.summary.run["plan"])
    }
    record = comparison.record
    entries: list[tuple[str, list[Any]]] = [
        *(
            (
                f"Model {i}" if len(comparison.models) > 1 else "Model",
                dict(_provenance(model.entries[0].summary.run, path))["Model"],
            )
            for i, model in enumerate(comparison.models, start=1)
        ),
        ("Data", of_run.get("Data", [])),
        ("Attacks", list(attacks)),
        *((name, of_run.get(name, [])) for name in ("Seed", "Precision", "Versions", "Machine")),
        (
            "Time",
            [
                f"started {record['created']}" if record.get("created") else None,
                f"finished {record['finished']}" if record.get("finished") else None,
            ],
        ),
        ("Command", [record.get("command")]),
        ("Runs", [entry.path for entry in comparison.entries]),
        (
            "Check again",
            [
                check_again(
                    record.get("command"), [model.name for model in comparison.models], path, "_comparison"
                )
            ],
        ),
    ]
    return facts(entries)


def matrix_page(folder: MatrixFolder, beside: Path | None) -> str:
    """The page of a matrix, with links to those of its runs from the folder `beside`, if there is one."""
    found = matrix.read_matrix(folder)
    plan = found.first.run["plan"]
    return (
        environment()
        .get_template("matrix.html")
        .render(
            matrix=found,
            runs=None if beside is None else Path(os.path.relpath(folder.path, beside)).as_posix(),
            title=f"{count(len(found.defences), 'model')} against {count(len(found.attacks), 'attack')}",
            adversary=_adversary(found.first),
            data=data_title(plan["data"]),
            verdicts=matrix.verdicts(found),
            errors=matrix.contradicted(found),
            votes_note=matrix.votes_note(found),
            findings=_shared_findings(chain.from_iterable(one.attacked.entries for one in found.defences)),
            provenance=matrix.matrix_provenance(found, folder.path),
        )
    )


_ALONE: list[tuple[str, Callable[[Path], bool], Callable[[Path, Path | None], str]]] = [
    ("a training", training.is_training, lambda folder, _: training_page(folder)),
    ("a sweep over sparsity", sparsity.is_sweep, lambda folder, _: sparsity_page(folder)),
    (
        "a matrix",
        lambda folder: MatrixFolder(folder).exists(),
        lambda f, beside: matrix_page(MatrixFolder(f), beside),
    ),
]
"""What has a page of its own that no other run shares: in words, how it is told, and its page."""


# -- certificates ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Certified:
    """What the page says of one run of certificates, beside the summary itself."""

    id: str
    title: str
    data: str
    method: str
    summary: CertificateSummary
    groups: list[gallery.Group]
    provenance: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class _Attacked:
    """A search whose upper bound is shown beside certificates."""

    title: str
    attack: str
    summary: Summary


def certificates_page(paths: Sequence[Path]) -> str:
    """The page of runs of certificates, and of searches beside them."""
    proofs = [path for path in paths if CertificateFolder(path).holds_certificates()]
    certified = [_certified(CertificateFolder(path), f"run-{i}") for i, path in enumerate(proofs, start=1)]
    titles = [section.title for section in certified]
    certified = [
        replace(s, title=f"{s.title} ({path.name})") if titles.count(s.title) > 1 else s
        for s, path in zip(certified, proofs, strict=True)
    ]
    attacked = []
    for path in paths:
        if path not in proofs:
            run = RunFolder(path).read()
            summary = summarise(run, RunFolder(path).read_rows())
            if summary.unit not in {s.summary.unit for s in certified}:
                raise ArgumentError(
                    f"runs: expected searches in {certified[0].summary.unit}s beside certificates, got {summary.unit}s"
                )
            data = run["plan"]["data"]
            if data_title(data) not in {s.data for s in certified}:
                raise ArgumentError(
                    f"runs: expected searches on the data of the certificates, got {data_title(data)} in {path}"
                )
            attacked.append(_Attacked(run["plan"]["model"]["name"], run["plan"]["attack"]["name"], summary))
    wrong = [
        f"{s.title} certifies {count(len(found), 'example')} that {a.attack} on {a.title} broke within the radius, "
        f"such as example {found[0]}. Please report it."
        for s in certified
        for a in attacked
        if (found := contradictions(s.summary, a.summary))
    ]
    last = max(s.summary.shown[-1] for s in certified)
    shown = sorted({0, *np.linspace(0, last, 6).round().astype(int).tolist()})
    if budgets := sorted({k for a in attacked for k in a.summary.budgets}):
        shown = sorted({0, *plots.evenly(budgets, 6), last})
    some = [s for s in certified if s.summary.n]
    return (
        environment()
        .get_template("certificates.html")
        .render(
            title=certified[0].title if len(certified) == 1 else f"{len(certified)} runs of certificates",
            sections=certified,
            attacked=attacked,
            contradictions=wrong,
            shown=shown,
            curve=plots.certified_against_k(
                [(s.title, s.summary) for s in some],
                [(f"{a.title}, attacked", a.summary) for a in attacked if a.summary.n],
            )
            if some
            else None,
        )
    )


def _certified(folder: CertificateFolder, id_: str) -> _Certified:
    run, rows = folder.read(), folder.read_rows()
    summary = summarise_certificates(run, rows)
    return _Certified(
        id=id_,
        title=model_title(run["plan"]["model"]),
        data=data_title(run["plan"]["data"]),
        method=describe_method(summary),
        summary=summary,
        groups=gallery.certified_groups(summary, rows, folder.read_images()),
        provenance=_provenance(run, folder.path),
    )
