"""The table of attacks, with what each claims about itself; the tests hold each attack to its claims."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from zeronorm.attacks.carlini_wagner_l0 import carlini_wagner_l0
from zeronorm.attacks.carlini_wagner_l2 import carlini_wagner_l2
from zeronorm.attacks.corner_search import corner_search
from zeronorm.attacks.deepfool import deepfool
from zeronorm.attacks.fmn_l0 import fmn_l0
from zeronorm.attacks.guided_exchange import guided_exchange
from zeronorm.attacks.jsma import jsma
from zeronorm.attacks.locally_linear import locally_linear
from zeronorm.attacks.pgd0 import pgd0
from zeronorm.attacks.pointwise import pointwise
from zeronorm.attacks.saif import saif
from zeronorm.attacks.sigma_zero import sigma_zero
from zeronorm.attacks.signed_gradient import fgsm, iterative_fgsm, momentum_fgsm, pgd, randomized_fgsm
from zeronorm.attacks.sparse_autoattack import sparse_autoattack
from zeronorm.attacks.sparse_fool import sparse_fool
from zeronorm.attacks.sparse_pgd import sparse_pgd
from zeronorm.attacks.sparse_rs import sparse_rs
from zeronorm.attacks.vfga import vfga
from zeronorm.checks import choice
from zeronorm.errors import ArgumentError


@dataclass(frozen=True)
class Attack:
    """One row of the catalogue.

    Attributes:
        function: `(model, x, y, threat, *, seed, ids, **options) -> x_adv`.
        norms: threat models it works on.
        kind: "budget" searches within a given budget, "minimal" for the smallest perturbation.
        knowledge: "white" needs gradients, "black" only scores, "decision" only labels.
        targeted: whether it can aim at a class.
        cost: the option that says how long to search, in updates or queries.
        factor: on linear classifiers it succeeds at budgets of at least this many times the optimum, in all but
            a few of a thousand cases (budgets up to a third of the positions, 500 updates or queries; of an ℓ∞
            budget, 100 updates).
        source: the paper.
        random: whether it draws random numbers; if not, seed and ids change nothing.
    """

    name: str
    function: Callable[..., Tensor]
    norms: tuple[str, ...]
    kind: Literal["budget", "minimal"]
    knowledge: Literal["white", "black", "decision"]
    targeted: bool
    cost: tuple[str, ...]
    factor: float
    source: str
    random: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        keywords = (p for p in parameters if p.kind is p.KEYWORD_ONLY)
        return {p.name: p.default for p in keywords if p.name not in ("seed", "ids", "targeted", "start")}

    def check_options(self, options: dict[str, Any]) -> None:
        """Raise `ArgumentError` if an option is not one of this attack's."""
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options)
                raise ArgumentError(f"{name}: {self.name} has no such option; it has {known}")


_ZHONG = "Zhong, Huang & Liu, ICML 2024"
_CINA, _PINTOR = "Cinà et al., ICLR 2025", "Pintor et al., NeurIPS 2021"
_RS = "Croce et al., AAAI 2022"
_MODAS = "Modas, Moosavi-Dezfooli & Frossard, CVPR 2019"
_KURAKIN, _DONG = "Kurakin et al., ICLR workshop 2017", "Dong et al., CVPR 2018"
_GOPAL = "Gopalakrishnan et al. 2020"
_MOOSAVI = "Moosavi-Dezfooli et al., CVPR 2016"
_CW = "Carlini & Wagner, S&P 2017"

_BUDGET: tuple[tuple[str, ...], Literal["budget"]] = ("L0",), "budget"
_MINIMAL: tuple[tuple[str, ...], Literal["minimal"]] = ("L0",), "minimal"
_LINF: tuple[tuple[str, ...], Literal["budget"]] = ("Linf",), "budget"
_SHORTEST: tuple[tuple[str, ...], Literal["minimal"]] = ("L2",), "minimal"

catalogue: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        # name, function, norms and kind, knowledge, targeted, cost, factor, source
        Attack("sparse_pgd", sparse_pgd, *_BUDGET, "white", True, ("steps",), 1.25, _ZHONG),
        Attack("sparse_rs", sparse_rs, *_BUDGET, "black", True, ("queries",), 1.5, _RS),
        Attack("sparse_autoattack", sparse_autoattack, *_BUDGET, "white", False, ("steps", "queries"), 1.25, _ZHONG),
        Attack("guided_exchange", guided_exchange, *_BUDGET, "white", True, ("steps",), 1.25, "this library"),
        Attack("pgd0", pgd0, *_BUDGET, "white", True, ("steps",), 1.25, "Croce & Hein, ICCV 2019"),
        Attack("saif", saif, *_BUDGET, "white", True, ("steps",), 1.5, "Imtiaz et al. 2022"),
        Attack("sigma_zero", sigma_zero, *_MINIMAL, "white", True, ("steps",), 1.25, _CINA, random=False),
        Attack("fmn_l0", fmn_l0, *_MINIMAL, "white", True, ("steps",), 1.25, _PINTOR, random=False),
        Attack("vfga", vfga, *_MINIMAL, "white", True, ("steps",), 1.25, "Césaire et al. 2020"),
        Attack("corner_search", corner_search, *_MINIMAL, "black", False, ("queries",), 1.0, "Croce & Hein, ICCV 2019"),
        Attack("pointwise", pointwise, *_MINIMAL, "decision", True, ("queries",), 2.0, "Schott et al., ICLR 2019"),
        Attack("sparse_fool", sparse_fool, *_MINIMAL, "white", False, ("steps",), 2.5, _MODAS, random=False),
        Attack("jsma", jsma, *_MINIMAL, "white", True, (), 2.5, "Papernot et al., EuroS&P 2016", random=False),
        Attack("carlini_wagner_l0", carlini_wagner_l0, *_MINIMAL, "white", True, ("steps",), 1.5, _CW, random=False),
        Attack("fgsm", fgsm, *_LINF, "white", True, (), 1.5, "Goodfellow et al., ICLR 2015", random=False),
        Attack("randomized_fgsm", randomized_fgsm, *_LINF, "white", True, (), 8.0, "Tramèr et al., ICLR 2018"),
        Attack("iterative_fgsm", iterative_fgsm, *_LINF, "white", True, ("steps",), 1.5, _KURAKIN, random=False),
        Attack("momentum_fgsm", momentum_fgsm, *_LINF, "white", True, ("steps",), 1.5, _DONG, random=False),
        Attack("pgd", pgd, *_LINF, "white", True, ("steps",), 1.5, "Madry et al., ICLR 2018"),
        Attack("locally_linear", locally_linear, *_LINF, "white", False, ("steps",), 1.0, _GOPAL, random=False),
        Attack("deepfool", deepfool, *_SHORTEST, "white", False, ("steps",), 1.05, _MOOSAVI, random=False),
        Attack("carlini_wagner_l2", carlini_wagner_l2, *_SHORTEST, "white", True, ("steps",), 1.5, _CW, random=False),
    )
}  # fmt: skip


def get(name: str) -> Attack:
    """The catalogue's entry of that name; hyphens may stand for underscores."""
    word, colon, _ = str(name).partition(":")
    if colon and word.replace("-", "_") in catalogue:
        raise ArgumentError(
            f"attack: expected a name, got {name!r}; options go into zeronorm.attacks.Stage({word!r}, "
            "{name: value})"
        )
    return catalogue[choice("attack", str(name).replace("-", "_"), tuple(catalogue))]
