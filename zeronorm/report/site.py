"""Several runs as one folder of pages with an index, to put on any web server or to open from disk.

Every page stands alone, as that of a single run does; the index links to each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError, reading
from zeronorm.files import local_path, replace_files
from zeronorm.records.certificate_figures import summarise_certificates
from zeronorm.records.comparison_figures import read_comparison
from zeronorm.records.figures import Share, count, data_title, model_title, percent, positions, summarise
from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder, RunFolder
from zeronorm.records.matrix_figures import read_matrix
from zeronorm.report import plots, sparsity, training
from zeronorm.report.html import PathLike, environment, page

_SHOWN = 3  # budgets in a row of the index
_BACK = '<main>\n<p class="kicker"><a href="index.html">All runs</a></p>'


@dataclass(frozen=True)
class SiteRow:
    """A run as the index has it, in words; `robust` gives a few budgets with the share still right."""

    kind: str
    model: str
    data: str
    threat: str
    clean: str
    robust: Sequence[tuple[str, str]]
    date: str = ""
    complete: bool = True


def write_site(runs: Sequence[PathLike], out: PathLike) -> Path:
    """Write a page for each run to the folder `out`, and an index of them; returns the path of the index.

    A run is the folder of an evaluation, of a comparison, of a matrix, of certificates, of a training or of a
    sweep over sparsity.  The pages depend on the records alone.
    """
    folders = [local_path(run, "runs") for run in runs]
    if not folders:
        raise ArgumentError("runs: expected at least one run folder, got none")
    target, entries = local_path(out), []
    files: dict[str, str] = {}
    for folder in folders:
        name = _free_name(folder.resolve().name, files)
        with reading(folder):
            files[name] = page(folder).replace("<main>", _BACK, 1)
            entries.append((name, _row(folder)))
    models, last = Counter(row.model for _, row in entries), Counter(folder.name for folder in folders)
    entries = [
        (name, replace(row, model=f"{row.model} ({_told(folder, last)})") if models[row.model] > 1 else row)
        for folder, (name, row) in zip(folders, entries, strict=True)
    ]
    files["index.html"] = environment().get_template("site.html").render(entries=entries)
    try:
        replace_files({target / name: text.encode() for name, text in files.items()})
    except OSError as error:
        raise ArgumentError(f"site: cannot write to {target}: {error.strerror}") from None
    return target / "index.html"


def _told(folder: Path, last: Mapping[str, int]) -> str:
    """A run's folder in words: its name, or the path that was given where others have the same name."""
    return folder.name if last[folder.name] == 1 else folder.as_posix()


def _free_name(name: str, taken: Mapping[str, str]) -> str:
    """A file name like that of the folder, safe in a link, and unlike those there are."""
    plain = (
        "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name).lstrip(".-") or "run"
    )
    names = (f"{plain}{suffix}.html" for suffix in ("", *(f"-{i}" for i in range(2, len(taken) + 3))))
    return next(name for name in names if name not in taken and name.lower() != "index.html")


def _row(folder: Path) -> SiteRow:
    kinds: list[tuple[bool, Callable[[Path], SiteRow]]] = [
        (training.is_training(folder), _trained),
        (sparsity.is_sweep(folder), _pruned),
        (MatrixFolder(folder).exists(), _set_beside),
        (ComparisonFolder(folder).exists(), _compared),
        (CertificateFolder(folder).holds_certificates(), _certified),
        (True, _attacked),
    ]
    return next(row for fits, row in kinds if fits)(folder)


def _attacked(folder: Path) -> SiteRow:
    run = RunFolder(folder).read()
    summary = summarise(run, RunFolder(folder).read_rows())
    return SiteRow(
        kind=f"attacked by {run['plan']['attack']['name']}",
        model=model_title(run["plan"]["model"]),
        data=_data(run["plan"], summary.n),
        threat=_threat(run["plan"], summary.unit),
        clean=_share(summary.clean_accuracy),
        robust=_budgets(summary.budgets, summary.robust_accuracy),
        date=_date(run),
        complete=summary.complete,
    )


def _compared(folder: Path) -> SiteRow:
    comparison = read_comparison(ComparisonFolder(folder))
    first = comparison.first
    attacks = len({entry.attack for entry in comparison.entries})
    weakest = min(comparison.models, key=lambda m: m.robust_accuracy[first.budgets[-1]].count)
    several = len(comparison.models) > 1
    return SiteRow(
        kind=f"attacked by {attacks}, worst case" + (f" ({weakest.name})" if several else ""),
        model=", ".join(model.name for model in comparison.models),
        data=_data(first.run["plan"], first.n),
        threat=_threat(first.run["plan"], first.unit),
        clean=_share(weakest.clean_accuracy),
        robust=_budgets(first.budgets, weakest.robust_accuracy),
        date=_date(comparison.record),
        complete=comparison.complete,
    )


def _set_beside(folder: Path) -> SiteRow:
    """Of a matrix the model that most is left of, at the largest budget."""
    found = read_matrix(MatrixFolder(folder))
    first = found.first
    best = max(found.defences, key=lambda one: one.attacked.robust_accuracy[first.budgets[-1]].count)
    return SiteRow(
        kind=f"{count(len(found.defences), 'model')} against {count(len(found.attacks), 'attack')}, the best "
        f"({best.name})",
        model=", ".join(one.name for one in found.defences),
        data=_data(first.run["plan"], first.n),
        threat=_threat(first.run["plan"], first.unit),
        clean=_share(best.attacked.clean_accuracy),
        robust=_budgets(first.budgets, best.attacked.robust_accuracy),
        date=_date(found.record),
        complete=found.complete,
    )


def _certified(folder: Path) -> SiteRow:
    run = CertificateFolder(folder).read()
    summary = summarise_certificates(run, CertificateFolder(folder).read_rows())
    return SiteRow(
        kind=f"proved by {summary.method.replace('_', ' ')}",
        model=model_title(run["plan"]["model"]),
        data=_data(run["plan"], summary.n),
        threat="pixels, to any value",
        clean=_share(summary.clean_accuracy),
        robust=_budgets(summary.shown, {k: summary.at(k) for k in summary.shown}),
        date=_date(run),
        complete=summary.complete,
    )


def _trained(folder: Path) -> SiteRow:
    told = training.page_of(folder)
    accuracy, k, robust = told["accuracy"], told["plan"].get("k"), told["robust"]
    return SiteRow(
        kind=f"trained by {told['plan'].get('method', 'an unfinished plan')}",
        model=told["title"],
        data=str(told["data"] or ""),
        threat="pixels, a short search" if k and robust is not None else "",
        clean=f"{percent(accuracy['value'])} %" if accuracy else "–",
        robust=[(f"k = {k}", f"{percent(robust)} %")] if k and robust is not None else [],
        complete=told["complete"],
    )


def _pruned(folder: Path) -> SiteRow:
    told = sparsity.page_of(folder)
    sparsities, found = sparsity.measures(sparsity.read_rows(folder))
    means = {m.name: f"{percent(m.means[0])} → {percent(m.means[-1])} %" for m in found if m.share}
    robust = [(name.partition(", ")[2], value) for name, value in means.items() if name.startswith("robust")]
    return SiteRow(
        kind=f"pruned, up to {percent(sparsities[-1])} % zero",
        model=told["title"],
        data=str(told["data"] or ""),
        threat="pixels" if robust else "",
        clean=means["clean accuracy"],
        robust=robust,
    )


def _data(plan: Mapping[str, Any], n: int) -> str:
    return f"{data_title(plan['data'])}, n = {n:,}"


def _threat(plan: Mapping[str, Any], unit: str) -> str:
    """What may change, without how much of it."""
    threat = plan["threat"]
    cap = f", by at most {threat['linf']:g} each" if threat.get("linf") is not None else ""
    if min(threat["budgets"]) == positions(plan, unit):
        return f"all {unit}s{cap}"
    return f"{unit}s{cap}" + (", where allowed" if threat.get("allowed") is not None else "")


def _budgets(budgets: Sequence[int], shares: Mapping[int, Share]) -> list[tuple[str, str]]:
    return [(f"k = {k}", _share(shares[k])) for k in plots.evenly(list(budgets), _SHOWN) if k]


def _share(share: Share) -> str:
    return f"{percent(share.value)} %" if share.n else "–"


def _date(record: Mapping[str, Any]) -> str:
    return str(record.get("finished") or record.get("created") or "")[:10]
