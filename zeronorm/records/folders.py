"""The records of a run: a folder that anyone can read, continue and re-check.

    run.json       what was asked, of which model and data, with which versions; how it went
    rows.jsonl     while running: one line per finished (example, budget, stage), appended and flushed
    rows.parquet   when complete: the same rows, folded into one table
    images.parquet the clean images of the examples shown in the report

A row with `stage` -1 is the clean prediction of an example.  A killed run loses at most the line being
written.  No torch here: reports and other tools read records without a model.

A run of certificates is such a folder too, with one row per example (`CERTIFICATES`).

A comparison is a folder of such folders:

    comparison.json   what was compared with what, and the figures
    transfer.parquet  how the adversarials of each run fare on the other models
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zeronorm.errors import ArgumentError, one_line
from zeronorm.files import awaited, local_path, locked, open_regular, parse_json, read_file, replace_files

Row = dict[str, Any]  # one row, by the names of ROWS


ROWS = pa.schema(
    [
        ("example", pa.int64()),  # the example's stable id
        ("name", pa.string()),  # its readable name (a file, say), or null
        ("label", pa.int32()),
        ("k", pa.int32()),  # budget of this search; null in the clean row
        ("stage", pa.int32()),  # position in the cascade; -1 for the clean prediction
        ("attack", pa.string()),  # the stage's name; "clean" for the clean prediction
        ("outcome", pa.string()),  # correct | wrong (clean row), broken | robust (stages)
        ("prediction", pa.int32()),  # on a fresh pass; of the clean input where robust
        ("margin", pa.float64()),  # label's logit minus the largest other, same pass
        ("distance", pa.int32()),  # changed positions, in the run's unit; null unless broken
        ("linf", pa.float64()),  # largest change of an entry; null unless broken
        ("forwards", pa.int64()),  # passes of the model this search spent on this example
        ("backwards", pa.int64()),
        ("positions", pa.list_(pa.int32())),  # changed positions, ascending; null unless broken
        ("values", pa.list_(pa.float64())),  # new values there, channel by channel within a position
    ]
)

IMAGES = pa.schema([("example", pa.int64()), ("x", pa.list_(pa.float64()))])  # x in the order of its shape

CERTIFICATES = pa.schema(
    [
        ("example", pa.int64()),  # the example's stable id
        ("name", pa.string()),  # its readable name (a file, say), or null
        ("label", pa.int32()),
        ("answer", pa.int32()),  # what the classifier answers; null where it abstains
        ("prediction", pa.int32()),  # the class that is certified; null without a certificate
        ("radius", pa.int64()),  # changes that cannot move it, 2^63 - 1: any; null without a certificate
        ("margin", pa.int64()),  # what the radius follows from, of a method without votes
        ("selection", pa.list_(pa.int64())),  # votes for each class that chose the candidate
        ("counts", pa.list_(pa.int64())),  # votes for each class that bound its share
        ("passes", pa.int64()),  # forward passes of the model spent on this example
        ("broken", pa.int64()),  # the fewest changes that a proof's search found to move it; null if none
        ("positions", pa.list_(pa.int32())),  # of that counterexample, as in ROWS
        ("values", pa.list_(pa.float64())),
    ]
)

TRANSFERS = pa.schema(
    [
        ("source", pa.string()),  # folder of the run that found the adversarial, within the comparison's
        ("example", pa.int64()),  # which of its rows: example, budget, stage
        ("k", pa.int32()),
        ("stage", pa.int32()),
        ("distance", pa.int32()),  # changed positions, as there
        ("target", pa.string()),  # the model it was tried on
        ("outcome", pa.string()),  # broken | robust
        ("prediction", pa.int32()),  # of the target, on a fresh pass
        ("margin", pa.float64()),  # label's logit minus the largest other, same pass
    ]
)


class Folder:
    """A folder with a JSON file that says what it holds, opened for writing or reading."""

    what: str  # of which the file is named
    format: str
    required: tuple[str, ...] = ()
    parts: tuple[str, tuple[str, ...]] | None = None  # a list in it, and what each entry needs

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = local_path(path, "folder")
        self.json = self.path / f"{self.what}.json"
        self.page = self.path / "report.html"

    def exists(self) -> bool:
        """Whether anything was started here."""
        return self.json.exists()

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder: a second process that wants to write here is refused."""
        return locked(self.path, "writing to")

    def read(self) -> dict[str, Any]:
        """The content of the JSON file; `ArgumentError` if it is missing, damaged or of another format."""
        try:
            content = parse_json(read_file(self.json))
        except FileNotFoundError:
            raise ArgumentError(
                f"{self.what}: expected the folder of a {self.what}, found no {self.json.name} in {self.path}"
            ) from None
        except NotADirectoryError:
            raise ArgumentError(
                f"{self.what}: expected the folder of a {self.what}, got the file {self.path}"
            ) from None
        except (ValueError, OSError) as error:
            raise ArgumentError(f"{self.what}: {self.json} cannot be read: {error}") from None
        if not isinstance(content, dict) or content.get("format") != self.format:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise ArgumentError(f"{self.what}: expected format {self.format} in {self.json}, got {found!r}")
        if missing := [key for key in self.required if key not in content]:
            raise ArgumentError(f"{self.what}: {self.json} is damaged: it has no {', '.join(missing)}")
        if self.parts is not None:
            name, needed = self.parts
            entries = content[name]
            if (
                not isinstance(entries, list)
                or not entries
                or not all(isinstance(entry, dict) and set(needed) <= set(entry) for entry in entries)
            ):
                raise ArgumentError(f"{self.what}: {self.json} is damaged: it names no {name}")
        return content

    def read_complete(self) -> dict[str, Any]:
        """As `read`, of what came to its end."""
        content = self.read()
        if content["status"] != "complete":
            raise ArgumentError(
                f"{self.what}: expected a complete {self.what}, got one that stopped early in {self.path}; resume it"
            )
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the JSON file in one step: a crash leaves the old or the new one, never half."""
        replace_files({self.json: json.dumps(content, indent=1, allow_nan=False).encode()})

    def within(self, path: str) -> Path:
        """A place in the folder; a path that leads out of it is refused."""
        place = self.path / path
        if not place.resolve().is_relative_to(self.path.resolve()):
            raise ArgumentError(f"{self.what}: expected a path within {self.path}, got {path!r}")
        return place


class RunFolder(Folder):
    """The folder of one run."""

    what, format, schema = "run", "zeronorm-run/1", ROWS
    required: tuple[str, ...] = ("status", "plan", "plan_digest", "sessions", "diagnosis")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.journal = self.path / "rows.jsonl"
        self.table = self.path / "rows.parquet"
        self.images = self.path / "images.parquet"

    # -- rows -------------------------------------------------------------------------------------------

    def append(self, rows: Iterable[Row]) -> None:
        """Append finished rows to the journal and flush them to the disk."""
        lines = b"".join(_line(row, self.schema.names) for row in rows)
        if lines:
            with awaited(self.journal), open(self.journal, "ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())

    def recover(self) -> list[Row]:
        """The rows of an interrupted run.  A line cut off by the interruption is removed from the journal."""
        if not self.journal.exists():
            return []
        content = read_file(self.journal)
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with open(self.journal, "r+b") as file:
                file.truncate(complete)
        return self._parse(content[:complete])

    def read_rows(self) -> pa.Table:
        """All rows, from the table of a complete run or the journal of an unfinished one."""
        if self.table.exists():
            return _read_table(self.table, self.schema)
        if self.json.exists() and self.read()["status"] == "complete":
            raise ArgumentError(
                f"run: expected {self.table.name} of the complete run in {self.path}, found none"
            )
        if not self.journal.exists():
            return self.schema.empty_table()
        content = read_file(self.journal)
        return pa.Table.from_pylist(self._parse(content[: content.rfind(b"\n") + 1]), schema=self.schema)

    def clean_rows(self) -> list[Row]:
        """The clean predictions of a complete run; none of one that has not begun."""
        if not self.table.exists():
            return []
        table = self.read_rows()
        return table.filter(pc.less(table["stage"], 0)).drop_columns(["positions", "values"]).to_pylist()

    def fold(self, rows: list[Row], images: list[dict[str, Any]]) -> str:
        """Write the tables of a complete run and drop the journal; returns the digest of the rows."""
        table = pa.Table.from_pylist(rows, schema=self.schema)
        for schema, content, target in (
            (IMAGES, pa.Table.from_pylist(images, schema=IMAGES), self.images),
            (self.schema, table, self.table),
        ):
            _write_table(target, content.cast(schema))
        return digest_rows(table)

    def drop_journal(self) -> None:
        """Remove the journal, once the folded table and run.json are safely written."""
        self.journal.unlink(missing_ok=True)

    def read_images(self) -> dict[int, npt.NDArray[np.float64]]:
        """Clean images by example id, flattened in the order of the run's input shape; empty if unfinished."""
        if not self.images.exists():
            return {}
        try:
            with open_regular(self.images) as file:
                table = pq.read_table(file, schema=IMAGES)
            # not as Python's numbers, which take four times the room
            pictures = [x.values.to_numpy(zero_copy_only=False) for x in table["x"] if x.is_valid]
            found = dict(zip(table["example"].to_pylist(), pictures, strict=True))
            if len(found) < len(table):
                raise ValueError("an example has two pictures")
            return found
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ArgumentError(f"run: {self.images} is damaged: {one_line(error)}") from None

    def _parse(self, content: bytes) -> list[Row]:
        rows: list[Row] = []
        # a line ends with \n and nothing else: a byte that became \r is damage
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            body, _, check = line.rpartition(b"\t")
            if check != _checksum(body):
                raise ArgumentError(
                    f"run: line {number} of {self.journal} is damaged (its checksum does not match)"
                )
            try:
                rows.append(parse_json(body))
            except ValueError as error:
                raise ArgumentError(f"run: line {number} of {self.journal} is damaged: {error}") from None
        try:  # whoever writes a line can write its checksum
            return pa.Table.from_pylist(rows, schema=self.schema).to_pylist()
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ArgumentError(
                f"run: {self.journal} is damaged or holds no rows: {one_line(error)}"
            ) from None


class CertificateFolder(RunFolder):
    """The folder of a run of certificates."""

    format, schema = "zeronorm-certificates/1", CERTIFICATES
    required = ("status", "plan", "plan_digest", "sessions")

    def holds_certificates(self) -> bool:
        """Whether that is what the folder holds, rather than a search."""
        try:
            return bool(parse_json(read_file(self.json)).get("format") == self.format)
        except (OSError, ValueError, AttributeError):
            return False


class ComparisonFolder(Folder):
    """The folder of a comparison: runs in folders of their own, and what ties them together."""

    what, format, required = "comparison", "zeronorm-comparison/1", ("status", "runs")
    parts = "runs", ("model", "attack", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.transfers = self.path / "transfer.parquet"

    def run(self, path: str) -> RunFolder:
        """One of its runs; a path that leads out of the folder is refused."""
        return RunFolder(self.within(path))

    def read_transfers(self) -> pa.Table:
        """How adversarials fared on the models they were not made for; empty if nothing was tried."""
        return _read_table(self.transfers, TRANSFERS) if self.transfers.exists() else TRANSFERS.empty_table()

    def write_transfers(self, rows: list[dict[str, Any]]) -> str:
        """Write them as one table; returns the digest of its rows."""
        table = pa.Table.from_pylist(rows, schema=TRANSFERS)
        _write_table(self.transfers, table)
        return digest_rows(table)


class MatrixFolder(Folder):
    """The folder of a matrix: for each model a comparison and a run of certificates, and what ties them together."""

    what, format, required = "matrix", "zeronorm-matrix/1", ("status", "plan", "models")
    parts = "models", ("name", "source", "attacks", "certificate", "uncertified", "unfit", "cost", "training")


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with open_regular(path) as file:  # of a name pyarrow would read a ~ or s3: as it likes
            return pq.read_table(file, schema=schema, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArgumentError(f"run: {path} is damaged or not a table of rows: {one_line(error)}") from None


def _write_table(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    replace_files({path: sink.getvalue().to_pybytes()})


def finite(number: float) -> float | None:
    """A number as a row holds it: null where it is infinite or none."""
    return number if abs(number) < float("inf") else None


def digest_rows(table: pa.Table) -> str:
    """SHA-256 of the rows' content, independent of how they are stored."""
    sha = hashlib.sha256()
    for part in table.to_batches(max_chunksize=256):  # few at a time: as Python's numbers they are large
        for row in part.to_pylist():
            sha.update(_body(row, table.schema.names))
    return f"sha256:{sha.hexdigest()}"


def _body(row: Row, names: list[str]) -> bytes:
    present = {name: row[name] for name in names if row.get(name) is not None}
    return json.dumps(present, separators=(",", ":")).encode()


def _checksum(body: bytes) -> bytes:
    return f"{zlib.crc32(body):08x}".encode()


def _line(row: Row, names: list[str]) -> bytes:
    body = _body(row, names)
    return body + b"\t" + _checksum(body) + b"\n"
