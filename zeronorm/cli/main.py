"""`zeronorm`: the verbs, and how a failure looks from outside.

Exit status 0: done.  2: an argument, file, model or data set that cannot be used, said in one line on standard
error.  1: anything else.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from zeronorm.cli.bench import bench
from zeronorm.cli.certify import certify
from zeronorm.cli.check_attack import check_attack
from zeronorm.cli.compare import compare
from zeronorm.cli.evaluate import evaluate
from zeronorm.cli.export import export
from zeronorm.cli.leaderboard import leaderboard
from zeronorm.cli.list import list_
from zeronorm.cli.matrix import matrix
from zeronorm.cli.prune import prune
from zeronorm.cli.report import report
from zeronorm.cli.reproduce import reproduce
from zeronorm.cli.schema import schema
from zeronorm.cli.train import train
from zeronorm.cli.verify import verify
from zeronorm.errors import BY_MODEL, ArgumentError, printable

# A Hub that cannot be reached is one line of ours, not a page of retries.
os.environ.setdefault("HF_HUB_VERBOSITY", "error")

_KINDS = {"int": "an integer", "float": "a number"}

app = typer.Typer(
    name="zeronorm",
    help="Sparse adversarial robustness: what happens when an adversary may change a few pixels?",
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(evaluate)
app.command()(certify)
app.command()(compare)
app.command("check-attack")(check_attack)
app.command()(matrix)
app.command()(train)
app.command()(prune)
app.command()(report)
app.command()(leaderboard)
app.command()(export)
app.command()(verify)
app.command()(reproduce)
app.command()(schema)
app.command("list")(list_)
app.command()(bench)


def _version(asked: bool) -> bool:
    if asked:
        from zeronorm import __version__

        typer.echo(f"zeronorm {__version__}")
        raise typer.Exit
    return asked


_WELCOME = """\
zeronorm: what happens when an adversary may change a few pixels, or a few columns of a row?

   zeronorm evaluate --model digits --limit 50 --k 1,2,4 --steps 100 --queries 500    a first report in seconds
   zeronorm list                                                                      attacks, proofs, models, data
   zeronorm evaluate --help                                                           your own model and data
   zeronorm --help                                                                    every verb
"""


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    status = run(arguments)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    # Not by way of the libraries' destructors: threads of theirs that still run then abort one process in some
    # ("terminate called without an active exception"), whose work was done.
    os._exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        print(_WELCOME, end="")
        return 0
    try:
        status = app(words, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except ArgumentError as error:
        return _fail(2, str(error))
    except typer.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _fail(1, "stopped; what was finished is kept, the same command goes on from there")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if hasattr(error, "format_message"):
            said = _misused(error)  # empty where the help was shown instead
            return _fail(getattr(error, "exit_code", 2), said) if said else 2
        if os.environ.get("ZERONORM_TRACEBACK"):
            raise
        model = "model: " if BY_MODEL in getattr(error, "__notes__", ()) else ""
        if isinstance(error, OSError) and error.strerror:
            if error.errno == errno.ENAMETOOLONG:  # no path at all, so nothing was begun
                return _fail(2, f"expected a path, got one too long to be one: {str(error.filename)[:80]}...")
            kept = "what was finished is kept, the same command goes on from there"
            return _fail(1, f"{model}{error.strerror}: {error.filename or 'while writing'}; {kept}")
        said = " ".join(str(error).split())[:500]
        return _fail(1, f"{model}{type(error).__name__}: {said} (ZERONORM_TRACEBACK=1 shows where)")


def _misused(error: Any) -> str:
    """What typer complains of, a misspelt option or a missing value; of a value of the wrong kind in our words."""
    parsing: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, which knows what was given
    kind = _KINDS.get(parsing[0]["type"].partition("_")[0]) if parsing else None
    if kind is None:
        return str(error.format_message())
    return f"{error.param.name}: expected {kind}, got {parsing[0]['input']!r}"


def _fail(status: int, message: str) -> int:
    print(printable([f"zeronorm: {' '.join(message.split())}"]), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
