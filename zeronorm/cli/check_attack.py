"""`zeronorm check-attack`: does an attack keep the laws that an evaluation relies on?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from zeronorm.cli import options
from zeronorm.errors import ArgumentError, printable


def check_attack(
    attack: Annotated[
        str,
        typer.Argument(
            help="package.module:function, with :option=value behind it, or a name; see zeronorm list."
        ),
    ],
    steps: Annotated[int, typer.Option(help="Length of each search, if the attack takes it.")] = 50,
    queries: Annotated[int, typer.Option(help="Queries of each search, if the attack takes them.")] = 200,
    json_: options.Json = False,
) -> None:
    """Try an attack of your own: threat model, batch, seeds, side effects, and problems with known answers.

    Example: zeronorm check-attack my_attacks:random_pixels

    The exit status is 1 if a law is broken.
    """
    said = options.attacks(attack)
    if len(said) != 1:
        raise ArgumentError(f"attack: expected one, got {len(said)}")

    from zeronorm import checks
    from zeronorm.attacks import Stage
    from zeronorm.evaluation.attack_check import check_attack as check

    checks.integer("steps", steps, 1)
    checks.integer("queries", queries, 1)
    (search,) = options.searches(said).values()
    if isinstance(search, Stage):
        raise ArgumentError(
            f"attack: expected a name without options, or package.module:function, got {attack!r}"
        )
    found = check(search, steps=steps, queries=queries)
    print(printable(found.table().splitlines()))
    if json_:
        print(json.dumps(found.as_json()))
    if not found:
        raise typer.Exit(1)
