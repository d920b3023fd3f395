"""AutoAttack's interface with our ensemble behind it: code written for it changes one line.

from zeronorm.integrations import AutoAttack       # instead of: from autoattack import AutoAttack
adversary = AutoAttack(model, norm="L0", eps=10, version="standard")
x_adv = adversary.run_standard_evaluation(x, y, bs=250)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zeronorm import checks
from zeronorm.attacks.batch_under_attack import Model
from zeronorm.attacks.catalogue import get
from zeronorm.attacks.sparse_autoattack import Stage, stages
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.fresh_pass import predict, rebuild
from zeronorm.evaluation.result import Evaluation
from zeronorm.evaluation.runner import evaluate
from zeronorm.integrations.catalogue_attack import Channels, whole
from zeronorm.threat_model import L0

_VERSIONS = {"standard": "published", "plus": "plus", "custom": "published"}


class AutoAttack:
    """sparse-AutoAttack with the arguments and methods of AutoAttack.

    **Arguments** beyond those of AutoAttack: `unit` of the budget `eps`, `low`, `high` and
    `channels` of inputs, `steps` of
    white-box stages and `queries` of black-box ones.  `norm` is "L0"; `version` "standard" is the published
    ensemble, "plus" this library's; `attacks_to_run` names attacks of the catalogue instead, as "custom" asks
    for.  The model is attacked where its parameters are, whatever `device` says; without a seed it is 0.
    """

    def __init__(
        self,
        model: Model,
        norm: str = "L0",
        eps: float = 10,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        device: Any = None,
        log_path: str | os.PathLike[str] | None = None,
        *,
        unit: str = "pixel",
        low: float = 0.0,
        high: float = 1.0,
        channels: Channels | None = None,
        steps: int | None = None,
        queries: int | None = None,
    ) -> None:
        if norm != "L0":
            raise ArgumentError(
                f"norm: expected L0, got {norm!r}: for ℓ∞ and ℓ2 there is AutoAttack itself "
                "(zeronorm.integrations.from_torch_class runs it in zeronorm.evaluate)"
            )
        self.model, self.norm, self.epsilon, self.device = model, norm, whole(eps, "eps"), device
        self.threat = L0(self.epsilon, unit, low, high, channels=channels)  # type: ignore[arg-type]
        self.seed = 0 if seed is None else checks.integer("seed", seed, 0)
        self.verbose, self.log_path = verbose, log_path
        self.version = checks.choice("version", version, _VERSIONS)
        self.attacks_to_run = list(attacks_to_run)
        if version == "custom" and not self.attacks_to_run:
            raise ArgumentError("attacks_to_run: expected names of attacks with version custom, got none")
        for name in self.attacks_to_run:
            get(name)
        if log_path is not None:  # before the search
            try:
                open(log_path, "a").close()
            except OSError as error:
                raise ArgumentError(f"log_path: cannot write {log_path}: {error.strerror}") from None
        self.steps, self.queries = steps, queries

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Adversarials of the cascade, the clean input where none was found; with labels, if asked for.

        `state_path` is the folder of the run: what was interrupted goes on from there.
        """
        asked = self.attacks_to_run or ["sparse_autoattack"]
        return self._run([self._stage(name) for name in asked], x_orig, y_orig, bs, return_labels, state_path)

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Any]:
        """By its name, each attack alone on all inputs."""
        every: list[Stage] = []
        for name in self.attacks_to_run or ["sparse_autoattack"]:
            stage = self._stage(name)
            every += stages(**stage.options) if stage.attack == "sparse_autoattack" else [stage]
        return {stage.name: self._run([stage], x_orig, y_orig, bs, return_labels, None) for stage in every}

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """Share of right answers."""
        right = [
            (predict(self.model, x).argmax(1) == y).sum()
            for x, y in zip(x_orig.split(bs), y_orig.split(bs), strict=True)
        ]
        return float(sum(right)) / len(x_orig)

    def _stage(self, name: str) -> Stage:
        entry = get(name)
        options: dict[str, Any] = {
            option: value
            for option, value in (("steps", self.steps), ("queries", self.queries))
            if value is not None and option in entry.cost
        }
        if entry.name == "sparse_autoattack":
            options["version"] = _VERSIONS[self.version]
        return Stage(entry.name, options)

    def _run(
        self,
        attack: list[Stage],
        x: Tensor,
        y: Tensor,
        bs: int,
        return_labels: bool,
        out: str | os.PathLike[str] | None,
    ) -> Any:
        x, bs = checks.examples(x, "x_orig").detach(), checks.integer("bs", bs, 1)
        result = evaluate(
            self.model,
            (x, y),
            self.threat,
            attack,
            None if out is None else Path(out),
            batch_size=bs,
            seed=self.seed,
        )
        x_adv, found = x.clone(), result.records.to_pylist()
        for row in found:
            if row["outcome"] == "broken":
                at = slice(row["example"], row["example"] + 1)
                x_adv[at] = rebuild(x[at], row, self.threat)
        self._tell(result)
        if not return_labels:
            return x_adv
        return x_adv, torch.cat([predict(self.model, part).argmax(1) for part in x_adv.split(bs)])

    def _tell(self, result: Evaluation) -> None:
        """AutoAttack's lines."""
        left = result.summary.after_stage[self.epsilon]
        lines = [f"initial accuracy: {left[0].value:.2%}"]
        lines += [
            f"robust accuracy after {stage.name}: {share.value:.2%}"
            for stage, share in zip(result.summary.stages, left[1:], strict=True)
        ]
        lines.append(f"robust accuracy: {float(result.robust_accuracy):.2%}")
        lines += [f"{f['level']}: {f['code']}: {f['seen']}" for f in result.diagnosis]
        if self.verbose:
            print(*lines, sep="\n")
        if self.log_path is not None:
            with open(self.log_path, "a") as log:
                print(*lines, sep="\n", file=log)
