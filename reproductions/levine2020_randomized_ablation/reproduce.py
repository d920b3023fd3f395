"""Tables 1, 2, 3, 6, 7 and 8 of Levine & Feizi 2020.

    zeronorm reproduce levine2020_randomized_ablation --scale cpu

At CPU scale there is no CIFAR-10, and ImageNet is a synthetic folder of images: it shows that the code runs on one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import zeronorm as zn
from zeronorm.certification import ABSTAIN
from zeronorm.data import Dataset
from zeronorm.evaluation import reproduction
from zeronorm.metrics import median_certified
from zeronorm.training import TrainingPlan

TableWork = reproduction.TableWork
Rows = Iterator[tuple[dict[str, Any], dict[str, Any]]]

K = {"mnist": 45, "cifar10": 75}  # of tables 2, 7 and 8


def table1(work: TableWork) -> Rows:
    """MNIST: accuracy, abstentions and median radius for every k."""
    yield from _of_every_k(work, "mnist")


def table3(work: TableWork) -> Rows:
    """The same on CIFAR-10."""
    yield from _of_every_k(work, "cifar10")


def table6(work: TableWork) -> Rows:
    """The same on ImageNet, or a folder like it."""
    yield from _of_every_k(work, "imagenet")


def table2(work: TableWork) -> Rows:
    """Pointwise against the smoothed classifier, votes drawn anew for every query; clean errors count as 0 pixels."""
    settings = work.scale["pointwise"]
    for where in work.todo(model=[f"ablation, k = {K['mnist']}"]):
        data = images(work, "mnist", "test", settings["test"])
        model = smoothed(work, "mnist", K["mnist"], "multichannel", votes=settings["votes"])
        threat = zn.L0(None)
        x_adv = zn.attacks.pointwise(
            model, data.x, data.y, threat, queries=settings["queries"], restarts=settings["restarts"], ids=data.ids
        )  # fmt: skip
        changes = threat.distance(data.x, x_adv).double()
        changes[model(x_adv).argmax(1) == data.y] = math.inf
        yield where, {"median": float(changes.median()), "n": len(data)}


def table7(work: TableWork) -> Rows:
    """The certificate at the number of votes and the confidence of Lee et al. 2019."""
    both = {
        f"ablation, k = {K['mnist']}": (work.scale["n0"], work.scale["n"], work.scale["alpha"]),
        f"ablation, k = {K['mnist']}, 100 + 100,000 votes at 99.9 %": (100, 10 * work.scale["n"], 0.001),
    }
    for where in work.todo(method=list(both)):
        n0, n, alpha = both[where["method"]]
        data = images(work, "mnist", "test", work.scale["mnist"].get("test"))
        certificate = smoothed(work, "mnist", K["mnist"], "multichannel").certify(
            data.x, n0, n, alpha, ids=data.ids
        )
        proved = float(certificate.holds(data.y.cpu(), 0).double().mean())
        yield where, {"votes": n, "n": len(data), "proved": proved, **_median(certificate, data)}


def table8(work: TableWork) -> Rows:
    """NULL as a colour of its own, and as the mean colour."""
    names = [name for name in K if name in work.scale]
    for name in names:
        for where in work.todo(data=[name], null=["multichannel", "mean"], k=[K[name]]):
            yield where, measured(work, name, where["k"], where["null"])


# -- what the tables are made of ---------------------------------------------------------------------------


def _of_every_k(work: TableWork, name: str) -> Rows:
    for where in work.todo(k=work.scale[name]["retained"] if name in work.scale else []):
        yield where, measured(work, name, where["k"], "multichannel")


def measured(work: TableWork, name: str, k: int, null: str) -> dict[str, Any]:
    """Classification accuracy (abstaining is wrong), the share of abstentions, and the median certified radius."""
    data = images(work, name, "test", work.scale[name].get("test"))
    model, alpha = smoothed(work, name, k, null), work.scale["alpha"]
    answers = model.predict(data.x, work.scale["predict"], alpha, ids=data.ids)
    certificate = model.certify(data.x, work.scale["n0"], work.scale["n"], alpha, ids=data.ids)
    y = data.y.cpu()
    return {
        "accuracy": float((answers == y).double().mean()),
        "abstained": float((answers == ABSTAIN).double().mean()),
        "n": len(data),
        **_median(certificate, data),
    }


def smoothed(work: TableWork, name: str, k: int, null: str, **options: Any) -> zn.defenses.RandomizedAblation:
    """The smoothed classifier, its base classifier trained."""
    settings = work.scale[name]

    def train() -> tuple[zn.models.Classifier, dict[str, Any]]:
        taken = ("model", "epochs", "lr", "batch_size", "weight_decay", "crop", "flip")
        with _source(work, name) as source, tempfile.TemporaryDirectory() as out:
            plan = TrainingPlan(
                out=out, data=source, method="ablation", retained=k, null=null, limit=settings.get("train"),
                model_arguments={"width": settings["width"]} if "width" in settings else {},
                validation=0.0, device=work.device.type,
                **{"weight_decay": 0.0} | {key: settings[key] for key in taken if key in settings},
            )  # fmt: skip
            result = zn.training.train(plan)
        return result.model, plan.identity()

    mean = None
    if null == "mean":
        mean = images(work, name, "train", settings.get("train")).x.mean((0, 2, 3)).tolist()
        mean = [round(m, 4) for m in mean]
    return zn.defenses.RandomizedAblation(
        work.model(f"{name}, k = {k}, {null}", train),
        k,
        null,
        mean=mean,
        alpha=work.scale["alpha"],
        **options,
    )


def images(work: TableWork, name: str, split: str, limit: int | None) -> Dataset:
    """Some of the data that a scale names."""
    with _source(work, name) as source:
        data = zn.data.load(source, split, limit)
    return replace(data, x=data.x.to(work.device), y=data.y.to(work.device), ids=data.ids.to(work.device))


@contextmanager
def _source(work: TableWork, name: str) -> Iterator[str]:
    """What the scale names; where it names nothing, synthetic images in folders."""
    if "data" in work.scale[name]:
        yield work.scale[name]["data"]
        return
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder), work.scale[name])
        yield f"folder:{folder}"


def _write_images(folder: Path, settings: dict[str, Any]) -> None:
    """SPLIT/CLASS/ folders of colour images; classes differ in hue."""
    rng, side = np.random.default_rng(0), settings["side"]
    for split in ("train", "test"):
        for i in range(settings["images"]):
            label = i % settings["classes"]
            pixels = rng.integers(0, 128, (side, side, 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            where = folder / split / f"class{label}"
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(where / f"{i:03}.png")


def _median(certificate: zn.certification.Certificate, data: Dataset) -> dict[str, float]:
    """The paper's: wrong and uncertified images count as less than 0; no figure (N/A) where it is one of these."""
    radius = certificate.radius.double()
    radius[(certificate.prediction != data.y.cpu()) | certificate.abstained] = -math.inf
    median = median_certified(radius.numpy())
    return {"median": median} if math.isfinite(median) else {}
