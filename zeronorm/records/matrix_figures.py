"""Every defence against every attack and certificate: the figures of a matrix, from its records alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from zeronorm.errors import ArgumentError, printable
from zeronorm.metrics import Difference, holm, paired_difference, paired_p_value
from zeronorm.records.certificate_figures import CertificateSummary, contradictions, summarise_certificates
from zeronorm.records.comparison_figures import ModelFigures, read_comparison, warning_lines
from zeronorm.records.figures import Share, Summary, check_again, count, data_title, facts, percent
from zeronorm.records.folders import CertificateFolder, ComparisonFolder, MatrixFolder

MASKED = 0.1  # white-box attacks that leave so much more than others mislead


@dataclass(frozen=True)
class Defence:
    """One model: what attacks left of it, what is proved, and what it costs."""

    name: str
    attacked: ModelFigures
    proved: CertificateSummary | None
    entry: Mapping[str, Any]  # of matrix.json

    def left(self, attack: str, k: int) -> Share | None:
        """Examples still right after an attack; None if it could not be run."""
        for entry in self.attacked.entries:
            if entry.attack == attack:
                return entry.summary.robust_accuracy[k]
        return None

    def strongest(self, k: int) -> str:
        """The attack that leaves least; of equals the first."""
        return min(self.attacked.entries, key=lambda e: e.summary.robust_accuracy[k].count).attack

    def proved_at(self, k: int) -> Share | None:
        """Examples proved right within k changes; None without certificates."""
        return None if self.proved is None else self.proved.at(k)

    def unfit(self) -> list[tuple[str, list[str]]]:
        """Why attacks could not be run, and which."""
        by_reason: dict[str, list[str]] = {}
        for attack, why in self.entry["unfit"].items():
            by_reason.setdefault(why, []).append(attack)
        return list(by_reason.items())

    @property
    def milliseconds(self) -> float:
        """Time of one answer in a batch."""
        return float((self.entry["cost"] or {}).get("milliseconds", math.nan))

    @property
    def seconds(self) -> float | None:
        """Time of its training, where it is known."""
        return (self.entry["training"] or {}).get("seconds")


@dataclass(frozen=True)
class DefenceVerdict:
    """How a model fares beside the first one: in few words over all budgets, and in figures at one of them."""

    name: str
    word: str
    text: str
    holds: bool  # it withstands more at a budget, and less at none


@dataclass(frozen=True)
class MatrixFigures:
    """All figures of a matrix."""

    record: Mapping[str, Any]
    defences: list[Defence]
    attacks: list[str]
    complete: bool

    @property
    def first(self) -> Summary:
        """The first run, for what all share."""
        return self.defences[0].attacked.entries[0].summary

    @property
    def judged_k(self) -> int:
        """The budget at which attacks leave nearest to half of what the first model had right."""
        return self.defences[0].attacked.half_k


def read_matrix(folder: MatrixFolder) -> MatrixFigures:
    """The figures of a matrix, finished or not; models that have not been attacked yet are left out."""
    record = folder.read()
    defences = []
    for entry in record["models"]:
        searches = ComparisonFolder(folder.within(entry["attacks"]))
        if not searches.exists():
            continue
        certificates = (
            CertificateFolder(folder.within(entry["certificate"])) if entry["certificate"] else None
        )
        defences.append(
            Defence(
                entry["name"],
                read_comparison(searches).models[0],
                None
                if certificates is None
                else summarise_certificates(certificates.read(), certificates.read_rows()),
                entry,
            )
        )
    if not defences:
        raise ArgumentError(f"runs: expected a model at least that was attacked in {folder.path}, found none")
    return MatrixFigures(
        record,
        defences,
        list(dict.fromkeys(entry.attack for one in defences for entry in one.attacked.entries)),
        record.get("status") == "complete",
    )


def verdicts(matrix: MatrixFigures) -> list[DefenceVerdict]:
    """Of every model but the first: does it withstand more, at which price, and what breaks it?

    All of these questions are one family, of every model at every budget: the chance that any model is called better
    or worse that is neither is 5 % at most (Holm's procedure over exact paired tests).
    """
    baseline, knowledge, budgets = (
        matrix.defences[0],
        matrix.record.get("knowledge", {}),
        matrix.first.budgets,
    )
    both = [_both(one, baseline, knowledge) for one in matrix.defences[1:]]
    found = {
        (i, k): _gains(one, baseline, k, both[i])
        for i, one in enumerate(matrix.defences[1:])
        for k in budgets
    }
    told = iter(holm([gain.p for gains in found.values() for gain in gains]))
    chosen = {}
    for at, gains in found.items():
        # what is told apart to the better first; else, that of which least would be lost
        judged = [(gain, next(told)) for gain in gains] or [
            (_Gain(Difference(0.0, -1.0, 1.0), 1.0, False), False)
        ]
        chosen[at] = max(judged, key=lambda pair: (pair[1] and pair[0].by.value > 0, pair[0].by.low))
    return [
        _verdict(one, matrix, both[i], {k: chosen[i, k] for k in budgets})
        for i, one in enumerate(matrix.defences[1:])
    ]


@dataclass(frozen=True)
class _Gain:
    """How many more withstand than of the baseline, the p-value of none, and whether that goes by what is proved."""

    by: Difference
    p: float
    by_proof: bool


def _verdict(
    one: Defence, matrix: MatrixFigures, both: Sequence[str], gains: Mapping[int, tuple[_Gain, bool]]
) -> DefenceVerdict:
    k, baseline, knowledge = matrix.judged_k, matrix.defences[0], matrix.record.get("knowledge", {})
    budgets = matrix.first.budgets
    more, fewer = (
        [b for b in budgets if gains[b][1] and sign * gains[b][0].by.value > 0] for sign in (1, -1)
    )
    words = [_at("resists", more, budgets), _at("is weaker", fewer, budgets)]
    word = ", ".join(filter(None, words)) or ("falls" if both else "cannot be judged")
    left, proved = one.attacked.robust_accuracy[k], one.proved_at(k)
    gain, by_proof = gains[k][0].by, gains[k][0].by_proof
    than = (
        f"more than of {baseline.name}"
        if k in more
        else f"fewer than of {baseline.name}"
        if k in fewer
        else f"not told apart from {baseline.name}"
    )
    if not by_proof and len(both) < len(matrix.attacks):
        than += f" under the {count(len(both), 'attack')} of {len(matrix.attacks)} that see both"
    points = f"{100 * gain.value:+.1f} points, {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    what = f"{percent(proved.value)} % proved" if proved and by_proof else f"{percent(left.value)} % left"
    said = [f"{what} at k = {k}, {than} ({points})"]
    clean = one.attacked.clean_accuracy.value - baseline.attacked.clean_accuracy.value
    said.append(f"unchanged {percent(one.attacked.clean_accuracy.value)} % ({100 * clean:+.1f})")
    said.append(f"{one.strongest(k)} breaks most")
    by_kind: dict[str, list[int]] = {}
    for entry in one.attacked.entries:
        kind = knowledge.get(entry.attack, "")
        by_kind.setdefault(kind, []).append(entry.summary.robust_accuracy[k].count)
    white, black = by_kind.get("white"), by_kind.get("black")
    if white and black and min(white) - min(black) > MASKED * left.n:
        said.append(
            f"its gradients mislead: with them {percent(min(white) / left.n)} % are left, without them "
            f"{percent(min(black) / left.n)} %"
        )
    if proved is not None:
        said.append(
            f"{percent(left.value)} % left under attack"
            if by_proof
            else f"proved for {percent(proved.value)} %"
        )
    return DefenceVerdict(one.name, word, "; ".join(said), bool(more) and not fewer)


def _at(word: str, some: Sequence[int], all_: Sequence[int]) -> str:
    if not some or len(some) == len(all_):
        return word if some else ""
    return f"{word} at k = {', '.join(map(str, some))}"


def _both(one: Defence, baseline: Defence, knowledge: Mapping[str, str]) -> list[str]:
    """The attacks that could be run on both, without those by gradients where these are of no use."""
    theirs = {entry.attack for entry in baseline.attacked.entries}
    blind = any(
        found.get("code") in ("zero-gradient", "undefined-gradient")
        for entry in one.attacked.entries
        for found in entry.summary.run.get("diagnosis") or []
    )
    return [
        entry.attack
        for entry in one.attacked.entries
        if entry.attack in theirs and not (blind and knowledge.get(entry.attack) == "white")
    ]


def _gains(one: Defence, baseline: Defence, k: int, both: Sequence[str]) -> list[_Gain]:
    """How many more of the same examples withstand than of the baseline, and whether that goes by what is proved.

    Under attack they are compared by attacks that see both: a vote would gain by those alone that cannot be run on it.
    What is proved holds against all, so it is set beside what all of them left of the baseline.
    """
    found = [(_left(one, k, both), _left(baseline, k, both), False)] if both else []
    if one.proved is not None:
        found.append((_proved(one, k), _left(baseline, k), True))
    gains = []
    for ours, theirs, by_proof in found:
        only_ours = sum(a and not b for a, b in zip(ours, theirs, strict=True))
        only_theirs = sum(b and not a for a, b in zip(ours, theirs, strict=True))
        by = paired_difference(only_ours, only_theirs, len(ours))
        gains.append(_Gain(by, paired_p_value(only_ours, only_theirs), by_proof))
    return gains


def _proved(one: Defence, k: int) -> list[bool]:
    """Of every example, whether it is proved right within k, in the order of the attacked ones."""
    assert one.proved is not None
    radii = dict(zip(one.proved.examples.tolist(), one.proved.radii.tolist(), strict=True))
    return [
        radii.get(example, -math.inf) >= k for example in one.attacked.entries[0].summary.examples.tolist()
    ]


def _left(one: Defence, k: int, attacks: Sequence[str] | None = None) -> list[bool]:
    """Of every example, whether none of the attacks broke it within k."""
    runs = [
        entry.summary.smallest > k
        for entry in one.attacked.entries
        if attacks is None or entry.attack in attacks
    ]
    return [bool(all(of)) for of in zip(*runs, strict=True)]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118, subsequent_indent="   ", break_long_words=False)


def votes_note(matrix: MatrixFigures) -> str | None:
    """Why more of a smoothed classifier can be proved than is left of it; None without one."""
    voting = [
        one.name for one in matrix.defences if one.proved is not None and one.proved.failure_probability
    ]
    if not voting:
        return None
    asked = matrix.record["plan"]["certificate"]
    return (
        f"{', '.join(voting)}: attacked with {count(asked['votes'], 'vote')} an answer, abstaining counts as broken; "
        f"proved with {asked['n']:,}, each image with confidence {1 - asked['alpha']:g}, so more can be proved than is "
        "left"
    )


def contradicted(matrix: MatrixFigures) -> list[str]:
    """Examples that are proved and broken: an error of ours."""
    return [
        f"{one.name}: {entry.attack} broke example {example} within its proved radius"
        for one in matrix.defences
        if one.proved is not None
        for entry in one.attacked.entries
        for example in contradictions(one.proved, entry.summary)
    ]


def matrix_json(matrix: MatrixFigures) -> dict[str, Any]:
    """The figures for a machine."""
    budgets = matrix.first.budgets
    return {
        "n": matrix.first.n,
        "k": budgets,
        "judged_k": matrix.judged_k,
        "complete": matrix.complete,
        "models": {
            one.name: {
                "clean_accuracy": one.attacked.clean_accuracy.value,
                "robust_accuracy": {str(k): one.attacked.robust_accuracy[k].value for k in budgets},
                "attacks": {
                    attack: {
                        str(k): share.value for k in budgets if (share := one.left(attack, k)) is not None
                    }
                    or None
                    for attack in matrix.attacks
                },
                "certified_accuracy": None
                if one.proved is None
                else {str(k): one.proved.at(k).value for k in budgets},
                "milliseconds": one.milliseconds,
                "passes": (one.entry["cost"] or {}).get("passes"),
                "training_seconds": one.seconds,
            }
            for one in matrix.defences
        },
        "verdicts": {verdict.name: f"{verdict.word}: {verdict.text}" for verdict in verdicts(matrix)},
    }


def matrix_table(matrix: MatrixFigures) -> str:
    """The matrix for a terminal: what is left and proved at each budget, each attack at one, and the verdicts."""
    first, k = matrix.first, matrix.judged_k
    budgets = first.budgets
    width = max(len("unchanged"), *(len(one.name) for one in matrix.defences))
    lines = [
        f"{data_title(first.run['plan']['data'])}, n = {first.n}, L0 in {first.unit}s; right answers in per cent",
    ]
    if not matrix.complete:
        lines.append("unfinished: models are missing, or their figures can still fall")
    lines += [
        "",
        f"   {'':<{width}} {'':>10}{'worst case of all attacks':>{9 * len(budgets)}}"
        f"{'proved':>{9 * len(budgets)}}",
        f"   {'model':<{width}} {'unchanged':>10}"
        + "".join(f"{f'k={b}':>9}" for b in budgets) * 2
        + f"{'training':>11}{'an answer':>13}",
    ]
    for one in matrix.defences:
        proved = [one.proved_at(b) for b in budgets]
        lines.append(
            f"   {one.name:<{width}} {percent(one.attacked.clean_accuracy.value):>10}"
            + "".join(f"{percent(one.attacked.robust_accuracy[b].value):>9}" for b in budgets)
            + "".join(f"{'-' if share is None else percent(share.value):>9}" for share in proved)
            + f"{'-' if one.seconds is None else f'{one.seconds:,.0f} s':>11}{one.milliseconds:>10.3f} ms"
        )
    names = {attack: f"({i})" for i, attack in enumerate(matrix.attacks, start=1)}
    lines += ["", f"   {f'k = {k}':<{width}} " + "".join(f"{names[attack]:>8}" for attack in matrix.attacks)]
    for one in matrix.defences:
        shares = [one.left(attack, k) for attack in matrix.attacks]
        lines.append(
            f"   {one.name:<{width}} "
            + "".join(f"{'-' if share is None else percent(share.value):>8}" for share in shares)
        )
    lines += ["", *_wrapped("   " + ", ".join(f"{name} {attack}" for attack, name in names.items()))]
    lines += ["", *chain.from_iterable(_wrapped(f"{v.name} {v.word}: {v.text}") for v in verdicts(matrix))]
    if (note := votes_note(matrix)) is not None:
        lines += ["", *_wrapped(note)]
    lines += warning_lines([entry for one in matrix.defences for entry in one.attacked.entries])
    lines += [f"ERROR: {error}" for error in contradicted(matrix)]
    return printable(lines)


def matrix_provenance(matrix: MatrixFigures, path: Path) -> list[tuple[str, list[str]]]:
    """What was asked, of what, and how to check it."""
    record = matrix.record
    plan = matrix.first.run["plan"]
    return facts(
        [
            ("Data", [data_title(plan["data"]), plan["data"].get("digest")]),
            *(
                (
                    one.name,
                    [
                        (one.entry["training"] or {}).get("command"),
                        record["plan"]["models"][one.name].get("digest"),
                    ],
                )
                for one in matrix.defences
            ),
            ("Seed", [plan.get("seed")]),
            (
                "Time",
                [
                    f"started {record['created']}",
                    f"finished {record['finished']}" if record["finished"] else None,
                ],
            ),
            ("Command", [record.get("command")]),
            (
                "Check again",
                [
                    check_again(
                        record.get("command"),
                        [entry["source"] or entry["name"] for entry in record["models"]],
                        path,
                        "_matrix",
                    )
                ],
            ),
        ]
    )
