"""The tables and figures of Gopalakrishnan et al. 2020 on MNIST, and what else can be asked of its front end.

    python reproductions/gopalakrishnan2020_front_end/reproduce.py --scale cpu
    python reproductions/gopalakrishnan2020_front_end/reproduce.py --scale cpu --only svm
    python reproductions/gopalakrishnan2020_front_end/reproduce.py --scale paper --device cuda

Each part writes measured-SCALE-PART.json beside this file, row by row.  MNIST and CIFAR-10 are looked for in
$ZERONORM_DATA or on the Hub; trained networks are kept in runs/gopalakrishnan2020 and used again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.svm import LinearSVC
from sklearn.utils import shuffle
from torch import Tensor, nn

import zeronorm as zn
from zeronorm.data import Dataset
from zeronorm.defenses import SparsifyingFrontEnd
from zeronorm.metrics import flipped_share, support_overlap
from zeronorm.theory import front_end_gain
from zeronorm.training.linf_adversarial import train_within_linf

HERE, KEPT = Path(__file__).parent, Path("runs/gopalakrishnan2020")
GRADIENTS = ("bpda", "projection", "iterated")
SCALES: dict[str, dict[str, Any]] = {
    "cpu": {
        "epochs": 5, "images": 200, "steps": 100, "restarts": 5, "rivals": 3, "binary_steps": (200, 50),
        "at_images": 15_000, "at_steps": 7, "at_epochs": 3, "at_epsilons": (0.2,), "sparse_images": 50,
        "sparse_steps": 60, "queries": 300, "cifar_images": 0, "binary_images": 300,
        "adaptive_images": 50, "adaptive_restarts": 10, "neighbours": 4, "at_test_images": 100, "at_restarts": 1,
    },
    "paper": {
        "epochs": 20, "images": 10_000, "steps": 1000, "restarts": 100, "rivals": 9, "binary_steps": (1000, 1000),
        "at_images": 60_000, "at_steps": 40, "at_epochs": 20, "at_epsilons": (0.1, 0.2, 0.3), "sparse_images": 1000,
        "sparse_steps": 10_000, "queries": 10_000, "cifar_images": 10_000, "binary_images": 3609,
        "adaptive_images": 1000, "adaptive_restarts": 1000, "neighbours": 16, "at_test_images": 10_000,
        "at_restarts": 100,
    },
}  # fmt: skip
MNIST_FRONT_END = {"wavelet": "coif1", "keep_fraction": 0.035}

Tell = Callable[..., None]


def holds(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which examples the model gets right, on the CPU."""
    weight = next(model.parameters())
    with torch.no_grad():
        answers = [model(some.to(weight.device)).argmax(1).cpu() for some in x.split(500)]
    return torch.cat(answers) == y.cpu()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(holds(model, x, y).double().mean())


def placed(data: Dataset, device: str | torch.device) -> Dataset:
    return replace(data, x=data.x.to(device), y=data.y.to(device), ids=data.ids.to(device))


def attacked(
    model: nn.Module, data: Dataset, attack: str, threat: Any, **options: Any
) -> tuple[Tensor, float]:
    """What the attack makes of the data, on the CPU, and the seconds it took."""
    began, made = time.perf_counter(), []
    there = placed(data, next(model.parameters()).device)
    for rows in torch.arange(len(data)).split(500):
        x, y, ids = there.x[rows], there.y[rows], there.ids[rows]
        made.append(zn.attacks.catalogue[attack].function(model, x, y, threat, ids=ids, **options))
        assert bool(threat.contains(x, made[-1]).all())
    return torch.cat(made).cpu(), round(time.perf_counter() - began, 1)


def behind(gradient: str, model: nn.Module, step_size: float = 0.05, **front_end: Any) -> nn.Module:
    return SparsifyingFrontEnd(**front_end, gradient=gradient, step_size=step_size).wrap(model)


# -- Table I and Fig. 6: the linear SVM --------------------------------------------------------------------


def threes_and_sevens() -> tuple[Dataset, Dataset]:
    """All 70,000 images pooled, the two digits chosen, shuffled and split as the authors do; 3 is class 0."""
    parts = [zn.data.load("mnist", split) for split in ("train", "test")]
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    # the threes before the sevens: of another order, the split would be another
    chosen = torch.cat([(y == digit).nonzero().flatten() for digit in (3, 7)])
    images, labels = shuffle(x[chosen].numpy(), (y[chosen] == 7).long().numpy(), random_state=1234)
    a, b, labels_a, labels_b = train_test_split(images, labels, stratify=labels, random_state=1234)

    def made(images: Any, labels: Any, split: str) -> Dataset:
        return Dataset(
            torch.from_numpy(images), torch.from_numpy(labels), torch.arange(len(images)), "mnist", split, ("3", "7")
        )  # fmt: skip

    return made(a, labels_a, "train"), made(b, labels_b, "test")


class Svm(nn.Module):
    """g(x) = wᵀ(2x - 1) + b as two logits whose difference it is."""

    def __init__(self, svm: LinearSVC) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 2)
        w, b = torch.from_numpy(svm.coef_[0]).float(), torch.from_numpy(svm.intercept_).float()
        self.linear.weight.data = torch.stack([-w, w]) / 2
        self.linear.bias.data = torch.cat([-b, b]) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((2 * x - 1).flatten(1))


def fitted(x: Tensor, y: Tensor, seed: int) -> Svm:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1000 iterations are not enough, here as there
        return Svm(
            LinearSVC(loss="hinge", random_state=seed).fit((2 * x - 1).flatten(1).numpy(), y.numpy())
        ).eval()


def svm(scale: dict[str, Any], device: str, tell: Tell) -> None:
    train, test = threes_and_sevens()
    plain = fitted(train.x, train.y, 65)
    epsilons = [round(0.025 * i, 3) for i in range(1, 13)]
    tell(defence="none", attack="none", accuracy=accuracy(plain, test.x, test.y), n=len(test))
    for epsilon in epsilons:
        x_adv, _ = attacked(plain, test, "fgsm", zn.Linf(epsilon))
        tell(defence="none", attack="semi-white", epsilon=epsilon, accuracy=accuracy(plain, x_adv, test.y))
    for percent in (1, 1.5, 2, 2.5, 3, 4, 5, 10):
        front_end = SparsifyingFrontEnd("db5", percent / 100)
        defended = fitted(front_end(train.x), train.y, 1234)
        whole = front_end.wrap(defended)
        tell(defence="front end", percent=percent, attack="none", accuracy=accuracy(whole, test.x, test.y))
        for name, gradient in (("semi-white", "bpda"), ("white", "projection"), ("iterated", "iterated")):
            for epsilon in epsilons if percent == 2 else [0.1]:
                model = SparsifyingFrontEnd("db5", percent / 100, gradient, step_size=epsilon).wrap(defended)
                x_adv, _ = attacked(model, test, "fgsm", zn.Linf(epsilon))
                row = {"defence": "front end", "percent": percent, "attack": name, "epsilon": epsilon}
                overlap = support_overlap(front_end.support(test.x).numpy(), front_end.support(x_adv).numpy())
                right = accuracy(whole, x_adv, test.y)
                tell(
                    **row,
                    accuracy=right,
                    overlap=float(overlap.mean()),
                    histogram=np.bincount(overlap).tolist(),
                )
        if percent == 2:
            basis = front_end.basis(test.x[:1])
            lengths, c = basis.functions().abs().sum(1), front_end.coefficients(test.x).flatten(1).double()
            certain = front_end_gain.support_is_certain(c, lengths, 15, 0.1)
            tell(certain={name: float(found.double().mean()) for name, found in certain._asdict().items()})


# -- Fig. 7: two layers ------------------------------------------------------------------------------------


def learnt(model: nn.Module, data: Dataset, epochs: int) -> nn.Module:
    """Plain training: the ball of radius 0."""
    train_within_linf(model, data, zn.Linf(0.0), steps=1, step_size=0.0, epochs=epochs, lr=0.1)
    return model


def two_layer(scale: dict[str, Any], device: str, tell: Tell) -> None:
    train, test = threes_and_sevens()
    some = replace(
        test,
        x=test.x[: scale["binary_images"]],
        y=test.y[: scale["binary_images"]],
        ids=test.ids[: scale["binary_images"]],
    )
    front_end = {"wavelet": "db5", "keep_fraction": 0.03}
    for name, given in (("none", None), ("front end", front_end)):
        model = learnt(zn.models.build("two_layer", front_end=given), train, 20)
        tell(defence=name, attack="none", accuracy=accuracy(model, test.x, test.y), n=len(test))
        for epsilon in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
            row, threat = {"defence": name, "epsilon": epsilon, "n": len(some)}, zn.Linf(epsilon)
            right = torch.ones(len(some), dtype=torch.bool)
            for gradient in GRADIENTS if given else ("true",):
                seen = behind(gradient, model, 0.01, **given) if given else model
                for steps, size in ((1, epsilon), (scale["binary_steps"][gradient == "iterated"], 0.01)):
                    x_adv, _ = attacked(seen, some, "locally_linear", threat, steps=steps, step_size=size)
                    held = holds(model, x_adv, some.y)
                    right &= held
                    tell(**row, gradient=gradient, steps=steps, accuracy=float(held.double().mean()))
            tell(**row, gradient="worst case", accuracy=float(right.double().mean()))


# -- Tables II, III, V and VI: the CNN ---------------------------------------------------------------------


def cnn(name: str, scale: dict[str, Any], device: str, front_end: dict[str, Any] | None = None) -> nn.Module:
    """A network trained for this, made once."""
    out = KEPT / name
    if not (out / "model.json").exists():
        plan = zn.training.TrainingPlan(
            data="mnist", model="four_layer_cnn", epochs=scale["epochs"], validation=0.0, precision="bfloat16",
            model_arguments={"front_end": front_end} if front_end else {}, out=out, device=device,
        )  # fmt: skip
        zn.training.train(plan)
    return zn.models.load(out).to(device)


def against(
    model: nn.Module, data: Dataset, tell: Tell, gradients: tuple[str, ...], attacks: dict[str, dict[str, Any]],
    epsilon: float = 0.2, **facts: Any,
) -> None:  # fmt: skip
    """Each attack through each gradient, and the worst case of each attack's."""
    threat, right = zn.Linf(epsilon), torch.ones(len(data), dtype=torch.bool)
    for name, options in attacks.items():
        worst = torch.ones(len(data), dtype=torch.bool)
        attack = name.partition(" ")[0]
        for gradient in gradients:
            size = options.get("step_size", epsilon)
            seen = behind(gradient, model, size, **MNIST_FRONT_END) if gradient != "none" else model
            x_adv, seconds = attacked(seen, data, attack, threat, **options)
            held = holds(model, x_adv, data.y)
            worst &= held
            tell(**facts, epsilon=epsilon, attack=name, gradient=gradient, options=options, n=len(data),
                 accuracy=float(held.double().mean()), seconds=seconds)  # fmt: skip
        right &= worst
        if len(gradients) > 1:
            tell(
                **facts,
                epsilon=epsilon,
                attack=name,
                gradient="worst case",
                accuracy=float(worst.double().mean()),
            )
    tell(**facts, epsilon=epsilon, attack="all", gradient="worst case", accuracy=float(right.double().mean()))


def networks(scale: dict[str, Any], device: str, tell: Tell) -> None:
    whole, some = zn.data.load("mnist", "test"), zn.data.load("mnist", "test", scale["images"])
    long = {"steps": scale["steps"], "step_size": 0.01}
    attacks: dict[str, dict[str, Any]] = {
        "fgsm": {},
        "locally_linear single": {"steps": 1, "step_size": 0.2},
        "iterative_fgsm": long,
        "momentum_fgsm": long,
        "locally_linear": {"steps": 100, "step_size": 0.05, "rivals": scale["rivals"]},
        "pgd": {"steps": 100, "step_size": 0.05, "restarts": scale["restarts"]},
    }
    plain = cnn("cnn", scale, device)
    tell(defence="none", attack="none", accuracy=accuracy(plain, whole.x, whole.y), n=len(whole))
    against(plain, some, tell, ("none",), attacks, defence="none")
    defended = cnn("cnn-front-end", scale, device, MNIST_FRONT_END)
    tell(defence="front end", attack="none", accuracy=accuracy(defended, whole.x, whole.y), n=len(whole))
    against(defended, some, tell, (*GRADIENTS, "true"), attacks, defence="front end")


def budgets(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """Table III: the front end alone at other ε."""
    some = zn.data.load("mnist", "test", scale["images"])
    defended = cnn("cnn-front-end", scale, device, MNIST_FRONT_END)
    for epsilon in (0.1, 0.3):
        pgd = {"pgd": {"steps": 100, "step_size": epsilon / 4, "restarts": scale["restarts"]}}
        against(defended, some, tell, ("bpda", "iterated"), pgd, epsilon, defence="front end")


def step_sizes(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """Table VI: iterative FGSM with BPDA."""
    some = zn.data.load("mnist", "test", scale["images"])
    defended = cnn("cnn-front-end", scale, device, MNIST_FRONT_END)
    seen = behind("bpda", defended, **MNIST_FRONT_END)
    for steps in (20, 100, 1000)[: 3 if scale["images"] > 1000 else 2]:
        for size in (0.01, 0.05, 0.1):
            x_adv, _ = attacked(seen, some, "iterative_fgsm", zn.Linf(0.2), steps=steps, step_size=size)
            tell(steps=steps, step_size=size, accuracy=accuracy(defended, x_adv, some.y), n=len(some))


class Smoothed(nn.Module):
    """The model's answer, with the gradient of its mean over neighbours: a front end jumps, its mean does not."""

    def __init__(self, model: nn.Module, reach: float, neighbours: int) -> None:
        super().__init__()
        self.model = model
        noise = torch.rand(neighbours, 1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", reach * (2 * noise - 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        if not z.requires_grad:
            return z
        around = torch.stack([self.model((x + shift).clamp(0, 1)) for shift in self.noise]).mean(0)
        return z.detach() + around - around.detach()


def adaptive(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """Not in the paper: what else breaks the front end at ε = 0.2."""
    some = zn.data.load("mnist", "test", scale["adaptive_images"])
    defended, threat = cnn("cnn-front-end", scale, device, MNIST_FRONT_END), zn.Linf(0.2)
    true, projection = (behind(gradient, defended, **MNIST_FRONT_END) for gradient in ("true", "projection"))
    pgd = {"steps": 100, "step_size": 0.05, "restarts": scale["adaptive_restarts"]}
    slow = {"steps": 200, "step_size": 0.01, "restarts": 2}
    tries: list[tuple[str, nn.Module, str, Any, dict[str, Any]]] = [
        ("true gradient, restarts", true, "pgd", threat, pgd),
        ("iterated, restarts", behind("iterated", defended, **MNIST_FRONT_END), "pgd", threat, pgd),
        ("true gradient, small steps", true, "pgd", threat, slow),
        (
            "mean gradient of neighbours",
            Smoothed(projection, 0.1, scale["neighbours"]).to(device),
            "pgd",
            threat,
            slow,
        ),
        ("each rival, projection", projection, "locally_linear", threat, {"steps": 100, "step_size": 0.02}),
        ("scores only", defended, "sparse_rs", threat.as_l0(some.x), {"queries": scale["queries"]}),
    ]
    right = torch.ones(len(some), dtype=torch.bool)
    for name, seen, attack, budget, options in tries:
        x_adv, seconds = attacked(seen, some, attack, budget, **options)
        held = holds(defended, x_adv, some.y)
        right &= held
        tell(
            attack=name, by=attack, options=options, accuracy=float(held.double().mean()), n=len(some),
            left=float(right.double().mean()), seconds=seconds,
        )  # fmt: skip


def adversarial(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """Table III and the text: adversarial training, with and without the front end."""
    whole, some = zn.data.load("mnist", "test"), zn.data.load("mnist", "test", scale["at_test_images"])
    for trained in scale["at_epsilons"]:
        for name, front_end in (("adversarial training", None), ("both", MNIST_FRONT_END)):
            out = KEPT / f"at-{trained}{'-front-end' if front_end else ''}"
            if not (out / "model.json").exists():
                start = cnn(f"cnn{'-front-end' if front_end else ''}", scale, device, front_end)
                model = behind("projection", start, **front_end) if front_end else start
                data = placed(zn.data.load("mnist", "train", scale["at_images"]), device)
                history = train_within_linf(
                    model, data, zn.Linf(trained), steps=scale["at_steps"], step_size=trained / 3,
                    epochs=scale["at_epochs"], lr=0.02,
                )  # fmt: skip
                zn.models.save(model, out, training={"epsilon": trained, "history": history})
            model = zn.models.load(out).to(device)
            facts = {"defence": name, "trained": trained}
            tell(**facts, attack="none", accuracy=accuracy(model, whole.x, whole.y), n=len(whole))
            for epsilon in sorted({0.1, 0.2, trained}):
                pgd = {"pgd": {"steps": 100, "step_size": epsilon / 4, "restarts": scale["at_restarts"]}}
                against(
                    model,
                    some,
                    tell,
                    ("bpda", "projection") if front_end else ("none",),
                    pgd,
                    epsilon,
                    **facts,
                )


# -- Figs. 8 to 10: what the attack does inside ------------------------------------------------------------


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
    return torch.cat(seen, 1).numpy()


def inside(scale: dict[str, Any], device: str, tell: Tell) -> None:
    some = zn.data.load("mnist", "test", scale["images"])
    front_end = SparsifyingFrontEnd(**MNIST_FRONT_END)
    for name, given in (("none", None), ("front end", MNIST_FRONT_END)):
        model = cnn("cnn" if given is None else "cnn-front-end", scale, "cpu", given)
        v, before = some.x, switches(model, some.x)
        shares = []
        # steps of 0.01 that do not stop at the first success, as Figs. 9 and 10 follow them
        for _ in range(20 if given is None else 100):
            leaf = v.clone().requires_grad_()
            loss = nn.functional.cross_entropy(model(leaf), some.y, reduction="sum")
            (slope,) = torch.autograd.grad(loss, leaf)
            low, high = zn.Linf(0.2).bounds(some.x)
            v = (v + 0.01 * slope.sign()).clamp(low, high)
            after = switches(model, v)
            shares.append(flipped_share(before, after))
            before = after
        tell(defence=name, flipped_at_first={"mean": float(shares[0].mean()), "largest": float(shares[0].max())},
             flipped_by_step=[round(float(share.mean()), 5) for share in shares])  # fmt: skip
        if given is not None:
            overlap = support_overlap(front_end.support(some.x).numpy(), front_end.support(v).numpy())
            tell(defence=name, overlap=float(overlap.mean()), of=27, histogram=np.bincount(overlap).tolist())
            basis = front_end.basis(some.x[:1])
            c, lengths = front_end.coefficients(some.x).flatten(1).double(), basis.functions().abs().sum(1)
            for epsilon in (0.01, 0.05, 0.2):
                certain = front_end_gain.support_is_certain(c, lengths, 27, epsilon)
                tell(
                    epsilon=epsilon,
                    certain={key: float(found.double().mean()) for key, found in certain._asdict().items()},
                )


# -- beyond the paper: a front end against sparse attacks --------------------------------------------------


def sparse(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """Networks trained plainly and by sTRADES (models/mnist-strades), with and without the front end.

    The plain one behind the front end learnt there; the robust one did not.
    """
    some, whole = zn.data.load("mnist", "test", scale["sparse_images"]), zn.data.load("mnist", "test")
    models: list[tuple[str, str, nn.Module]] = [
        ("none", "standard", cnn("cnn", scale, device)),
        ("front end", "standard", cnn("cnn-front-end", scale, device, MNIST_FRONT_END)),
    ]
    robust = zn.models.load(HERE.parents[1] / "models/mnist-strades").to(device)
    models += [
        ("none", "strades", robust),
        ("front end", "strades", behind("bpda", robust, **MNIST_FRONT_END)),
    ]
    for name, training, model in models:
        clean = accuracy(model, whole.x, whole.y)
        for gradient in ("none",) if name == "none" else ("bpda", "projection"):
            seen = model if name == "none" else behind(gradient, model, **MNIST_FRONT_END)
            run = zn.evaluate(
                seen,
                some,
                [zn.L0(k) for k in (1, 2, 5, 10)],
                steps=scale["sparse_steps"],
                queries=scale["queries"],
            )
            left = {str(k): float(share) for k, share in run.robust_accuracy.items()}
            tell(defence=name, training=training, gradient=gradient, clean=clean, robust=left, n=len(some))


# -- Table IV ----------------------------------------------------------------------------------------------


def cifar(scale: dict[str, Any], device: str, tell: Tell) -> None:
    """ResNet-32 on CIFAR-10; for a GPU."""
    if not scale["cifar_images"]:
        return
    some = zn.data.load("cifar10", "test", scale["cifar_images"])
    for name, front_end in (
        ("none", None),
        ("front end", {"wavelet": "sym9", "keep_fraction": [0.035, 0.01, 0.01]}),
    ):
        out = KEPT / f"resnet32-{name.replace(' ', '-')}"
        if not (out / "model.json").exists():
            plan = zn.training.TrainingPlan(
                data="cifar10", model="resnet32", epochs=160, lr=0.1, crop=4, flip=True, validation=0.0, out=out,
                model_arguments={"front_end": front_end} if front_end else {}, device=device,
            )  # fmt: skip
            zn.training.train(plan)
        model = zn.models.load(out).to(device)
        tell(defence=name, attack="none", accuracy=accuracy(model, some.x, some.y), n=len(some))
        x_adv, _ = attacked(model, some, "pgd", zn.Linf(2 / 255), steps=1000, step_size=0.5 / 255)
        tell(defence=name, attack="pgd", accuracy=accuracy(model, x_adv, some.y), n=len(some))


PARTS: dict[str, Callable[[dict[str, Any], str, Tell], None]] = {
    "svm": svm, "two_layer": two_layer, "networks": networks, "budgets": budgets, "step_sizes": step_sizes,
    "adaptive": adaptive, "adversarial": adversarial, "inside": inside, "sparse": sparse, "cifar": cifar,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    scale = SCALES[asked.scale]
    for part in [asked.only] if asked.only else PARTS:
        rows: list[dict[str, Any]] = []
        out = HERE / f"measured-{asked.scale}-{part}.json"

        def tell(rows: list[dict[str, Any]] = rows, out: Path = out, **row: Any) -> None:
            rows.append(row)
            print(json.dumps(row), flush=True)
            lines = ",\n  ".join(json.dumps(row) for row in rows)
            out.write_text(f'{{"scale": "{asked.scale}", "rows": [\n  {lines}\n]}}\n')

        PARTS[part](scale, asked.device, tell)


if __name__ == "__main__":
    main()
