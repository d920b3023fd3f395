"""The adversarials of a run, made again from its rows: tensors, and images that a person can open."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from zeronorm.attacks.batch_under_attack import Model
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.examples import as_dataset
from zeronorm.evaluation.fresh_pass import predict, rebuild
from zeronorm.evaluation.plan import described_threat
from zeronorm.files import replace_files
from zeronorm.records.folders import RunFolder

_INDEX = (
    "example",
    "name",
    "label",
    "k",
    "stage",
    "distance",
    "prediction",
    "file",
    "rounded_prediction",
    "survives",
)


@dataclass(frozen=True)
class Adversarials:
    """The sparsest adversarial of each example that a run broke, in the order of the examples.

    Attributes:
        ids: of the examples.
        x, x_adv: clean inputs and adversarials, `(n, *shape of one example)`.
        y: labels `(n,)`.
        prediction: the model's answers to `x_adv` as the run recorded them, `(n,)`.
        rows: the rows they are made of.
    """

    ids: Int[Tensor, "n"]
    x: Float[Tensor, "n ..."]
    x_adv: Float[Tensor, "n ..."]
    y: Int[Tensor, "n"]
    prediction: Int[Tensor, "n"]
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.ids)


def adversarials(folder: RunFolder, data: Any, k: int | None = None) -> Adversarials:
    """Of each example that was broken within `k` changes (any number, if None) the adversarial with the fewest.

    `data` is the run's, as `evaluate` takes it: a name, a data set, or (x, y).

    **Raises:** `ArgumentError` for data that lack an example, for an unfinished run, and if nothing was broken.
    """
    record = folder.read_complete()
    plan = record["plan"]
    examples = as_dataset(data)
    place = {id_: i for i, id_ in enumerate(examples.ids.tolist())}
    best: dict[int, dict[str, Any]] = {}
    for row in folder.read_rows().to_pylist():
        if row["outcome"] != "broken" or not row["distance"] or (k is not None and row["distance"] > k):
            continue
        if row["example"] not in best or row["distance"] < best[row["example"]]["distance"]:
            best[row["example"]] = row
    if not best:
        raise ArgumentError(f"run: expected adversarials in {folder.path}, found none" + _within(k))
    labels = dict(zip(examples.ids.tolist(), examples.y.tolist(), strict=True))
    if missing := [id_ for id_ in best if id_ not in place]:
        raise ArgumentError(f"data: expected the run's, whose example {missing[0]} is not among these")
    if other := [id_ for id_, row in best.items() if row["label"] != labels[id_]]:
        raise ArgumentError(
            f"data: expected the run's, where example {other[0]} has label {best[other[0]]['label']}, got one with "
            f"{labels[other[0]]}"
        )
    ids = sorted(best, key=lambda id_: place[id_])
    rows = [best[id_] for id_ in ids]
    chosen: Dataset = examples.at([place[id_] for id_ in ids])
    threat = described_threat(plan["threat"], chosen.x)
    x_adv = torch.cat([rebuild(chosen.x[i : i + 1], row, threat) for i, row in enumerate(rows)])
    return Adversarials(
        chosen.ids, chosen.x, x_adv, chosen.y, torch.tensor([row["prediction"] for row in rows]), rows
    )


def save_adversarials(found: Adversarials, folder: Path, model: Model | None = None) -> dict[str, int]:
    """Write them to a folder: `adversarials.safetensors`, `index.csv`, and of images a PNG each, clean and adversarial.

    A PNG has 8 bits a value, to which most adversarials have to be rounded.  With a model, whether the rounded one
    still breaks it is tried and written beside each (`survives`); without one, that column is empty.  Returns how many
    there are, and how many survive.

    Images are inputs (channel, height, width) of 1 or 3 channels within [0, 1]; of others there are tensors only.
    """
    pictures = found.x.dim() == 4 and found.x.shape[1] in (1, 3)
    rounded = (found.x_adv * 255).round().clamp(0, 255) / 255
    answers = [None] * len(found)
    if pictures and model is not None:
        answers = predict(model, rounded.to(found.x.dtype)).argmax(1).tolist()
    files: dict[Path, bytes] = {}
    lines: list[dict[str, Any]] = []
    for i, row in enumerate(found.rows):
        name, answer = f"{row['example']:06d}.png", answers[i]
        if pictures:
            files[folder / "adversarial" / name] = _png(rounded[i])
            files[folder / "clean" / name] = _png(found.x[i])
        lines.append(
            {column: row.get(column) for column in _INDEX}
            | {
                "file": f"adversarial/{name}" if pictures else None,
                "rounded_prediction": answer,
                "survives": None if answer is None else "yes" if answer != row["label"] else "no",
            }
        )
    tensors = {
        "ids": found.ids,
        "x": found.x,
        "x_adv": found.x_adv,
        "y": found.y,
        "prediction": found.prediction,
    }
    out = io.StringIO()
    writer = csv.DictWriter(out, _INDEX, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    files[folder / "index.csv"] = out.getvalue().encode()
    files[folder / "adversarials.safetensors"] = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}
    )
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_files(files)
    return {"adversarials": len(found), "survive": sum(line["survives"] == "yes" for line in lines)}


def _png(x: Float[Tensor, "c h w"]) -> bytes:
    values = (x.double().cpu() * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    out = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, -1)).save(out, "PNG")
    return out.getvalue()


def _within(k: int | None) -> str:
    return "" if k is None else f" within {k} changes"
