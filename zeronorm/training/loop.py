"""The training loop, from plan to checkpoint folder.

Everything random is named by (seed, example, epoch) and the learning rate by the step, so that a training
continued after a crash takes the steps it would have taken: on a CPU, to bitwise the same weights.  Several
processes take the same steps together; the first of them writes.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeronorm import data, report
from zeronorm.data import Dataset
from zeronorm.errors import ArgumentError
from zeronorm.models.classifier import Classifier
from zeronorm.seeding import Streams
from zeronorm.training.adversary import Adversary
from zeronorm.training.augment import crop_and_flip
from zeronorm.training.certified import train_certified
from zeronorm.training.checkpoint import State, TrainingFolder
from zeronorm.training.encoding import Encoding
from zeronorm.training.interrupt import Stopped, heeded
from zeronorm.training.method import (
    BatchLoss,
    CertifiedMethod,
    Method,
    Setting,
    TrainingBatch,
    TrainingExamples,
)
from zeronorm.training.methods import METHODS
from zeronorm.training.plan import PRECISIONS, TrainingPlan
from zeronorm.training.processes import Processes, device_of, started
from zeronorm.training.pruning import Pruning
from zeronorm.training.result import TrainingProgress, TrainingResult, write_model
from zeronorm.training.starting_model import starting_model
from zeronorm.training.tracking import tracking

_EVALUATION_BATCH = 512
# steps between two readings of the loss from a GPU, each of which waits for it
_STEPS_BETWEEN_READINGS = 20


def train(
    plan: TrainingPlan, progress: Callable[[TrainingProgress], None] = lambda now: None
) -> TrainingResult:
    """Train as planned; write the model, its metrics and, after each epoch, a checkpoint to `plan.out`.

    The weights kept are those of the epoch, with all rounds of pruning done, that does best on the held-out
    examples: of a method that attacks by what withstands, by accuracy, then by the smaller loss;
    `accuracy` is theirs on the test split.
    Where the data has no test split of its own, the held-out examples are counted instead, and `split` says
    "validation".  The folder gets a page with the curves.

    **Arguments:**

    - `plan`: what to train, on what, how, and where to put it.
    - `progress`: called after every step (on a GPU: every few); after the last of an epoch once all is stored.

    Where torchrun started several processes, each calls this and learns its share of every batch on a device of its
    own; only in the first is `progress` called and anything written.

    **Raises:** `ArgumentError` for data or a folder that cannot be used, another plan's training in the folder,
    and a loss that is not finite; the checkpoint of the last good epoch stays.  `Stopped`, a `KeyboardInterrupt`,
    at SIGTERM or SIGINT, after a checkpoint between two steps.
    """
    method = METHODS[plan.method]
    if isinstance(method, CertifiedMethod):
        return train_certified(method, plan, progress)
    return _train_by_epochs(method, plan, progress)


def _train_by_epochs(
    method: Method, plan: TrainingPlan, progress: Callable[[TrainingProgress], None]
) -> TrainingResult:
    folder = TrainingFolder(plan.out)
    processes = _processes(plan)
    with ExitStack() as held, heeded() as signalled, processes.together():
        processes.first(lambda: held.enter_context(folder.locked()))
        state = processes.first(lambda: folder.open(plan.identity(), plan.resume))
        with processes.alike():
            source, test = data.load(plan.data, "train", plan.limit), data.load(plan.data, "test")
            folder.check_data(state, source.digest)
            learnt, held_out = _split(source, plan)
            unseen = _has_test_split(source, test)
            if not unseen and not len(held_out):
                raise ArgumentError(
                    f"validation: expected held-out examples, since {plan.data} has no test split of its own, got none"
                )
            _check_budget(plan, source)
            encoding = method.encoding(plan, source) if method.encoding else None
            channels = source.x.shape[1]
            channels = encoding.channels(channels) if encoding else channels
            model = starting_model(plan, source, channels, plan.normalize and not encoding)
            if not any(parameter.requires_grad for parameter in model.parameters()):
                raise ArgumentError(
                    f"model: expected one that learns by gradients, got {plan.model}; --method {plan.model} trains it"
                )

        run = _Run.start(method, plan, processes, model, state, encoding)
        examples = run.to_device(source)
        adversary = Adversary(plan, run.attacked)
        setting = Setting(
            plan, adversary, examples.y, len(source.class_names), state.memory, encoding, processes
        )
        batch_loss = method.batch_loss(setting)
        if processes.leads:
            log = held.enter_context(tracking(plan.track, folder.path, plan.identity()))
        else:
            log, progress = (lambda row: None), (lambda now: None)
        run.check_continues(state, examples, held_out)
        for epoch in range(len(state.history) + 1, plan.epochs + 1):
            began = time.perf_counter() - state.seconds
            learning, rows = examples, learnt
            if method.grow:
                learning, rows = method.grow(setting, examples, learnt, epoch)
            order = rows[_shuffled(learning.ids.cpu()[rows], plan.seed, epoch)]
            if not state.begun:
                run.pruning.begin(epoch, run.optimizer, state.average)
            for now in run.learn(batch_loss, learning, order, epoch, state):
                if now.step < now.steps:
                    progress(_after_the_last_epoch(now, state))
                    if (number := processes.agreed(signalled())) is not None:
                        run.keep(state, time.perf_counter() - began)
                        processes.first(lambda: folder.write(state))
                        raise Stopped(number)
            with run.averaged(state):
                row = {
                    "epoch": epoch,
                    "lr": run.optimizer.param_groups[0]["lr"],
                    "loss": now.loss,
                    "accuracy": now.accuracy,
                    **_validate(run, adversary, examples, held_out),
                    "seconds": round(time.perf_counter() - began, 3),
                }
            run.keep(state)
            state.finish(row, partial(_merit, plan, method.keeps_last))
            processes.first(lambda: folder.write(state))
            log(row)
            progress(_after_the_last_epoch(now, state))
            if (number := processes.agreed(signalled())) is not None and epoch < plan.epochs:
                raise Stopped(number)

        run.model.network.load_state_dict(state.best)
        rows, split = held_out, "validation"
        if unseen:
            examples, rows, split = run.to_device(test), torch.arange(len(test)), test.split
        _, right = run.evaluate(examples, rows)
        best = state.history[state.best_epoch - 1]
        result = TrainingResult(
            model=run.model.cpu().eval(),
            out=folder.path,
            accuracy=right / len(rows),
            correct=right,
            n=len(rows),
            split=split,
            best_epoch=state.best_epoch,
            validation_accuracy=best["validation_accuracy"],
            robust_accuracy=best["robust_accuracy"],
            history=state.history,
            seconds=sum(row["seconds"] for row in state.history),
        )
        training = {
            "command": plan.command(),
            "plan": plan.identity(),
            "best_epoch": result.best_epoch,
            "validation_accuracy": result.validation_accuracy,
            "robust_accuracy": result.robust_accuracy,
            "seconds": round(result.seconds, 1),
            "device": processes.fabric.device.type,
            "processes": processes.count,
        }
        facts = {"ablation": encoding.record()} if encoding else {}
        processes.first(lambda: write_model(result, source, training, **facts))
        processes.first(lambda: report.render(folder.path, folder.page))
        return result


def _after_the_last_epoch(now: TrainingProgress, state: State) -> TrainingProgress:
    validated = state.validated()
    return replace(
        now,
        validation_accuracy=validated["validation_accuracy"],
        robust_accuracy=validated["robust_accuracy"],
    )


def _validate(
    run: _Run, adversary: Adversary, examples: TrainingExamples, held_out: Tensor
) -> dict[str, float | None]:
    """Loss and accuracy on the held-out examples, and accuracy on the first of them under attack."""
    if not len(held_out):
        return dict.fromkeys(("validation_loss", "validation_accuracy", "robust_accuracy"))
    loss, right = run.evaluate(examples, held_out)
    robust = None
    if run.plan.attacked and math.isfinite(loss):
        attacked = held_out[: run.plan.validation_limit]
        some = examples[run.processes.share(attacked)]
        withstood = torch.tensor(adversary.withstood(some.x, some.y, some.ids), device=some.ids.device)
        robust = int(run.processes.total(withstood)) / len(attacked)
    return {"validation_loss": loss, "validation_accuracy": right / len(held_out), "robust_accuracy": robust}


class _UnderAutocast(nn.Module):
    """The model that attacks call: in the precision of the training, but without Fabric's wrapper.

    The wrapper would take the attack's passes for steps of the training.
    """

    def __init__(self, model: nn.Module, fabric: Any) -> None:
        super().__init__()
        self.model, self._fabric = model, fabric

    def forward(self, x: Tensor) -> Tensor:
        with self._fabric.autocast():
            return self.model(x).float()


@dataclass(frozen=True)
class _Run:
    """A model and its optimiser, both bare and wrapped by Fabric."""

    method: Method
    plan: TrainingPlan
    processes: Processes
    model: Classifier
    optimizer: torch.optim.SGD
    encoding: Encoding | None
    pruning: Pruning
    wrapped: Any
    stepper: Any

    @property
    def attacked(self) -> nn.Module:
        """The model that attacks call."""
        return _UnderAutocast(self.model, self.fabric)

    @property
    def fabric(self) -> Any:
        return self.processes.fabric

    @classmethod
    def start(
        cls,
        method: Method,
        plan: TrainingPlan,
        processes: Processes,
        model: Classifier,
        state: State,
        encoding: Encoding | None,
    ) -> _Run:
        fabric = processes.fabric
        model.to(fabric.device)
        processes.normalise(model)
        if fabric.device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(
            model.parameters(), lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
        if state.network:
            model.network.load_state_dict(state.network)
        for group in (state.average, state.memory):
            group.update({name: tensor.to(fabric.device) for name, tensor in group.items()})
        if plan.average and not state.average:
            state.average = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        for name, parameter in model.network.named_parameters():
            if name in state.momentum:
                optimizer.state[parameter]["momentum_buffer"] = state.momentum[name].to(parameter.device)
        pruning = Pruning(plan, model, state.memory, fresh=not state.network)
        with _quiet():
            return cls(
                method, plan, processes, model, optimizer, encoding, pruning, *fabric.setup(model, optimizer)
            )

    def to_device(self, dataset: Dataset) -> TrainingExamples:
        return TrainingExamples(*(self.fabric.to_device(t) for t in (dataset.x, dataset.y, dataset.ids)))

    def learn(
        self, batch_loss: BatchLoss, examples: TrainingExamples, order: Tensor, epoch: int, state: State
    ) -> Iterator[TrainingProgress]:
        """Learn one epoch over the rows of `order`, or the rest of it; yields progress, always at the last step."""
        plan, count = self.plan, self.processes.count
        steps = math.ceil(len(order) / plan.batch_size)
        if len(order) // steps < count:
            raise self.processes.error(
                f"batch_size: expected steps of at least {count} examples, one for each process, got "
                f"{len(order) // steps}"
            )
        losses = torch.zeros(steps, device=self.fabric.device)
        correct = torch.zeros_like(losses, dtype=torch.int64)
        first, seen = len(state.begun.get("losses", ())), 0
        if first:
            losses[:first], correct[:first] = state.begun["losses"], state.begun["correct"]
        read = first
        self.wrapped.train()
        for step, rows in enumerate(order.tensor_split(steps)):
            seen += len(rows)
            if step < first:
                continue
            done = (epoch - 1) * steps + step
            self.optimizer.param_groups[0]["lr"] = learning_rate(plan, done, plan.epochs * steps)
            mine = self.processes.share(rows)
            batch = examples[mine]
            x = crop_and_flip(batch.x, batch.ids, crop=plan.crop, flip=plan.flip, seed=plan.seed, epoch=epoch)
            own = mine.to(batch.ids.device)
            try:
                loss, logits = batch_loss(
                    self.wrapped, TrainingBatch(x, batch.y, batch.ids, own, epoch, step)
                )
            except ArgumentError:  # raised by the attack, perhaps because the model has diverged
                self._check_logits(x, f"at step {step + 1} of epoch {epoch}", epoch)
                raise
            # so that the mean over processes is the mean over examples; shares may differ by one
            loss = loss * (len(mine) * count / len(rows)) + self.pruning.penalty()
            self.stepper.zero_grad()
            self.fabric.backward(loss)
            self.pruning.mask_gradients()
            self.stepper.step()
            self._move_average(state, done)
            for name in self.method.by_example:
                self.processes.exchange(state.memory[name], rows)

            losses[step] = loss.detach() / count
            correct[step] = (logits.detach().argmax(1) == batch.y).sum()
            if self._on_cpu() or step % _STEPS_BETWEEN_READINGS == 0 or step + 1 == steps:
                for told in (losses, correct):
                    told[read : step + 1] = self.processes.total(told[read : step + 1])
                read = step + 1
                mean = float(losses[: step + 1].mean())
                if not math.isfinite(mean):
                    first = int((~torch.isfinite(losses)).nonzero()[0])
                    self._diverged(f"{float(losses[first])} at step {first + 1} of epoch {epoch}", epoch)
                state.begun = {"losses": losses[: step + 1], "correct": correct[: step + 1]}
                yield TrainingProgress(
                    epoch, plan.epochs, step + 1, steps, seen, mean, int(correct.sum()) / seen
                )

    @torch.inference_mode()
    def evaluate(self, examples: TrainingExamples, rows: Tensor) -> tuple[float, int]:
        """Mean cross-entropy and number of right answers in evaluation mode, over all processes."""
        self.wrapped.eval()
        loss, correct = 0.0, 0
        for some in self.processes.share(rows).split(_EVALUATION_BATCH):
            batch = examples[some]
            x = self.encoding.own(batch.x, batch.ids) if self.encoding else batch.x
            logits = self.wrapped(x)
            loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
            correct += int((logits.argmax(1) == batch.y).sum())
        told = torch.tensor([loss, correct], dtype=torch.float64, device=self.fabric.device)
        loss, correct = self.processes.total(told).tolist()
        return loss / max(1, len(rows)), int(correct)

    def _move_average(self, state: State, done: int) -> None:
        """Update the moving average of the weights; early steps weigh more, to forget the initial weights."""
        if not self.plan.average:
            return
        share = max(1 - self.plan.average, 1 / (done + 1))
        for name, tensor in self.model.network.state_dict().items():
            if tensor.is_floating_point():
                state.average[name].lerp_(tensor, share)
            else:
                state.average[name].copy_(tensor)

    @contextmanager
    def averaged(self, state: State) -> Iterator[None]:
        """Give the model the moving average of its weights for a while, if one is kept."""
        if not state.average:
            yield
            return
        weights = {name: tensor.clone() for name, tensor in self.model.network.state_dict().items()}
        self.model.network.load_state_dict(state.average)
        try:
            yield
        finally:
            self.model.network.load_state_dict(weights)

    def check_continues(self, state: State, examples: TrainingExamples, held_out: Tensor) -> None:
        """`ArgumentError` where the checkpoint does not give the held-out loss of its last epoch any more.

        Its weights are told by their digest; what a network makes of them is code, which may have changed.
        """
        if not state.history or state.begun or not len(held_out):
            return
        with self.averaged(state):
            loss, _ = self.evaluate(examples, held_out)
        told = state.history[-1]["validation_loss"]
        if told is not None and not math.isclose(loss, told, rel_tol=0.01, abs_tol=1e-3):
            raise ArgumentError(
                f"out: expected the network of the training in {self.plan.out}, of held-out loss {told:.4g}, got "
                f"one with {loss:.4g}: the same weights mean something else here"
            )

    def keep(self, state: State, seconds: float = 0.0) -> None:
        """Copy weights and momentum into the state, for the checkpoint; `seconds`: spent on an unfinished epoch."""
        weights = {name: tensor.cpu().clone() for name, tensor in self.model.network.state_dict().items()}
        epoch = len(state.history) + 1
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            self._diverged(f"infinite weights in epoch {epoch}", epoch)
        state.network, state.seconds = weights, seconds
        state.momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"].cpu().clone()
            for name, parameter in self.model.network.named_parameters()
            # absent where the momentum is 0
            if self.optimizer.state[parameter].get("momentum_buffer") is not None
        }

    @torch.inference_mode()
    def _check_logits(self, x: Tensor, when: str, epoch: int) -> None:
        """End the training if the model's logits are no longer finite."""
        self.wrapped.eval()
        if not bool(torch.isfinite(self.wrapped(x)).all()):
            self._diverged(f"logits that are not finite {when}", epoch)

    def _on_cpu(self) -> bool:
        return bool(self.fabric.device.type == "cpu")

    def _diverged(self, what: str, epoch: int) -> NoReturn:
        kept = (
            f"{self.plan.out} keeps the checkpoint of epoch {epoch - 1}" if epoch > 1 else "nothing is kept"
        )
        raise self.processes.error(f"lr: expected a finite loss, got {what} with lr {self.plan.lr:g}; {kept}")


def _merit(plan: TrainingPlan, keeps_last: bool, row: dict[str, Any]) -> tuple[float, float, float, float]:
    """Ranks epochs: by rounds of pruning done, robust accuracy of a method that attacks, accuracy, then smaller loss;
    without validation, the last is best."""
    rounds = float(sum(row["epoch"] >= epoch for epoch in plan.pruned_before()))
    if row["validation_accuracy"] is None or keeps_last:
        return rounds, float(row["epoch"]), 0.0, 0.0
    # robustness of plain training is noise, and may be greatest in the first epoch
    robust = (row["robust_accuracy"] or 0.0) if plan.adversarial else 0.0
    return rounds, robust, row["validation_accuracy"], -row["validation_loss"]


def learning_rate(plan: TrainingPlan, step: int, steps: int) -> float:
    """The learning rate at `step` (from 0) of `steps`."""
    if plan.schedule == "cosine":
        return plan.lr * 0.5 * (1.0 + math.cos(math.pi * step / steps))
    # Zhong et al. 2024, appendix B
    passed = (step >= steps // 4) + (step >= 3 * steps // 4)
    return plan.lr / 10**passed


def _check_budget(plan: TrainingPlan, source: Dataset) -> None:
    """`ArgumentError` for a budget of more pixels than an image has."""
    pixels = math.prod(source.x.shape[2:])
    if plan.k is None:
        return
    if plan.k > pixels:
        raise ArgumentError(
            f"k: expected at most {pixels}, the pixels of an image of {plan.data}, got {plan.k}"
        )
    if plan.takes("multi_k") and plan.training_k() > pixels:
        raise ArgumentError(
            f"multi_k: expected a training budget of at most {pixels}, the pixels of an image of {plan.data}, "
            f"got {plan.multi_k:g} x {plan.k} = {plan.training_k()}"
        )


def _processes(plan: TrainingPlan) -> Processes:
    """All processes of this training; Lightning Fabric handles their devices and precision."""
    device, count = device_of(plan), started()
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if count > 1 else 1
    if device == "cuda" and here > torch.cuda.device_count():
        raise ArgumentError(
            f"devices: expected at most {torch.cuda.device_count()}, the GPUs of this machine, got {here}"
        )
    from lightning_fabric import Fabric  # sets the level of its logger, which _quiet lowers
    from lightning_fabric.strategies.ddp import DDPStrategy

    with _quiet():
        fabric = Fabric(
            accelerator=device,
            devices=here,
            num_nodes=count // here,
            # buffers agree already, and broadcasting between two forward passes would break the first
            strategy=DDPStrategy(broadcast_buffers=False) if count > 1 else "auto",
            precision=PRECISIONS[plan.precision],
        )
        fabric.launch()
    if count > 1:
        atexit.register(_part)
    return Processes(fabric, count, fabric.global_rank)


def _part() -> None:
    """Leave the group of processes: threads that still communicate at exit would abort Python."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Fabric on the terminal, except for errors."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.ERROR)
            yield
        finally:
            logger.setLevel(level)


def _split(source: Dataset, plan: TrainingPlan) -> tuple[Tensor, Tensor]:
    """Rows to learn and rows held out, which depend on the seed and the share only."""
    held_out = round(plan.validation * len(source))
    if held_out >= len(source):
        raise ArgumentError(
            f"validation: expected examples left to learn, got {held_out} of {len(source)} held out"
        )
    order = _shuffled(source.ids, plan.seed, 0)
    return order[held_out:].sort().values, order[:held_out].sort().values


def _has_test_split(source: Dataset, test: Dataset) -> bool:
    """Whether `test` has other examples than `source`; a folder without splits gives the same for any split."""
    if test.x.shape[1:] != source.x.shape[1:] or test.class_names != source.class_names:
        raise ArgumentError(
            f"data: expected splits of one shape with the same classes, got {source} and {test}"
        )
    return not torch.equal(test.x[: len(source)], source.x)


def _shuffled(ids: Tensor, seed: int, epoch: int) -> Tensor:
    return Streams(seed, ids, "shuffle").order(epoch)
