"""Options that several verbs share, and the questions they add up to."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from zeronorm.cli.typed import number
from zeronorm.errors import ArgumentError, printable

if TYPE_CHECKING:
    from zeronorm import L0
    from zeronorm import Linf as LinfBall
    from zeronorm.attacks import Stage
    from zeronorm.attacks.custom import CustomAttack
    from zeronorm.data import Dataset, Stream, TableDataset

_BUDGETS, _COLUMNS = "1,2,4,8", "1,2,3"
_GUESSES = 12  # lines
_IN_MEMORY = 1 << 30  # bytes of decoded images

ModelName = Annotated[
    str,
    typer.Option(
        help="A built-in model, a checkpoint folder, a Hugging Face Hub id, timm:NAME, hf:OWNER/NAME, onnx:FILE, "
        "xgboost:FILE, lightgbm:FILE, joblib:FILE and FILE.pt (with --trust), or package.module:callable; how a "
        "network wants its images may follow, such as :range=255:channels=bgr:mean=M:std=S:layout=nhwc."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="Data set: digits, mnist, cifar10, ..., parquet:PATH, folder:PATH, or table:PATH of a CSV or Parquet "
        "file; images of many sizes with :resize=256:crop=224 after it."
    ),
]
Split = Annotated[str, typer.Option(help="Part of the data set.")]
Target = Annotated[str | None, typer.Option(help="Of a table: the column that holds the labels.")]
SchemaFile = Annotated[
    str | None,
    typer.Option(
        "--schema",
        metavar="FILE",
        help="Of a table: what its columns may become, as TOML (default: guessed, and said).",
    ),
]
Toward = Annotated[
    str | None,
    typer.Option(
        help="Of a table with two classes: the one that an adversary wants; only rows of the other."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Use only so many examples.")]
ChannelAxis = Annotated[
    str | None,
    typer.Option(
        help="The axis of an input that holds its channels: first or last (default: the model's, or first)."
    ),
]
Epsilon = Annotated[
    float | None,
    typer.Option(metavar="E", help="Instead of budgets: every value may change, each by at most E (ℓ∞)."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Examples per batch (default: 256, fewer where workers would have none); the result does not depend on it."
    ),
]
Seed = Annotated[int, typer.Option(help="Names everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Votes = Annotated[
    int | None,
    typer.Option(
        help="Of a base classifier of randomized ablation, which is attacked as the smoothed one: votes for an "
        "answer (default: 100)."
    ),
]
WorkerCount = Annotated[
    int | None, typer.Option(help="Share the work among so many processes (needs the extra ray).")
]
Ray = Annotated[
    str | None,
    typer.Option(help="A Ray cluster to run them on, which this machine is part of: auto or HOST:PORT."),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Read a model of joblib:FILE or a whole one of FILE.pt, whose code runs when it is read.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


def dataset(
    name: str,
    split: str,
    limit: int | None,
    target: str | None = None,
    schema: str | None = None,
    toward: str | None = None,
) -> Dataset | Stream:
    """The data set asked for: in memory, or left in its files where it would take more than a gibibyte there."""
    import zeronorm as zn

    known = None if schema is None else zn.data.Schema.read(schema)
    data = zn.data.load(name, split, limit, stream=True, target=target, schema=known, toward=toward)
    return data.load() if isinstance(data, zn.data.Stream) and data.x.nbytes <= _IN_MEMORY else data


def say_guesses(table: TableDataset) -> None:
    """Say on standard error what was guessed of a table's columns."""
    head = (
        f"schema: guessed from {len(table.schema)} columns of {table.name}; the ranges are those of its data"
    )
    lines = [f"  {guess}" for guess in table.schema.guesses]
    more = [f"  and {len(lines) - _GUESSES} more"] if len(lines) > _GUESSES else []
    print(printable([head, *lines[:_GUESSES], *more]), file=sys.stderr)


@dataclass(frozen=True)
class SearchOptions:
    """Which examples are searched, for how long, by whom."""

    data: Data = "digits"
    split: Split = "test"
    limit: Limit = None
    steps: Annotated[int | None, typer.Option(help="Updates of each white-box stage (default: 10000).")] = (
        None
    )
    queries: Annotated[int | None, typer.Option(help="Queries of each black-box stage (default: 10000).")] = (
        None
    )
    batch_size: BatchSize = None
    seed: Seed = 0
    device: Device = "auto"
    workers: WorkerCount = None
    ray: Ray = None
    target: Target = None
    schema: SchemaFile = None
    toward: Toward = None
    trust: Trust = False

    def dataset(self) -> Dataset | Stream:
        """The data set asked for."""
        return dataset(self.data, self.split, self.limit, self.target, self.schema, self.toward)

    def table(self) -> TableDataset | None:
        """The data set asked for, if it is a table, whose schema the adversary goes by."""
        if not self.data.startswith("table:"):
            return None
        from zeronorm.data import TableDataset

        found = self.dataset()
        assert isinstance(found, TableDataset)
        if self.schema is None:
            say_guesses(found)
        return found

    def lengths(self) -> dict[str, int | None]:
        """How long, as `zeronorm.evaluate` and its like take it."""
        return {"steps": self.steps, "queries": self.queries}

    def at_work(self) -> AbstractContextManager[Any]:
        """The processes asked for; None: this one."""
        return at_work(self.workers, self.ray)


@dataclass(frozen=True)
class AdversaryOptions:
    """What the adversary may change, and in which precision it searches."""

    k: Annotated[
        str | None,
        typer.Option(
            help=f"Budgets: how many pixels may change (default: {_BUDGETS}), or columns of a table ({_COLUMNS})."
        ),
    ] = None
    curve: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Instead of budgets: the smallest number of changes up to K, for each example."
        ),
    ] = None
    unit: Annotated[
        str | None,
        typer.Option(
            help="What a change is: a pixel (all its channels), a feature, or a column of a table (default: pixel, of "
            "a table column)."
        ),
    ] = None
    channels: ChannelAxis = None
    low: Annotated[float, typer.Option(help="Smallest value an input may take.")] = 0.0
    high: Annotated[float, typer.Option(help="Largest value an input may take.")] = 1.0
    linf: Annotated[float | None, typer.Option(help="Cap on the change of each value.")] = None
    epsilon: Epsilon = None
    precision: Annotated[
        str, typer.Option(help="Of the search's passes: float32 or bfloat16. Verdicts are float32 always.")
    ] = "float32"

    def threats(self, table: TableDataset | None = None) -> list[L0] | LinfBall:
        """The threat models asked for, perhaps on a table: an ℓ∞ ball, or budgets; of a curve the largest."""
        k, curve = self.k, self.curve
        if self.epsilon is not None:
            return ball(self.epsilon, self.low, self.high, k=k, curve=curve, linf=self.linf)
        if curve is not None and k is not None:
            raise ArgumentError(f"k: expected budgets or a curve, got --k {k} with --curve {curve}")
        unit = self.unit or ("pixel" if table is None else "column")
        most = self.budgets
        assert isinstance(most, list)
        if table is not None and k is None and curve is None:
            most = [budget for budget in budgets(_COLUMNS) if budget <= len(table.schema)]

        import zeronorm as zn
        from zeronorm import checks

        if curve is not None:
            checks.integer("curve", curve, 1)
        shared: dict[str, Any] = {
            "unit": unit, "low": self.low, "high": self.high, "linf": self.linf, "channels": self.channels
        }  # fmt: skip
        if unit == "column":
            if table is None:
                raise ArgumentError('unit: expected "column" of --data table:FILE, got it of other data')
            shared["schema"] = table.schema
        return [zn.L0(budget, **shared) for budget in most]

    @property
    def budgets(self) -> float | list[int]:
        """Largest change of each value, or numbers of changes."""
        if self.epsilon is not None:
            return self.epsilon
        return [self.curve] if self.curve is not None else budgets(_BUDGETS if self.k is None else self.k)


def bundled(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb each of whose parameters that is a dataclass is one option per field on the command line."""
    hints = get_type_hints(verb, include_extras=True)
    bundles: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        made = {
            name: kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            for name, kind in bundles.items()
        }
        verb(**given, **made)

    options = []
    for parameter in inspect.signature(verb).parameters.values():
        kind = hints[parameter.name]
        parts = fields(kind) if is_dataclass(kind) else ()
        for field in parts:
            typed = get_type_hints(kind, include_extras=True)[field.name]
            options.append(parameter.replace(name=field.name, annotation=typed, default=field.default))
        if not parts:
            options.append(parameter.replace(annotation=kind))
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # which typer reads
    called.__annotations__ = {}
    return called


def ball(epsilon: float, low: float, high: float, **foreign: object) -> LinfBall:
    """The ℓ∞ threat model asked for; `foreign` are options of the sparse ones, None where they were not given."""
    for name, value in foreign.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected none beside --epsilon, got {value}")

    import zeronorm as zn

    return zn.Linf(epsilon, low, high)


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the program with a word on how to go on."""
    caught = [signal.SIGINT]

    def stop(number: int, frame: Any) -> None:
        caught[0] = signal.Signals(number)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
    before = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on from what is kept in {out}", err=True)
        raise typer.Exit(128 + caught[0]) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def at_work(workers: int | None, ray: str | None) -> AbstractContextManager[Any]:
    """The processes asked for; None: this one."""
    if workers is None and ray is None:
        return nullcontext()
    if workers is None:
        raise ArgumentError(f"workers: expected how many processes of the cluster {ray} to use, got none")
    from zeronorm.evaluation.ray_workers import Workers

    return Workers(workers, ray)


def default_out(names: Sequence[str], asked: Sequence[Any]) -> Path:
    """A folder under runs/ for each question: called after some of it, told apart by all of it."""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(Path(name).name for name in names)).strip("-").lower()
    return Path("runs") / f"{slug}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]}"


def question(
    model: str | list[str], attack: str | list[str], search: SearchOptions, adversary: AdversaryOptions
) -> list[Any]:
    """What tells a search from another."""
    return [
        model, search.data, search.split, search.limit, adversary.budgets, adversary.curve, adversary.unit or "pixel",
        adversary.low, adversary.high, adversary.linf, attack, search.steps, search.queries, search.seed,
        adversary.precision, *([] if adversary.channels is None else [adversary.channels]),
        *([] if search.target is None else [search.target, search.schema, search.toward]),
    ]  # fmt: skip


def budgets(text: str) -> list[int]:
    """The budgets of `--k`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ArgumentError(
            f"k: expected integers with commas between them, such as 1,2,4, got {text!r}"
        ) from None


def attacks(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name and options of each attack, by what was typed: `name`, or `name:option=value:option=value`."""
    words = [part.strip() for part in text.split(",")]
    if not all(words):
        raise ArgumentError(f"attack: expected attacks with commas between them, got {text!r}")
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise ArgumentError(f"attack: expected different attacks, got {twice[0]!r} twice")
    said = {}
    for word in words:
        name, *given = word.split(":")
        own = bool(given) and "=" not in given[0]  # package.module:function
        name = f"{name}:{given.pop(0)}" if own else name.replace("-", "_")
        said[word] = name, dict(_option(word, part) for part in given)
    return said


def searches(said: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, str | Stage | CustomAttack]:
    """What `attacks` read, as `zeronorm.evaluate` takes it."""
    from zeronorm.attacks import Stage

    return {
        word: _own(name, given) if ":" in name else Stage(name, given) if given else name
        for word, (name, given) in said.items()
    }


def _own(name: str, given: Mapping[str, Any]) -> CustomAttack:
    """The attack `package.module:function`, or what `zeronorm.attacks.custom` made of one there."""
    from zeronorm.attacks.catalogue import catalogue
    from zeronorm.attacks.custom import CustomAttack, custom
    from zeronorm.cli.model import imported

    if name.partition(":")[0].replace("-", "_") in catalogue:
        raise ArgumentError(f"attack: expected name:option=value, got {name!r}")
    found = imported(name, "attack")
    if not isinstance(found, CustomAttack):
        return custom(found, options=given)
    own = {option: found.options[option] for option in found.chosen}
    return custom(found.function, found.name, found.kind, found.knowledge, own | dict(given))


def _option(word: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ArgumentError(f"attack: expected name:option=value, got {word!r}")
    said = number(value)
    return name, {"true": True, "false": False, "none": None}.get(
        value.lower(), value
    ) if said is value else said


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
