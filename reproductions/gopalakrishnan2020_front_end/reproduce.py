"""Tables I to VI and Figs. 6 to 12 of Gopalakrishnan et al. 2020, and what else can be asked of its front end.

    zeronorm reproduce gopalakrishnan2020_front_end --scale cpu

Of an attack through several gradients of the front end, "worst" counts an image as right if it withstood them all.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC
from sklearn.utils import shuffle
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.data import Dataset
from zeronorm.defenses import SparsifyingFrontEnd
from zeronorm.evaluation.reproduction import TableWork
from zeronorm.metrics import flipped_share, support_overlap
from zeronorm.models import Classifier
from zeronorm.seeding import Streams
from zeronorm.theory import front_end_gain
from zeronorm.training import TrainingPlan

Rows = Iterator[tuple[dict[str, Any], dict[str, Any]]]
Try = tuple[str, nn.Module, Any, dict[str, Any]]  # attack, the model as it sees it, threat model, options

ROOT = Path(__file__).parents[2]
GRADIENTS = ("bpda", "projection", "iterated", "true")
NONE, FRONT_END, TRAINED, BOTH = "none", "front end", "adversarial training", "both"
WHITE = {"semi-white": "bpda", "white": "projection", "white, iterated": "iterated"}  # boxes, of the SVM
TOGETHER = "all of them"
EPSILON = 0.2  # of the CNN


def table1(work: TableWork) -> Rows:
    """The linear SVM at ε = 0.1."""
    settings = work.scale["pair"]
    for where in work.todo(defence=[NONE], attack=["none", "semi-white"]):
        yield where, svm_under(settings["data"], None, where["attack"], 0.1)
    for where in work.todo(defence=[FRONT_END], attack=["none", *WHITE]):
        yield where, svm_under(settings["data"], settings["percent"], where["attack"], 0.1)


def figure6a(work: TableWork) -> Rows:
    """The linear SVM at ε = 0.1 against the share of the coefficients that is kept."""
    for percent in work.scale["pair"]["percents"]:
        for where in work.todo(percent=[percent], attack=["none", *WHITE]):
            yield where, svm_under(work.scale["pair"]["data"], percent, where["attack"], 0.1)


def figure6b(work: TableWork) -> Rows:
    """The linear SVM against ε."""
    settings = work.scale["pair"]
    for defence, percent in ((NONE, None), (FRONT_END, settings["percent"])):
        attacks = list(WHITE) if percent else ["semi-white"]
        for where in work.todo(defence=[defence], attack=attacks, ε=settings["epsilons"]):
            yield where, svm_under(settings["data"], percent, where["attack"], where["ε"])


def figure7(work: TableWork) -> Rows:
    """Two layers of 10 neurons on two digits under the locally linear attack, one step and many."""
    settings = work.scale["two_layer"]
    _, test = pair(work.scale["pair"]["data"])
    some = first(test, settings.get("test"))
    for where in work.todo(defence=[NONE, FRONT_END]):
        yield where, {"clean": share(holds(two_layer(work, where["defence"]), test)), "n": len(test)}
    for defence, gradients in ((NONE, {}), (FRONT_END, {"gradient": GRADIENTS[:3]})):
        attacks = {"attack": ["one step", "many steps"]}
        for where in work.todo(defence=[defence], **gradients, **attacks, ε=settings["epsilons"]):
            tries = [locally_linear(work, **where)]
            yield where, {"robust": share(withstood(two_layer(work, defence), some, tries)), "n": len(some)}
        for where in work.todo(defence=[defence], attack=[TOGETHER], ε=settings["epsilons"]):
            tries = [
                locally_linear(work, defence, attack, where["ε"], gradient)
                for gradient in gradients.get("gradient", [None])
                for attack in attacks["attack"]
            ]
            yield where, {"robust": share(withstood(two_layer(work, defence), some, tries)), "n": len(some)}


def table2(work: TableWork) -> Rows:
    """The CNN within ε = 0.2: each attack through each gradient, and all together."""
    data = images(work, "test", work.scale["attacks"]["test"])
    for where in work.todo(defence=[NONE, FRONT_END]):
        yield where, clean(work, cnn(work, where["defence"]))
    for where in work.todo(defence=[NONE, FRONT_END], attack=[*ATTACKS, TOGETHER]):
        model = cnn(work, where["defence"])
        if where["attack"] == TOGETHER:
            tries = [
                attempt(work, model, gradient, attack)
                for attack in reversed(ATTACKS)
                for gradient in gradients_of(where["defence"])
            ]
            yield where, {"worst": share(withstood(model, data, tries)), "n": len(data)}
            continue
        held = {
            gradient: withstood(model, data, [attempt(work, model, gradient, where["attack"])])
            for gradient in gradients_of(where["defence"])
        }
        yield where, {**of_each(held if where["defence"] == FRONT_END else {}, held.values()), "n": len(data)}


def table6(work: TableWork) -> Rows:
    """Iterative FGSM through BPDA: how many steps, of which size."""
    settings = work.scale["step_sizes"]
    data = images(work, "test", work.scale["attacks"]["test"])
    for where in work.todo(steps=settings["steps"], δ=settings["sizes"]):
        model = cnn(work, FRONT_END)
        options = {"steps": where["steps"], "step_size": where["δ"]}
        held = withstood(model, data, [("iterative_fgsm", model, zn.Linf(EPSILON), options)])
        yield where, {"robust": share(held), "n": len(data)}


def table3(work: TableWork) -> Rows:
    """PGD against the front end alone, adversarial training alone, and both, at several ε."""
    for where in work.todo(defence=[FRONT_END]):
        yield where, clean(work, cnn(work, FRONT_END))
    for where in work.todo(defence=[FRONT_END], ε=[0.1, 0.2, 0.3]):
        data = images(work, "test", work.scale["attacks"]["test"])
        yield where, under_pgd(work, cnn(work, FRONT_END), where["ε"], data, GRADIENTS, "attacks")
    for trained in work.scale["trained"]["epsilons"]:
        for where in work.todo(defence=[TRAINED, BOTH], trained=[trained]):
            yield where, clean(work, trained_within(work, where["defence"], trained))
        for where in work.todo(defence=[TRAINED, BOTH], trained=[trained], ε=sorted({0.1, 0.2, trained})):
            data = images(work, "test", work.scale["trained"]["test"])
            model = trained_within(work, where["defence"], trained)
            gradients = ("bpda", "projection") if where["defence"] == BOTH else ("true",)
            yield where, under_pgd(work, model, where["ε"], data, gradients, "trained")


def table4(work: TableWork) -> Rows:
    """ResNet-32 on CIFAR-10 under PGD at ε = 2/255."""
    settings = work.scale.get("cifar")
    for where in work.todo(defence=[NONE, FRONT_END, TRAINED, BOTH] if settings else []):
        model = resnet(work, where["defence"])
        with colour_source(settings) as source:
            data = on(work, zn.data.load(source, "test", settings["test"]))
        options = {"steps": settings["steps"], "step_size": 0.5 / 255}
        behind_one = where["defence"] in (FRONT_END, BOTH)
        tries: list[Try] = [
            ("pgd", behind(gradient, model, 0.5 / 255) if behind_one else model, zn.Linf(2 / 255), options)
            for gradient in (GRADIENTS[:2] if behind_one else ("true",))
        ]
        held = withstood(model, data, tries)
        yield where, {"clean": share(holds(model, data)), "robust": share(held), "n": len(data)}


def adaptive(work: TableWork) -> Rows:
    """What else breaks the front end at ε = 0.2, each attack alone and all of them."""
    settings = work.scale["adaptive"]
    data, threat = images(work, "test", settings["test"]), zn.Linf(EPSILON)
    model = cnn(work, FRONT_END)
    true, projection, iterated = (behind(gradient, model) for gradient in ("true", "projection", "iterated"))
    pgd = {"steps": 100, "step_size": 0.05, "restarts": settings["restarts"]}
    slow = {"steps": 200, "step_size": 0.01, "restarts": 2}
    smoothed = Smoothed(projection, data.x[:1], 0.1, settings["neighbours"])
    tries: dict[str, Try] = {
        "PGD, true gradient": ("pgd", true, threat, pgd),
        "PGD, iterated projections": ("pgd", iterated, threat, pgd),
        "PGD, 200 steps of 0.01, true gradient": ("pgd", true, threat, slow),
        "the same, mean gradient of neighbours": ("pgd", smoothed, threat, slow),
        "locally linear, all rivals, projection": (
            "locally_linear", projection, threat, {"steps": 100, "step_size": 0.02},
        ),
        "Sparse-RS in the ball, scores only": (
            "sparse_rs", model, threat.as_l0(data.x), {"queries": settings["queries"]},
        ),
    }  # fmt: skip
    for where in work.todo(attack=[*tries, TOGETHER]):
        mine = tries.values() if where["attack"] == TOGETHER else [tries[where["attack"]]]
        yield where, {"robust": share(withstood(model, data, mine)), "n": len(data)}


def figure12(work: TableWork) -> Rows:
    """Carlini & Wagner's ℓ2 attack through BPDA: what it breaks, and how much of that is within the ℓ∞ ball."""
    settings = work.scale["carlini_wagner"]
    for where in work.todo(defence=[FRONT_END]):
        data, model = images(work, "test", settings["test"]), cnn(work, FRONT_END)
        options = {"steps": settings["steps"], "rounds": 5, "step_size": 5e-3, "constant": 1e-2}
        x_adv = zn.attacks.carlini_wagner_l2(model, data.x, data.y, zn.L2(None), ids=data.ids, **options)
        broken = ~holds(model, replace(data, x=x_adv))
        outside = zn.distances.linf(data.x, x_adv).cpu() > EPSILON
        lengths = zn.distances.l2(data.x, x_adv).cpu()[broken]
        yield where, {
            "accuracy": share(~broken),
            "outside": share(outside),
            "within": share(~(broken & ~outside)),
            "ℓ2": float(lengths.median()) if len(lengths) else 0.0,
            "n": len(data),
        }  # fmt: skip


def figure8(work: TableWork) -> Rows:
    """How many of the coefficients kept are still the same under attack."""
    settings = work.scale["pair"]
    for where in work.todo(model=["SVM, ε = 0.1"]):
        _, test = pair(settings["data"])
        model, _ = svm(settings["data"], settings["percent"])
        found = attacked(
            "fgsm", svm_behind(model, "projection", settings["percent"], 0.1), test, zn.Linf(0.1)
        )
        yield where, overlap(of_pair(settings["percent"]), test.x, found)
    for where in work.todo(model=["CNN, ε = 0.2"]):
        data = images(work, "test", work.scale["attacks"]["test"])
        *_, v = steepest(cnn(work, FRONT_END), data, 100)
        yield where, overlap(cnn_front_end(work), data.x, v)


def figure10(work: TableWork) -> Rows:
    """Share of the CNN's ReLUs that each step of 0.01 flips, of cross-entropy through BPDA (also Fig. 9)."""
    for where in work.todo(defence=[NONE, FRONT_END]):
        model, data = cnn(work, where["defence"]), images(work, "test", work.scale["attacks"]["test"])
        on_before, shares = switches(model, data.x), []
        for v in steepest(model, data, 20 if where["defence"] == NONE else 100):
            on_now = switches(model, v)
            shares.append(float(flipped_share(on_before, on_now).mean()))
            on_before = on_now
        by_step = [round(one, 5) for one in shares]
        yield where, {"first": shares[0], "last": shares[-1], "by_step": by_step, "n": len(data)}


def certain(work: TableWork) -> Rows:
    """Share of images for which no change of size ε changes which coefficients are kept, by three conditions."""
    settings = work.scale["pair"]
    for where in work.todo(images=["of the SVM"], ε=[0.1]):
        _, test = pair(settings["data"])
        yield where, certainty(of_pair(settings["percent"]), test.x, where["ε"])
    for where in work.todo(images=["of the CNN"], ε=[0.01, 0.05, 0.2]):
        data = images(work, "test", work.scale["attacks"]["test"])
        yield where, certainty(cnn_front_end(work), data.x.cpu(), where["ε"])


def sparse(work: TableWork) -> Rows:
    """Beyond the paper: the cascade of sparse attacks, behind a front end and not."""
    settings = work.scale["sparse"]
    trainings = ["standard", "sTRADES"]
    if "start" in work.scale["strades"]:
        trainings.insert(1, work.scale["strades"]["start"])
    for where in work.todo(training=trainings, defence=[NONE, FRONT_END]):
        yield where, clean(work, sparsely(work, **where))
    data = images(work, "test", settings["test"])
    for training in trainings:
        for defence, gradient in ((NONE, None), (FRONT_END, "bpda"), (FRONT_END, "projection")):
            named = {} if gradient is None else {"gradient": [gradient]}
            missing = list(work.todo(training=[training], defence=[defence], **named, k=settings["k"]))
            if not missing:
                continue
            model = sparsely(work, training, defence)
            seen = model if gradient is None else behind(gradient, model)
            run = zn.evaluate(
                seen, data, [zn.L0(where["k"]) for where in missing],
                steps=settings["steps"], queries=settings["queries"],
            )  # fmt: skip
            for where in missing:
                yield where, {"robust": float(run.robust_accuracy[where["k"]]), "n": len(data)}


# -- attacks and what withstands them ----------------------------------------------------------------------


ATTACKS = (
    "FGSM", "locally linear, one step", "iterative FGSM", "momentum FGSM", "locally linear", "PGD",
)  # fmt: skip


def attempt(work: TableWork, model: nn.Module, gradient: str | None, attack: str) -> Try:
    """An attack of Table II, through one gradient of the front end if the model has one."""
    settings = work.scale["attacks"]
    long = {"steps": settings["steps"], "step_size": 0.01}
    name, options = {
        "FGSM": ("fgsm", {}),
        "locally linear, one step": ("locally_linear", {"steps": 1, "step_size": EPSILON}),
        "iterative FGSM": ("iterative_fgsm", long),
        "momentum FGSM": ("momentum_fgsm", long),
        "locally linear": ("locally_linear", {"steps": 100, "step_size": 0.05, "rivals": settings["rivals"]}),
        "PGD": ("pgd", {"steps": 100, "step_size": 0.05, "restarts": settings["restarts"]}),
    }[attack]
    size = float(options.get("step_size", EPSILON))
    return name, model if gradient is None else behind(gradient, model, size), zn.Linf(EPSILON), options


def gradients_of(defence: str) -> Sequence[str | None]:
    return GRADIENTS if defence == FRONT_END else (None,)


def under_pgd(
    work: TableWork, model: nn.Module, epsilon: float, data: Dataset, gradients: Sequence[str], part: str
) -> dict[str, Any]:
    """Right answers under 100 steps of PGD through every one of these gradients."""
    options = {"steps": 100, "step_size": epsilon / 4, "restarts": work.scale[part]["restarts"]}
    tries: list[Try] = [
        ("pgd", model if gradients == ("true",) else behind(gradient, model, epsilon / 4), zn.Linf(epsilon), options)
        for gradient in gradients
    ]  # fmt: skip
    return {"robust": share(withstood(model, data, tries)), "n": len(data)}


def withstood(model: nn.Module, data: Dataset, tries: Iterable[Try]) -> Tensor:
    """Which images the model still gets right whatever is tried; later attacks see only what is left."""
    right = holds(model, data)
    for attack, seen, threat, options in tries:
        left = right.nonzero().flatten()
        some = rows_of(data, left)
        right[left] = holds(model, replace(some, x=attacked(attack, seen, some, threat, **options)))
    return right


def attacked(attack: str, seen: nn.Module, data: Dataset, threat: Any, **options: Any) -> Tensor:
    """What the attack makes of the data, checked to be within the threat model."""
    made = [data.x[:0]]
    for rows in torch.arange(len(data)).split(500):
        x, y, ids = data.x[rows], data.y[rows], data.ids[rows]
        made.append(zn.attacks.catalogue[attack].function(seen, x, y, threat, ids=ids, **options))
        assert bool(threat.contains(x, made[-1]).all())
    return torch.cat(made)


def holds(model: nn.Module, data: Dataset) -> Tensor:
    """Which examples the model gets right, on the CPU."""
    with torch.no_grad():
        answers = [model(x).argmax(1) for x in data.x.split(500)]
    return (torch.cat([data.y[:0], *answers]) == data.y).cpu()


def share(right: Tensor) -> float:
    return float(right.double().mean())


def of_each(held: dict[str, Tensor], together: Iterable[Tensor]) -> dict[str, float]:
    """Right answers through each gradient, and of those that withstood all."""
    return {name: share(one) for name, one in held.items()} | {
        "worst": share(torch.stack(list(together)).all(0))
    }


def clean(work: TableWork, model: nn.Module) -> dict[str, Any]:
    """Accuracy on the whole test set."""
    data = images(work, "test", None)
    return {"clean": share(holds(model, data)), "n": len(data)}


def behind(gradient: str, model: nn.Module, step_size: float = 0.05) -> nn.Module:
    """The model with another gradient of the front end that it has."""
    assert isinstance(model, Classifier)
    front_end = SparsifyingFrontEnd(
        **(model.arguments["front_end"] | {"gradient": gradient, "step_size": step_size})
    )
    return front_end.wrap(model)


class Smoothed(nn.Module):
    """The model's answer, with the gradient of its mean over neighbours: a front end jumps, its mean does not."""

    def __init__(self, model: nn.Module, like: Tensor, reach: float, neighbours: int) -> None:
        super().__init__()
        self.model = model
        noise = torch.rand(neighbours, *like.shape, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", (reach * (2 * noise - 1)).to(like))

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        if not z.requires_grad:
            return z
        around = torch.stack([self.model((x + shift).clamp(0, 1)) for shift in self.noise]).mean(0)
        return z.detach() + around - around.detach()


# -- two digits: the linear SVM and the network of two layers ----------------------------------------------


@functools.cache
def pair(name: str) -> tuple[Dataset, Dataset]:
    """All images of 3 and 7, shuffled and split as the authors do; 3 is class 0."""
    parts = [zn.data.load(name, split) for split in ("train", "test")]
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    # the threes before the sevens: of another order, the split would be another
    chosen = torch.cat([(y == digit).nonzero().flatten() for digit in (3, 7)])
    x, y = shuffle(x[chosen].numpy(), (y[chosen] == 7).long().numpy(), random_state=1234)
    x, x_test, y, y_test = train_test_split(x, y, stratify=y, random_state=1234)

    def made(x: Any, y: Any, split: str) -> Dataset:
        ids = torch.arange(len(x))
        return Dataset(torch.from_numpy(x), torch.from_numpy(y), ids, name, split, ("3", "7"))

    return made(x, y, "train"), made(x_test, y_test, "test")


def of_pair(percent: float) -> SparsifyingFrontEnd:
    return SparsifyingFrontEnd("db5", percent / 100)


class Svm(nn.Module):
    """g(x) = wᵀ(2x - 1) + b as two logits whose difference it is."""

    def __init__(self, svm: LinearSVC) -> None:
        super().__init__()
        w, b = torch.from_numpy(svm.coef_[0]).float(), torch.from_numpy(svm.intercept_).float()
        self.linear = nn.Linear(len(w), 2)
        self.linear.weight.data = torch.stack([-w, w]) / 2
        self.linear.bias.data = torch.cat([-b, b]) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((2 * x - 1).flatten(1))


@functools.cache
def svm(name: str, percent: float | None) -> tuple[Svm, nn.Module]:
    """The SVM that learnt behind a front end (or without, None): alone, and behind it."""
    train, _ = pair(name)
    front_end = None if percent is None else of_pair(percent)
    x = train.x if front_end is None else front_end(train.x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 iterations are not enough, here as there
        machine = LinearSVC(loss="hinge", random_state=65 if front_end is None else 1234)
        model = Svm(machine.fit((2 * x - 1).flatten(1).numpy(), train.y.numpy())).eval()
    return model, model if front_end is None else front_end.wrap(model)


def svm_behind(model: Svm, gradient: Any, percent: float, epsilon: float) -> nn.Module:
    return SparsifyingFrontEnd("db5", percent / 100, gradient, step_size=epsilon).wrap(model)


def svm_under(name: str, percent: float | None, attack: str, epsilon: float) -> dict[str, Any]:
    """Right answers of an SVM under the attack of one adversary; of a linear model one step is the best."""
    _, test = pair(name)
    model, whole = svm(name, percent)
    if attack != "none":
        seen = model if percent is None else svm_behind(model, WHITE[attack], percent, epsilon)
        test = replace(test, x=attacked("fgsm", seen, test, zn.Linf(epsilon)))
    return {"accuracy": share(holds(whole, test)), "n": len(test)}


def two_layer(work: TableWork, defence: str) -> Classifier:
    """Two layers of 10 neurons, of plain training."""
    settings = work.scale["two_layer"]

    def train() -> tuple[Classifier, dict[str, Any]]:
        data, _ = pair(work.scale["pair"]["data"])
        front_end = {"wavelet": "db5", "keep_fraction": settings["percent"] / 100}
        model = zn.models.build(
            "two_layer", image_size=data.x.shape[2], front_end=front_end if defence == FRONT_END else None
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4)
        steps = settings["epochs"] * -(-len(data) // 128)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(1, settings["epochs"] + 1):
            for rows in Streams(0, data.ids, "shuffle").order(epoch).split(128):
                optimizer.zero_grad()
                F.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
                optimizer.step()
                schedule.step()
        return model, {"epochs": settings["epochs"]}

    # small, and its data are: the CPU is fast enough
    return work.model(f"two layers, {defence}", train).cpu()


def locally_linear(work: TableWork, defence: str, attack: str, ε: float, gradient: str | None = None) -> Try:
    """The attack on two layers, of one step or many, through one gradient of the front end if there is one."""
    settings, model = work.scale["two_layer"], two_layer(work, defence)
    steps = settings["refined_steps" if gradient == "iterated" else "steps"]
    options = {"steps": 1, "step_size": ε} if attack == "one step" else {"steps": steps, "step_size": 0.01}
    seen = model if gradient is None else behind(gradient, model, 0.01)
    return "locally_linear", seen, zn.Linf(ε), options


# -- the CNN -----------------------------------------------------------------------------------------------


def images(work: TableWork, split: str, limit: int | None) -> Dataset:
    """Data of the CNN."""
    return on(work, zn.data.load(work.scale["cnn"]["data"], split, limit))


def on(work: TableWork, data: Dataset) -> Dataset:
    """The data where the work is done."""
    return replace(data, x=data.x.to(work.device), y=data.y.to(work.device), ids=data.ids.to(work.device))


def first(data: Dataset, n: int | None) -> Dataset:
    return rows_of(data, torch.arange(len(data))[:n])


def rows_of(data: Dataset, rows: Tensor) -> Dataset:
    rows = rows.to(data.x.device)
    return replace(data, x=data.x[rows], y=data.y[rows], ids=data.ids[rows])


def cnn_front_end(work: TableWork) -> SparsifyingFrontEnd:
    return SparsifyingFrontEnd("coif1", work.scale["cnn"]["percent"] / 100)


def cnn(work: TableWork, defence: str) -> Classifier:
    """The CNN of plain training, behind the front end or not."""
    settings = work.scale["cnn"]
    arguments = {"width": settings["width"]} if "width" in settings else {}
    if defence == FRONT_END:
        front_end = cnn_front_end(work).arguments
        arguments["front_end"] = {name: front_end[name] for name in ("wavelet", "keep_fraction")}
    return learnt(
        work, f"cnn, {defence}",
        model=settings["model"], model_arguments=arguments, epochs=settings["epochs"],
        precision=settings["precision"], limit=settings.get("limit"), batch_size=settings.get("batch_size", 128),
    )  # fmt: skip


def trained_within(work: TableWork, defence: str, epsilon: float) -> Classifier:
    """The CNN of adversarial training, alone or behind the front end, whose projection the training sees."""
    settings = work.scale["trained"]
    start = cnn(work, FRONT_END if defence == BOTH else NONE)
    if defence == BOTH:
        start = behind("projection", start)  # type: ignore[assignment]
    chosen: dict[str, Any] = {"model": start.architecture}
    chosen["model_arguments"] = {
        name: start.arguments[name] for name in ("front_end", "width") if name in start.arguments
    }
    if settings.get("start"):
        chosen = {"initial": start}
    return learnt(
        work, f"cnn, {defence}, trained at {epsilon}",
        method="linf_adversarial", epsilon=epsilon, step_size=epsilon / 3 if settings.get("start") else 0.01,
        precision=work.scale["cnn"]["precision"],
        **chosen, **{name: settings.get(name) for name in ("steps", "epochs", "lr", "limit")},
    )  # fmt: skip


def sparsely(work: TableWork, training: str, defence: str) -> Classifier:
    """A network for the sparse attacks; one that is there already gets the front end without learning anew."""
    settings = work.scale["strades"]
    if training == "standard":
        return cnn(work, defence)
    if "start" in settings:
        model = zn.models.load(ROOT / settings["start"]).to(work.device)
        if defence == FRONT_END:
            model = cnn_front_end(work).wrap(model)  # type: ignore[assignment]
        if training != "sTRADES":
            return model
        chosen: dict[str, Any] = {"initial": model}
    else:
        front_end = {"front_end": cnn_front_end(work).arguments} if defence == FRONT_END else {}
        arguments = {"width": settings["width"]} | front_end
        chosen = {"model": settings["model"], "model_arguments": arguments}
    return learnt(
        work, f"sTRADES, {defence}",
        method="strades", k=settings["k"], multi_k=4.0, steps=10, beta=4.0, average=0.99,
        **chosen, **{name: settings.get(name) for name in ("epochs", "lr", "limit")},
    )  # fmt: skip


def learnt(work: TableWork, name: str, *, initial: Classifier | None = None, **settings: Any) -> Classifier:
    """The model of that name, trained on the images of the CNN."""

    def train() -> tuple[Classifier, dict[str, Any]]:
        return trained_as(work, initial, {"data": work.scale["cnn"]["data"], **settings})

    return work.model(name, train)


def trained_as(
    work: TableWork, initial: Classifier | None, settings: dict[str, Any]
) -> tuple[Classifier, dict[str, Any]]:
    """A training, and what its plan says."""
    with tempfile.TemporaryDirectory() as folder:
        if initial is not None:
            zn.models.save(initial, Path(folder) / "initial")
            settings = {"initial": Path(folder) / "initial", **settings}
        plan = TrainingPlan(out=Path(folder) / "out", validation=0.0, device=work.device.type, **settings)
        return zn.training.train(plan).model, plan.identity()


# -- what happens inside -----------------------------------------------------------------------------------


def steepest(model: nn.Module, data: Dataset, steps: int) -> Iterator[Tensor]:
    """Steps of 0.01 up the cross-entropy within ε = 0.2 that do not stop at the first success, one by one."""
    v, (low, high) = data.x, zn.Linf(EPSILON).bounds(data.x)
    for _ in range(steps):
        leaf = v.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), data.y, reduction="sum"), leaf)
        v = (v + 0.01 * slope.sign()).clamp(low, high)
        yield v


def switches(model: nn.Module, x: Tensor) -> np.ndarray:
    """Which ReLUs are on, (example, unit)."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, given, out: seen.append((out > 0).flatten(1)))
        for layer in model.modules()
        if isinstance(layer, nn.ReLU)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return torch.cat(seen, 1).cpu().numpy()


def overlap(front_end: SparsifyingFrontEnd, x: Tensor, x_adv: Tensor) -> dict[str, Any]:
    """Of the coefficients kept, how many are kept under attack too."""
    kept = front_end.support(x.cpu())
    both = support_overlap(kept.numpy(), front_end.support(x_adv.cpu()).numpy())
    k = int(kept[0].sum())
    histogram = np.bincount(both, minlength=k + 1).tolist()
    return {"same": float(both.mean()), "of": k, "histogram": histogram, "n": len(x)}


def certainty(front_end: SparsifyingFrontEnd, x: Tensor, epsilon: float) -> dict[str, Any]:
    """Propositions 1 and 3: the published condition, and two that are sufficient for any image."""
    basis = front_end.basis(x[:1])
    c, lengths = front_end.coefficients(x).flatten(1).double(), basis.functions().abs().sum(1)
    found = front_end_gain.support_is_certain(c, lengths, front_end.kept(basis)[0], epsilon)
    return {name: share(one) for name, one in found._asdict().items()} | {"n": len(x)}


# -- CIFAR-10 ----------------------------------------------------------------------------------------------


def resnet(work: TableWork, defence: str) -> Classifier:
    """ResNet-32, of plain or adversarial training (5 steps of PGD), behind a front end or not."""
    settings = work.scale["cifar"]
    arguments: dict[str, Any] = {}
    if defence in (FRONT_END, BOTH):
        percents = settings["percents" if defence == FRONT_END else "percents_trained"]
        arguments["front_end"] = {"wavelet": "sym9", "keep_fraction": [p / 100 for p in percents]}
    plan: dict[str, Any] = {name: settings[name] for name in ("model", "lr", "crop", "flip", "epochs")}
    if defence in (TRAINED, BOTH):
        plan |= {"method": "linf_adversarial", "epsilon": 2 / 255, "steps": 5, "step_size": 1 / 255}
        plan["epochs"] = settings["trained_epochs"]

    def train() -> tuple[Classifier, dict[str, Any]]:
        with colour_source(settings) as source:
            return trained_as(work, None, {"data": source, "model_arguments": arguments, **plan})

    return work.model(f"resnet32, {defence}", train)


@contextmanager
def colour_source(settings: dict[str, Any]) -> Iterator[str]:
    """The data set that the scale names; where it names none, synthetic images in folders."""
    if "data" in settings:
        yield settings["data"]
        return
    rng, side = np.random.default_rng(0), settings["side"]
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            for i in range(settings["images"]):
                where = Path(folder) / split / f"class{i % 2}"
                where.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
                    where / f"{i}.png"
                )
        yield f"folder:{folder}"
