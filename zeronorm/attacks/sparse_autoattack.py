"""sparse-AutoAttack (Zhong, Huang & Liu 2024): searches in a row, each on the survivors of the last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zeronorm import checks, losses
from zeronorm.attacks.batch_under_attack import Model, attacking, filled_up
from zeronorm.attacks.guided_exchange import guided_exchange
from zeronorm.attacks.sparse_pgd import sparse_pgd
from zeronorm.attacks.sparse_rs import sparse_rs
from zeronorm.modules import evaluation_mode
from zeronorm.projections import top_k
from zeronorm.threat_model import L0


@dataclass(frozen=True)
class Stage:
    """One search of a cascade: the name of an attack in the catalogue, and its options."""

    attack: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The attack's name, with the option that tells this stage from others of the same attack."""
        variant = self.options.get("gradient")
        return f"{self.attack} ({variant})" if variant else self.attack


Version = Literal["published", "plus"]


def stages(steps: int = 10_000, queries: int = 10_000, version: Version = "published") -> tuple[Stage, ...]:
    """The searches of the cascade, "published" or "plus": see `sparse_autoattack`."""
    checks.choice("version", version, ("published", "plus"))
    if version == "published":
        return (
            Stage("sparse_pgd", {"steps": steps, "gradient": "unprojected"}),
            Stage("sparse_pgd", {"steps": steps, "gradient": "projected"}),
            Stage("sparse_rs", {"queries": queries}),
        )
    return (
        Stage("guided_exchange", {"steps": 3 * steps, "warm_up": -(-steps // 2)}),
        Stage("sparse_rs", {"queries": -(-queries // 2)}),
    )


def sparse_autoattack(
    model: Model,
    x: Float[Tensor, "b ..."],
    y: Int[Tensor, "b"],
    threat: L0,
    *,
    steps: int = 10_000,
    queries: int = 10_000,
    version: Version = "published",
    seed: int = 0,
    ids: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b ..."]:
    """Change at most k pixels so that the model errs, by an ensemble of white-box and black-box searches.

    Source: Zhong, Huang & Liu 2024, section 4.2 and appendix B: sparse-PGD with the unprojected gradient,
    with the projected gradient, and Sparse-RS (loss cross-entropy, α_init 0.8).  The only parameter of the
    published ensemble is k.

    "plus" is this library's: guided exchange, which goes on from where a short sparse-PGD has come, and at last
    a shorter Sparse-RS, which needs no gradients.  docs/choosing-an-attack.md says what it was
    chosen on and measured on; whoever withstands it has been through fewer passes than in the published one.

    Args:
        model: from inputs to logits (batch, class), differentiable.
        x: clean inputs, inside the threat model's box.
        y: true labels.
        threat: budget, unit and box.
        steps: of each sparse-PGD stage; in "plus" half as many, then three times as many exchanges.
        queries: of the Sparse-RS stage; in "plus" half as many.
        version: "published" or "plus".
        seed, ids: name the random numbers of each example, so that its result does not depend on the batch.

    Returns:
        Inputs of the shape and dtype of x, within the threat model: broken by the first stage that could,
        or else the attempt of highest loss of any stage; examples misclassified already come back clean.
    """
    checks.integer("steps", steps, 0)
    checks.integer("queries", queries, 1)
    searches = stages(steps, queries, version)
    on_table = isinstance(threat, L0) and threat.schema is not None  # whose values may be missing
    ids = checks.identifiers(ids, x if on_table else checks.examples(x))
    attacks: dict[str, Callable[..., Tensor]] = {
        "sparse_pgd": sparse_pgd,
        "sparse_rs": sparse_rs,
        "guided_exchange": guided_exchange,
    }
    if on_table:
        return _on_columns(searches, attacks, model, x, y, threat, seed, ids)
    with attacking("sparse_autoattack", model, x, y, threat, targeted=None, seed=seed, ids=ids) as cascade:
        for stage in searches:
            rows = cascade.rows
            if len(rows) == 0:
                break
            with _about(model, rows):
                attempt = attacks[stage.attack](
                    model, x[rows], y[rows], threat, seed=seed, ids=ids[rows], **stage.options
                )
            grid = threat.grid(attempt)
            positions = top_k((grid != cascade.x).any(1).to(x.dtype), cascade.k)
            cascade.record(*cascade.score(grid), positions, cascade.at(grid, positions))
        return cascade.finished()


def _on_columns(
    searches: tuple[Stage, ...],
    attacks: dict[str, Callable[..., Tensor]],
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: L0,
    seed: int,
    ids: Tensor,
) -> Tensor:
    """The cascade on a table, whose positions are not the same to every search: the last attempt is returned."""
    result, rows = x.clone(), torch.arange(len(x), device=x.device)
    for stage in searches:
        with _about(model, rows):
            attempt = attacks[stage.attack](
                model, x[rows], y[rows], threat, seed=seed, ids=ids[rows], **stage.options
            )
        result[rows] = attempt
        if len(rows) and stage is not searches[-1]:
            with torch.no_grad(), evaluation_mode(model):
                z = model(filled_up(model, attempt.clone()))[: len(rows)]
            rows = rows[~losses.is_wrong(z, y[rows])]
    return result


def _about(model: Model, rows: Tensor) -> AbstractContextManager[None]:
    """Tell a model that watches the search which examples the next passes are for."""
    scope = getattr(model, "about", None)
    return nullcontext() if scope is None else scope(rows)
