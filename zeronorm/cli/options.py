"""Options that several verbs share, and the questions they add up to."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zeronorm.errors import ArgumentError

if TYPE_CHECKING:
    from zeronorm import L0
    from zeronorm import Linf as LinfBall
    from zeronorm.attacks import Stage
    from zeronorm.data import Dataset, Stream

_BUDGETS = "1,2,4,8"
_IN_MEMORY = 1 << 30  # bytes of decoded images

Model = Annotated[
    str,
    typer.Option(
        help="A built-in model, a checkpoint folder, a Hugging Face Hub id, timm:NAME, hf:OWNER/NAME, onnx:FILE, "
        "or package.module:callable."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="Data set: digits, mnist, cifar10, ..., parquet:PATH, folder:PATH; images of many sizes with "
        ":resize=256:crop=224 after it."
    ),
]
Split = Annotated[str, typer.Option(help="Part of the data set.")]
Limit = Annotated[int | None, typer.Option(help="Use only so many examples.")]
Budgets = Annotated[
    str | None, typer.Option(help=f"Budgets: how many pixels may change (default: {_BUDGETS}).")
]
Curve = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Instead of budgets: the smallest number of changes up to K, for each example."
    ),
]
Unit = Annotated[str, typer.Option(help="What a change is: a pixel (all its channels) or a feature.")]
Low = Annotated[float, typer.Option(help="Smallest value an input may take.")]
High = Annotated[float, typer.Option(help="Largest value an input may take.")]
Linf = Annotated[float | None, typer.Option(help="Cap on the change of each value.")]
Epsilon = Annotated[
    float | None,
    typer.Option(metavar="E", help="Instead of budgets: every value may change, each by at most E (ℓ∞)."),
]
Steps = Annotated[int | None, typer.Option(help="Updates of each white-box stage (default: 10000).")]
Queries = Annotated[int | None, typer.Option(help="Queries of each black-box stage (default: 10000).")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Examples per batch (default: 256, fewer where workers would have none); the result does not depend on it."
    ),
]
Seed = Annotated[int, typer.Option(help="Names everything random.")]
Precision = Annotated[
    str, typer.Option(help="Of the search's passes: float32 or bfloat16. Verdicts are float32 always.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Votes = Annotated[
    int | None,
    typer.Option(
        help="Of a base classifier of randomized ablation, which is attacked as the smoothed one: votes for an "
        "answer (default: 100)."
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Share the work among so many processes (needs the extra ray).")
]
Ray = Annotated[
    str | None,
    typer.Option(help="A Ray cluster to run them on, which this machine is part of: auto or HOST:PORT."),
]
Json = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


def dataset(name: str, split: str, limit: int | None) -> Dataset | Stream:
    """The data set asked for: in memory, or left in its files where it would take more than a gibibyte there."""
    import zeronorm as zn

    data = zn.data.load(name, split, limit, stream=True)
    return data.load() if isinstance(data, zn.data.Stream) and data.x.nbytes <= _IN_MEMORY else data


def threats(
    epsilon: float | None,
    k: str | None,
    curve: int | None,
    unit: str,
    low: float,
    high: float,
    linf: float | None,
) -> list[L0] | LinfBall:
    """The threat models asked for: an ℓ∞ ball, or budgets; of a curve the largest."""
    if epsilon is not None:
        return ball(epsilon, low, high, k=k, curve=curve, linf=linf)
    if curve is not None and k is not None:
        raise ArgumentError(f"k: expected budgets or a curve, got --k {k} with --curve {curve}")
    most = [curve] if curve is not None else budgets(_BUDGETS if k is None else k)

    import zeronorm as zn
    from zeronorm import checks

    if curve is not None:
        checks.integer("curve", curve, 1)
    return [zn.L0(budget, unit, low, high, linf) for budget in most]  # type: ignore[arg-type]


def ball(epsilon: float, low: float, high: float, **foreign: object) -> LinfBall:
    """The ℓ∞ threat model asked for; `foreign` are options of the sparse ones, None where they were not given."""
    for name, value in foreign.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected none beside --epsilon, got {value}")

    import zeronorm as zn

    return zn.Linf(epsilon, low, high)


def asked_for(adversaries: list[L0] | LinfBall) -> float | list[int | None]:
    """What tells the budgets of one question from those of another."""
    return [threat.k for threat in adversaries] if isinstance(adversaries, list) else adversaries.epsilon


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
        said[word] = name.replace("-", "_"), dict(_option(word, part) for part in given)
    return said


def searches(said: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, str | Stage]:
    """What `attacks` read, as `zeronorm.evaluate` takes it."""
    from zeronorm.attacks import Stage

    return {word: Stage(name, given) if given else name for word, (name, given) in said.items()}


def _option(word: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ArgumentError(f"attack: expected name:option=value, got {word!r}")
    said = number(value)
    return name, {"true": True, "false": False, "none": None}.get(
        value.lower(), value
    ) if said is value else said


def number(text: str) -> int | float | str:
    """The number that was typed; the text itself where it is none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def words(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
