"""Fig. 1, Fig. 2 and Table 1 of Guo et al. 2018, and what an ℓ0 adversary says of the same networks.

    zeronorm reproduce guo2018_sparse_dnns --scale cpu

Every figure of a row is a list, one value for each seed.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from torch.nn import functional as F

import zeronorm as zn
from zeronorm.data import Dataset
from zeronorm.evaluation import reproduction
from zeronorm.evaluation.sparsity import measure
from zeronorm.training import TrainingPlan

TableWork = reproduction.TableWork
Rows = Iterator[tuple[dict[str, Any], dict[str, Any]]]

# what `measure` calls the figures of a network as it is
NETWORK: dict[str, tuple[str, ...]] = {
    "zero": ("sparsity",), "clean": ("clean",), "off": ("activation_sparsity",),
}  # fmt: skip
# the figure that an attack or a proof gives, where `measure` puts it, and how it is asked for
JUDGES: dict[str, tuple[str, tuple[str, str], dict[str, Any]]] = {
    "FGS": ("r∞", ("r_inf", "fgsm"), {"linf": ["fgsm"]}),
    "rFGS": ("r∞", ("r_inf", "randomized_fgsm"), {"linf": ["randomized_fgsm"]}),
    "DeepFool": ("r2", ("r_2", "deepfool"), {"l2": ["deepfool"]}),
    "C&W": ("r2", ("r_2", "carlini_wagner_l2"), {"l2": ["carlini_wagner_l2"]}),
    "4 pixels": ("robust", ("robust", "4"), {"budgets": [4]}),
    "Lemma 3.1": ("proved", ("proved", "l2"), {}),
}


def figure1_binary(work: TableWork) -> Rows:
    """The linear classifier of two digits, pruned in rounds."""
    yield from _pruned(work, "binary linear")


def figure1_linear(work: TableWork) -> Rows:
    """The linear classifier of ten digits, pruned in rounds."""
    yield from _pruned(work, "linear")


def figure2_lenet_300_100(work: TableWork) -> Rows:
    """LeNet-300-100, pruned in rounds."""
    yield from _pruned(work, "LeNet-300-100")


def figure2_lenet5(work: TableWork) -> Rows:
    """LeNet-5 as Caffe has it, pruned in rounds."""
    yield from _pruned(work, "LeNet-5")


def figure2_cifar(work: TableWork) -> Rows:
    """The networks on CIFAR-10, first and last layer dense, pruned in rounds."""
    yield from _pruned(work, "VGG-like", "ResNet-32")


def retrained(work: TableWork) -> Rows:
    """LeNet-300-100 on all images: pruned in rounds, through the same rounds without pruning, and trained harder."""
    yield from _pruned(work, "pruned", "not pruned", "pruned, rate 0.05")


def table1(work: TableWork) -> Rows:
    """Trained with an ℓ1 penalty, and not pruned."""
    for network, penalties in work.scale["table1"].items():
        yield from _measured(work, network=[network], l1=penalties)


def _pruned(work: TableWork, *networks: str) -> Rows:
    """Those that the scale has."""
    for network in networks:
        if network in work.scale["networks"]:
            rounds = work.scale["networks"][network].get("rounds", work.scale["rounds"])
            yield from _measured(work, network=[network], round=list(range(rounds + 1)))


def _measured(work: TableWork, **places: list[Any]) -> Rows:
    """What each network is, then what each attack or proof says of it."""
    for where in work.todo(**places):
        figures = _each_seed(work, where, NETWORK, "n")
        yield where, figures | {"zero": figures["zero"][0]}  # of all seeds
    (network,) = places["network"]
    limits = work.scale["limits"] | work.scale["networks"][network].get("limits", {})
    for where in work.todo(**places, by=list(limits)):
        if where.get("round", 0) % work.scale["every"].get(where["by"], 1):
            continue
        figure, place, asked = JUDGES[where["by"]]
        yield (
            where,
            _each_seed(work, where, {figure: place}, "n_attacked", limit=limits[where["by"]], **asked),
        )


def _each_seed(
    work: TableWork, where: dict[str, Any], figures: dict[str, tuple[str, ...]], n: str, **asked: Any
) -> dict[str, Any]:
    """Figures of `measure`, a list of a value for each seed; of a dead network and of what is not proved, none."""
    settings, found = work.scale["networks"][where["network"]], []
    test = _test(_source(work, where["network"]), settings.get("test"))
    options = {
        "linf": (),
        "l2": (),
        "epsilon": 0.1,
        "steps": work.scale["steps"],
        "queries": work.scale["queries"],
    }
    for seed in range(settings["seeds"]):
        model = network(work, where["network"], seed, where.get("round", 0), where.get("l1", 0.0))
        with tempfile.TemporaryDirectory() as run:
            found.append(measure(model, test, Path(run), **options | asked))
    lists = {name: [_at(row, place) for row in found] for name, place in figures.items()}
    return {name: values for name, values in lists.items() if None not in values} | {"n": found[0][n]}


@cache
def _test(source: str, limit: int | None) -> Dataset:
    return zn.data.load(source, "test", limit)


def _at(row: dict[str, Any], place: tuple[str, ...]) -> float | None:
    value: Any = row
    for name in place:
        value = None if value is None else value[name]
    return value


def network(work: TableWork, name: str, seed: int, number: int, l1: float) -> zn.models.Classifier:
    """A reference after so many rounds, or one trained with an ℓ1 penalty."""
    settings = work.scale["networks"][name]

    def called(number: int) -> str:
        of = name if number else settings.get("reference", name)
        return f"{of}, seed {seed}, {f'l1 {l1:g}' if l1 else f'round {number}'}"

    def train() -> tuple[zn.models.Classifier, dict[str, Any]]:
        taken = ("batch_size", "crop", "flip", "weight_decay")
        asked = {key: settings[key] for key in taken if key in settings}
        if number:
            network(work, name, seed, number - 1, 0.0)
            asked |= {
                "initial": work.folder / "models" / called(number - 1), "prune": settings.get("share", 1 / 3),
                "keep_dense": tuple(settings.get("keep_dense", ())),
                "epochs": settings["retrain_epochs"], "lr": settings["retrain_lr"],
            }  # fmt: skip
        else:
            asked |= {
                "model": settings["model"],
                "epochs": settings["epochs"],
                "lr": settings["lr"],
                "l1": l1,
            }
        with tempfile.TemporaryDirectory() as out:
            plan = TrainingPlan(
                out=out, data=_source(work, name), limit=settings.get("train"), normalize=False, seed=seed,
                device=work.device.type, **{"batch_size": 64} | asked,
            )  # fmt: skip
            return zn.training.train(plan).model, plan.identity()

    return work.model(called(number), train)


def _source(work: TableWork, name: str) -> str:
    """The data of a network; some classes of it, or other sizes of image, are written into the folder of the run."""
    settings = work.scale["networks"][name]
    if not {"classes", "side"} & set(settings):
        return str(settings["data"])
    classes, side = settings.get("classes", list(range(10))), settings.get("side")
    folder = work.folder / f"{settings['data']}-{'-'.join(map(str, classes))}-{side or 'as it is'}"
    for split in ("train", "test"):
        if not (folder / f"{split}.parquet").exists():
            _write(zn.data.load(settings["data"], split), classes, side, folder / f"{split}.parquet")
    return f"parquet:{folder}"


def _write(data: Dataset, classes: list[int], side: int | None, path: Path) -> None:
    images, labels = [], []
    for x, y in zip(data.x, data.y.tolist(), strict=True):
        if y in classes:
            scaled = x if side is None else F.interpolate(x[None], (side, side))[0]
            file = io.BytesIO()
            Image.fromarray((scaled[0] * 255).round().byte().numpy()).save(file, "png")
            images.append({"bytes": file.getvalue(), "path": None})
            labels.append(classes.index(y))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}), path)
