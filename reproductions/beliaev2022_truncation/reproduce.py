"""Tables I and II and Fig. 1 of Beliaev et al. 2022, and what stronger attacks leave of them.

    zeronorm reproduce beliaev2022_truncation --scale cpu

A model is named by what it is: "F(10), appending" is the fully connected network with truncation 10, trained on
Sparse-RS adversarials that are appended; "clean", without them; "appending by sparse_pgd", on those of that attack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

import zeronorm as zn
from zeronorm.certification import certify_truncated
from zeronorm.data import Dataset
from zeronorm.evaluation.reproduction import TableWork
from zeronorm.seeding import Streams
from zeronorm.training.method import TrainingBatch
from zeronorm.training.truncation_window import window_loss

Rows = Iterator[tuple[dict[str, Any], dict[str, Any]]]

BETA = 100
BUDGETS = (3, 5, 8)
ARCHITECTURES = {"F": "mlp", "VGG": "vgg19", "W": "mlp"}
STATISTICS = {  # of the training images
    "mnist": {"mean": [0.1307], "std": [0.3081]},
    "cifar10": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    "digits": {"mean": [0.3], "std": [0.4]},
}


def table1(work: TableWork) -> Rows:
    """Clean accuracy on the whole test set, robust accuracy within each budget of pixels and queries."""
    for where in work.todo(model=work.scale["models"]):
        yield where, clean(work, where["model"])
    for where in work.todo(model=work.scale["models"], k=BUDGETS, queries=work.scale["queries"]):
        yield where, robust(work, where["model"], "sparse_rs", where["k"], queries=where["queries"])


def table2(work: TableWork) -> Rows:
    """Pointwise, ten restarts: half of the images need no more changed pixels than this; 0 for clean errors."""
    for where in work.todo(model=["F(0), clean", *work.scale["models"]], β=[BETA, 1]):
        model, data = network(work, where["model"]), images(work, where["model"], "test", "pointwise")
        threat = box(None, where["β"])
        x_adv = zn.attacks.pointwise(
            model, data.x, data.y, threat, queries=work.scale["pointwise_queries"], restarts=10, ids=data.ids
        )
        changes = threat.distance(data.x, x_adv).double()
        changes[answers(model, x_adv) == data.y] = torch.inf
        yield where, {"median": float(changes.median()), "n": len(data)}


def figure1a(work: TableWork) -> Rows:
    """Without adversarial training: F(k) and F(0) under k pixels."""
    for where in work.todo(model=["F(k)", "F(0)"], k=work.scale["k"]):
        name = f"{where['model'].replace('k', str(where['k']))}, clean"
        yield where, robust(work, name, "sparse_rs", where["k"], queries=work.scale["queries"][1])


def figure1b(work: TableWork) -> Rows:
    """After it: the networks of table I, and each number of pixels up to 10."""
    budgets = [k for k in work.scale["k"] if k <= 10]
    for where in work.todo(model=[name for name in work.scale["models"] if "appending" in name], k=budgets):
        yield where, robust(work, where["model"], "sparse_rs", where["k"], queries=work.scale["queries"][1])


def stronger(work: TableWork) -> Rows:
    """Attacks that the paper did not have, with gradients, and the cascades."""
    steps, queries = work.scale["steps"], work.scale["queries"][-1]
    attacks: dict[str, dict[str, Any]] = {
        "sparse_rs": {"queries": queries},
        "sparse_pgd": {"steps": steps},
        "sigma_zero": {"steps": steps},
        "fmn_l0": {"steps": steps},
        "guided_exchange": {"steps": steps},
        "sparse_autoattack": {"steps": steps, "queries": queries},
        "sparse_autoattack, plus": {"steps": steps, "queries": queries, "version": "plus"},
    }
    for where in work.todo(model=work.scale["stronger"]):
        yield where, clean(work, where["model"])
    for where in work.todo(model=work.scale["stronger"], attack=list(attacks), k=BUDGETS):
        name, options = where["attack"].split(",")[0], attacks[where["attack"]]
        yield where, robust(work, where["model"], name, where["k"], **options)


def certified(work: TableWork) -> Rows:
    """What the truncation window proves, of the paper's networks and of one that was trained on its window.

    Of the latter also what the cascade leaves: the true share lies between.
    """
    window = f"W({work.scale['W']['truncation']}), window"
    paper = [name for name in work.scale["models"] if re.match(r"F\([1-9]", name)]
    for names, budgets in ((paper, [0, 1]), ([window], work.scale["windows"])):
        for where in work.todo(model=names, how=["proved"], k=budgets):
            model, data = network(work, where["model"]), images(work, where["model"], "test", "certified")
            proven = certify_truncated(model, data.x).holds(data.y, where["k"])
            yield where, {"right": float(proven.double().mean()), "n": len(data)}
    steps, queries = work.scale["steps"], work.scale["queries"][-1]
    for where in work.todo(model=[window], how=["left by the cascade"], k=work.scale["windows"]):
        found = robust(
            work, window, "sparse_autoattack", where["k"], steps=steps, queries=queries, version="plus"
        )
        yield where, {"right": found["robust"], "n": found["n"]}


# -- what the tables are made of ---------------------------------------------------------------------------


def network(work: TableWork, name: str) -> zn.models.Classifier:
    """The model of that name, trained."""
    said = re.fullmatch(r"(F|VGG|W)\((\d+)\), (clean|appending|window)(?: by (\w+))?", name)
    assert said is not None, name
    settings = work.scale[said[1]]

    def train() -> tuple[zn.models.Classifier, dict[str, Any]]:
        data = images(work, name, "train", None)
        model = zn.models.build(
            ARCHITECTURES[said[1]],
            in_channels=data.x.shape[1], image_size=data.x.shape[2], truncation=int(said[2]),
            **({"widths": settings["widths"]} if "widths" in settings else {}), **STATISTICS[settings["data"]],
        ).to(work.device)  # fmt: skip
        if said[3] == "window":
            return learn_window(model, data, settings), {}
        # the paper: Sparse-RS with 300 queries; sparse-PGD has two passes for each of 50 updates
        attack = said[4] or "sparse_rs"
        cost = {"queries": work.scale["queries"][0]} if attack == "sparse_rs" else {"steps": 50}
        rounds = settings["rounds"] if said[3] == "appending" else 0
        history = train_appending(model, data, box(10, BETA), settings, rounds, attack, **cost)
        return model, {"history": history}

    return work.model(name, train)


def train_appending(
    model: zn.models.Classifier, data: Dataset, threat: zn.L0, settings: Mapping[str, Any], rounds: int,
    attack: str, **cost: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """`epochs` on the clean examples, then `rounds` times attack, append what breaks the model, `epochs` more.

    `zeronorm train --method truncated` does so with one learning rate schedule over all of it; here it starts anew
    after each round.
    """
    x, y, ids = data.x, data.y, data.ids
    history: list[dict[str, Any]] = []
    for number in range(rounds + 1):
        if number:
            order = Streams(0, data.ids, "append, attacked").order(number)[: settings.get("attacked")]
            found, broken = _adversarials(model, data, order, threat, attack, seed=number, **cost)
            x, y = torch.cat([x, found]), torch.cat([y, data.y[broken]])
            # names of their own: the example and the round
            ids = torch.cat([ids, data.ids[broken] + (number << 40)])
        row = {"round": number, "examples": len(x), "appended": len(found) if number else 0}
        history.append(row | _learn(model, x, y, ids, number, settings))
    return history


def _adversarials(
    model: zn.models.Classifier, data: Dataset, order: torch.Tensor, threat: zn.L0, attack: str,
    seed: int, **cost: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What the attack makes of the examples that it breaks, and which these are."""
    x_adv, broken = [], []
    for rows in order.split(256):
        x, y = data.x[rows], data.y[rows]
        found = zn.attacks.catalogue[attack].function(
            model, x, y, threat, seed=seed, ids=data.ids[rows], **cost
        )
        wrong = answers(model, found) != y
        x_adv.append(found[wrong])
        broken.append(rows[wrong])
    return torch.cat(x_adv), torch.cat(broken)


def _learn(
    model: zn.models.Classifier, x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, number: int,
    settings: Mapping[str, Any],
) -> dict[str, float]:  # fmt: skip
    epochs = settings["epochs"]
    optimizer = torch.optim.SGD(model.parameters(), settings["lr"], 0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // 128))
    model.train()
    for epoch in range(epochs):
        loss_sum, right = 0.0, 0
        for rows in Streams(0, ids, f"append {number}").order(epoch).split(128):
            logits = model(x[rows])
            loss = F.cross_entropy(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += float(loss.detach()) * len(rows)
            right += int((logits.argmax(1) == y[rows]).sum())
    model.eval()
    return {"loss": loss_sum / len(x), "accuracy": right / len(x)}


def learn_window(
    model: zn.models.Classifier, data: Dataset, settings: Mapping[str, Any]
) -> zn.models.Classifier:
    """Adam on the worst-case logits, the budget rising over the first half of the epochs."""
    epochs, batches = settings["epochs"], -(-len(data) // 128)
    objective = window_loss(settings["budget"], epochs // 2)
    optimizer = torch.optim.Adam(model.parameters(), settings["lr"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings["lr"], total_steps=epochs * batches)
    for epoch in range(1, epochs + 1):
        for rows in Streams(0, data.ids, "window").order(epoch).split(128):
            loss, _ = objective(
                model, TrainingBatch(data.x[rows], data.y[rows], data.ids[rows], rows, epoch, 0)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def images(work: TableWork, name: str, split: str, limit: str | None) -> Dataset:
    """The data that a model is for; of the test split as many as the scale says under `limit`."""
    settings = work.scale[name.split("(")[0]]
    data = zn.data.load(settings["data"], split, settings.get("train") if split == "train" else None)
    if limit is not None:
        data = zn.data.load(settings["data"], split, work.scale[limit])
    x = data.x if name[0] != "V" or data.x.shape[2] >= 32 else F.interpolate(data.x, (32, 32))
    return replace(data, x=x.to(work.device), y=data.y.to(work.device), ids=data.ids.to(work.device))


def box(k: int | None, beta: float) -> zn.L0:
    """k pixels, each anywhere in the box of the images widened by beta about its middle."""
    return zn.L0(k, low=(1 - beta) / 2, high=(1 + beta) / 2)


def answers(model: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(some).argmax(1) for some in x.split(500)])


def clean(work: TableWork, name: str) -> dict[str, Any]:
    """Accuracy on the whole test set."""
    model, data = network(work, name), images(work, name, "test", None)
    return {"clean": float((answers(model, data.x) == data.y).double().mean()), "n": len(data)}


def robust(work: TableWork, name: str, attack: str, k: int, **options: Any) -> dict[str, Any]:
    """The share still right under attack; clean errors count as errors."""
    model, data, threat = network(work, name), images(work, name, "test", "test"), box(k, BETA)
    right = 0
    for rows in torch.arange(len(data)).split(128):
        x, y = data.x[rows], data.y[rows]
        x_adv = zn.attacks.catalogue[attack].function(model, x, y, threat, ids=data.ids[rows], **options)
        assert bool(threat.contains(x, x_adv).all())
        right += int((answers(model, x_adv) == y).sum())
    return {"robust": right / len(data), "n": len(data)}
