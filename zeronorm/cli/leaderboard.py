"""`zeronorm leaderboard`: many results, of many people, in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zeronorm.errors import ArgumentError


def leaderboard(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...", help="Result files, folders of them, or folders of complete runs."
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write the page there.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the small result file of each run there.")
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=TEXT",
            help="With one run to save: name, authors, link, venue or notes; may be repeated.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Rank the results of runs on the same data within the same threat model: a table, and a page.

    Example: zeronorm leaderboard results runs/quickstart --html leaderboard.html

    The result file of a run, to send to others:  zeronorm leaderboard runs/quickstart --save results --about name=Mine

    Figures of runs are counted in their rows; a file that contradicts its run ends with exit status 1.
    """
    from zeronorm.records import leaderboard_json, leaderboard_table, read_boards, result_of, save_result
    from zeronorm.records.folders import RunFolder
    from zeronorm.report import render_leaderboard

    runs = [path for path in results if RunFolder(path).exists()]
    said = dict(_about(word) for word in about or [])
    if said and (save is None or len(runs) != 1):
        raise ArgumentError("about: expected one run and a folder to save its result to (--save)")
    if save is not None:
        if not runs:
            raise ArgumentError("save: expected a complete run to save the result of, got none")
        for path in [save_result(result_of(run, said), save) for run in runs]:
            print(f"result: {path}")
        results = [*results, save]
    boards, problems = read_boards(results)
    print(leaderboard_table(boards))
    for problem in problems:
        print(f"does not hold: {problem}")
    if html is not None:
        print(f"\npage: {render_leaderboard(boards, problems, html)}")
    if json_:
        print(json.dumps({"boards": leaderboard_json(boards), "problems": problems}))
    if problems:
        raise typer.Exit(1)


def _about(word: str) -> tuple[str, str]:
    name, equals, text = word.partition("=")
    if not equals:
        raise ArgumentError(f"about: expected key=text, got {word!r}")
    return name, text
