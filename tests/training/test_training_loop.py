"""Training: it learns, it resumes to the same weights, and bad input ends it in one line."""

from __future__ import annotations

import csv
import errno
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch

from zeronorm import data, models
from zeronorm.errors import ArgumentError
from zeronorm.training import TrainingPlan, train
from zeronorm.training.loop import learning_rate


def weights(result):
    return models.digest(result.model)


class _Crash(Exception):
    pass


def crash_at(epoch, step):
    def progress(now):
        if (now.epoch, now.step) == (epoch, step):
            raise _Crash

    return progress


def test_learns_the_digits_in_seconds(plan):
    seen = []
    result = train(plan(limit=None, epochs=30, batch_size=64, model_arguments={"width": 0.25}), seen.append)
    assert result.accuracy > 0.9 and result.n == 360 and result.split == "test"
    assert result.validation_accuracy > 0.95
    # counted anew from the folder
    test = data.load("digits", "test")
    loaded = models.load(result.out)
    assert int((loaded(test.x).argmax(1) == test.y).sum()) == result.correct
    assert models.describe(loaded)["accuracy"]["correct"] == result.correct
    assert loaded.arguments["mean"] == [round(float(data.load("digits", "train").x.mean()), 4)]
    # told step by step
    assert len(seen) == 30 * 21
    assert [now.examples for now in seen[-21:]][-1] == 1437 - 144
    assert seen[-1].validation_accuracy == result.history[-1]["validation_accuracy"]
    assert f"{result.accuracy:.1%} of 360 test images right" in str(result)


def test_files_of_a_training(plan):
    result = train(plan())
    assert sorted(os.listdir(result.out)) == [
        ".lock",
        "checkpoint.safetensors",
        "metrics.csv",
        "model.json",
        "model.safetensors",
        "report.html",
    ]
    with open(result.out / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["validation_accuracy"]) == result.history[2]["validation_accuracy"]


def test_the_best_epoch_is_kept(plan):
    # a schedule that ends in ruin: the last epochs are no better than chance
    result = train(plan(epochs=6, lr=0.6, momentum=0.95, schedule="step", limit=600, batch_size=32))
    best = result.history[result.best_epoch - 1]
    assert best["validation_accuracy"] == max(row["validation_accuracy"] for row in result.history)
    assert result.validation_accuracy == best["validation_accuracy"]


def test_same_seed_same_weights_other_seed_others_and_no_global_state_moves(plan, tmp_path):
    torch.manual_seed(3)
    # Python's own is moved by the type checks of the tests
    before = torch.get_rng_state(), str(np.random.get_state())
    first = train(plan(crop=1, flip=True))
    assert torch.equal(torch.get_rng_state(), before[0]) and str(np.random.get_state()) == before[1]
    torch.manual_seed(4)
    assert weights(train(plan(crop=1, flip=True, out=tmp_path / "b"))) == weights(first)
    for number, change in enumerate(({"seed": 1}, {"flip": False}, {"crop": 2}, {"batch_size": 64})):
        other = train(plan(**({"crop": 1, "flip": True} | change), out=tmp_path / f"c{number}"))
        assert weights(other) != weights(first)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "resnet20", "model_arguments": {}, "limit": 100, "crop": 1, "flip": True},
        {"momentum": 0.0, "validation": 0.0, "schedule": "step"},
        {"precision": "bfloat16"},
        {"method": "sat", "k": 2, "precision": "bfloat16", "steps": 3},
        {"method": "strades", "k": 2, "average": 0.9, "steps": 3},
        {"method": "fast_ls", "k": 2, "average": 0.9, "validation": 0.0},
    ],
    ids=[
        "batch norm and augmentation",
        "no momentum, no validation",
        "bfloat16",
        "sAT in bfloat16",
        "sTRADES and the average of weights",
        "Fast-LS",
    ],
)
def test_resumed_to_bitwise_the_same_weights(plan, tmp_path, changes):
    whole = train(plan(**changes, batch_size=32))
    halves = plan(**changes, batch_size=32, out=tmp_path / "halves", resume=True)
    for crash in (crash_at(1, 2), crash_at(2, 1), crash_at(3, 2)):
        with pytest.raises(_Crash):
            train(halves, crash)
    resumed = train(halves)
    assert weights(resumed) == weights(whole)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    # once more: nothing left to do
    assert weights(train(halves)) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "fast_ls"])
def test_resumed_after_kill_9_to_bitwise_the_same_weights(plan, tmp_path, method):
    settings = {"epochs": 40, "limit": None, "batch_size": 32} if method == "standard" else {
        "epochs": 25, "limit": 400, "method": method, "k": 2, "multi_k": 2.0, "average": 0.9, "steps": 2,
    }  # fmt: skip
    whole = train(plan(**settings))
    killed = tmp_path / "killed"
    arguments = asdict(plan(**settings)) | {"out": str(killed), "resume": True}
    code = f"from zeronorm.training import TrainingPlan, train; train(TrainingPlan(**{arguments!r}))"
    metrics = killed / "metrics.csv"

    def epochs():
        return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0

    after = 0
    for _ in range(2):
        target = epochs() + random.randint(1, 8)
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and epochs() < target:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert after < epochs() < settings["epochs"], "it was to be killed half way"
        after = epochs()
    resumed = train(TrainingPlan(**arguments))
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", ["standard", "fast_ls"])
def test_stopped_within_an_epoch_and_resumed_to_bitwise_the_same_weights(plan, tmp_path, number, method):
    settings = {"batch_size": 32, "method": method, "k": 2, "average": 0.9}
    settings |= {"steps": 2} if method == "fast_ls" else {}
    whole = train(plan(**settings))
    halves = plan(**settings, out=tmp_path / "halves", resume=True)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def signalled(epoch, step):
        def progress(now):
            assert (now.epoch, now.step) <= (epoch, step), "it was to stop after this step"
            if (now.epoch, now.step) == (epoch, step):
                signal.raise_signal(number)

        return progress

    for epoch, step in ((1, 3), (1, 7), (2, 1), (2, 9)):  # 9 steps are an epoch
        with pytest.raises(KeyboardInterrupt) as stopped:
            train(halves, signalled(epoch, step))
        assert stopped.value.number == number
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    resumed = train(halves)
    assert weights(resumed) == weights(whole)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert [row["accuracy"] for row in resumed.history] == [row["accuracy"] for row in whole.history]


def test_a_second_signal_is_heeded_at_once(plan):
    def impatient(now):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise _Crash

    with pytest.raises(_Crash):
        train(plan(), impatient)


SAT = {"method": "sat", "k": 1}
WINDOW = {"method": "truncation_window", "model": "mlp"}


class TestBadInput:
    def refused(self, plan, match):
        with pytest.raises(ArgumentError, match=match) as caught:
            train(plan)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"model": "vgg"}, "model: expected one of lenet_300_100, .*, got 'vgg'"),
            ({"method": "at"}, "method: expected one of standard, sat, .*, feature_partition, got 'at'"),
            ({"method": "sat"}, "k: expected a value, which sat needs, got None"),
            (
                {"method": "linf_adversarial"},
                "epsilon: expected a value, which linf_adversarial needs, got None",
            ),
            ({"k": 0}, "k: expected an integer of at least 1, got 0"),
            ({"lr": float("nan")}, r"lr: expected a number in \(0, inf\), got nan"),
            ({"average": 1.0}, r"average: expected a number in \[0, 1\), got 1.0"),
            ({"validation": 1.0}, r"validation: expected a number in \[0, 0.9\], got 1"),
            ({"schedule": "linear"}, "schedule: expected one of cosine, step, got 'linear'"),
            ({"track": ("wandb",)}, "track: expected one of tensorboard, mlflow, got 'wandb'"),
            (SAT | {"attack": {}}, "attack: expected the name of at least one attack, got none"),
            (SAT | {"attack": {"sparse": {}}}, "attack: expected one of sparse_pgd, .*, got 'sparse'"),
            (
                SAT | {"attack": {"jsma": {}}},
                "attack: expected an attack that searches within a budget, got jsma",
            ),
            (
                SAT | {"attack": {"sparse_rs": {"tolerance": 3}}},
                "tolerance: sparse_rs has no such option; it has queries",
            ),
            (SAT | {"beta": 2.0}, "beta: the method sat takes no beta"),
            ({"model_arguments": {"classes": 3}}, "set: expected none of in_channels, .*, got classes"),
            (WINDOW | {"budget": 2.5}, "budget: expected an integer of at least 0, got 2.5"),
        ],
    )
    def test_plan(self, plan, changes, match):
        with pytest.raises(ArgumentError, match=match) as caught:
            plan(**changes)
        assert "\n" not in str(caught.value)

    def test_found_with_the_data_at_hand(self, plan):
        self.refused(plan(data="digitz"), "data: expected one of digits, .*, got 'digitz'")
        self.refused(
            plan(model="lenet5", model_arguments={}), "image_size: expected an integer of at least 16, got 8"
        )
        self.refused(plan(model_arguments={"depth": 3}), r"depth: expected arguments of small_cnn")
        self.refused(
            plan(limit=1, validation=0.6), "validation: expected examples left to learn, got 1 of 1 held out"
        )

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
    def test_no_such_device(self, plan):
        self.refused(plan(device="cuda"), "device: expected a device of this machine, got cuda")

    def test_folder_in_use(self, plan, tmp_path):
        finished = train(plan())
        self.refused(
            plan(),
            r"out: expected a folder without a training, got .* after 3 epochs; continue with --resume",
        )
        self.refused(
            plan(resume=True, epochs=4, lr=0.1),
            r"out: expected a training of this plan in .*, got one with epochs 3 \(asked: 4\), lr 0.05 \(asked: 0.1\)$",
        )
        self.refused(
            plan(resume=True, model="lenet_300_100", model_arguments={}),
            r"out: expected a training of this plan .* got one with model 'small_cnn' \(asked: 'lenet_300_100'\)",
        )
        (finished.out / "checkpoint.safetensors").unlink()
        self.refused(plan(resume=True), "out: expected a folder without a model, found model.json")

        def meanwhile(now):
            self.refused(plan(out=tmp_path / "two"), "out: another process is training in .*two")
            raise _Crash

        with pytest.raises(_Crash):
            train(plan(out=tmp_path / "two"), meanwhile)

    def test_other_data_under_the_same_name(self, plan, monkeypatch):
        with pytest.raises(_Crash):
            train(plan(), crash_at(2, 1))
        load = data.load

        def changed(name, split, limit=None):
            dataset = load(name, split, limit)
            dataset.x[0, 0, 0, 0] += 0.5
            return dataset

        monkeypatch.setattr(data, "load", changed)
        self.refused(
            plan(resume=True), "data: expected the examples that the training in .* began with, got others"
        )

    def test_damaged_checkpoint(self, plan):
        with pytest.raises(_Crash):
            train(plan(), crash_at(2, 1))
        checkpoint = plan().out / "checkpoint.safetensors"
        content = checkpoint.read_bytes()
        flipped = bytearray(content)
        flipped[-5] ^= 4
        for damaged in (bytes(flipped), content[:-9], b"", b"no safetensors"):
            checkpoint.write_bytes(damaged)
            self.refused(plan(resume=True), "checkpoint.safetensors is damaged.*; remove it to start again")
        checkpoint.write_bytes(content)
        train(plan(resume=True))

    def test_folder_that_cannot_be_written(self, plan, tmp_path):
        (tmp_path / "file").write_text("")
        self.refused(plan(out=tmp_path / "file"), "out: cannot write to .*file")
        self.refused(plan(out=tmp_path / "file" / "below"), "out: cannot write to .*below")

    def test_full_disk_keeps_the_checkpoint_before(self, plan, monkeypatch):
        whole = train(plan(out=plan().out.with_name("whole")))
        fsync = os.fsync

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        def fill_the_disk(now):
            if now.epoch == 2:
                monkeypatch.setattr(os, "fsync", full)

        with pytest.raises(
            ArgumentError, match=r"out: cannot write .*checkpoint.safetensors: No space left on device"
        ):
            train(plan(), fill_the_disk)
        monkeypatch.setattr(os, "fsync", fsync)
        assert not list(plan().out.glob(".*.new"))
        assert len((plan().out / "metrics.csv").read_text().splitlines()) == 1 + 1
        assert weights(train(plan(resume=True))) == weights(whole)

    def test_loss_that_is_not_finite(self, plan):
        # no checkpoint yet
        self.refused(
            plan(lr=1e30),
            r"lr: expected a finite loss, got (nan|inf) at step \d+ of epoch 1 .*; nothing is kept",
        )
        assert not (plan().out / "checkpoint.safetensors").exists()
        # an attack meets the ruined model before the loss does
        self.refused(
            plan(lr=1e30, method="sat", k=2),
            r"lr: expected a finite loss, got .* at step \d+ of epoch 1 .*; nothing is kept",
        )

    def test_loss_that_ceases_to_be_finite(self, plan, monkeypatch):
        from zeronorm.training import standard

        steps = 0

        def failing(model, batch):
            nonlocal steps
            steps += 1
            loss, logits = standard.cross_entropy(model, batch)
            return (loss * float("nan") if steps == 5 else loss), logits

        from zeronorm.training import methods
        from zeronorm.training.method import Method

        monkeypatch.setitem(methods.METHODS, "standard", Method(lambda setting: failing))
        # 270 examples are 3 steps an epoch
        self.refused(
            plan(), r"got nan at step 2 of epoch 2 with lr 0.05; .*out keeps the checkpoint of epoch 1$"
        )
        monkeypatch.undo()
        assert len(train(plan(resume=True)).history) == 3

    def test_data_without_a_test_split(self, plan, monkeypatch):
        load = data.load
        monkeypatch.setattr(data, "load", lambda name, split, limit=None: load(name, "train", limit))
        result = train(plan())
        assert (result.split, result.n) == ("validation", 30)
        assert result.accuracy == result.validation_accuracy
        self.refused(
            plan(validation=0.0, out=plan().out.with_name("other")),
            "validation: expected held-out examples, since digits has no test split of its own, got none",
        )

    def test_test_split_of_another_kind(self, plan, monkeypatch):
        load = data.load

        def other(name, split, limit=None):
            dataset = load(name, split, limit)
            if split == "test":
                object.__setattr__(dataset, "class_names", dataset.class_names[:9])
            return dataset

        monkeypatch.setattr(data, "load", other)
        self.refused(
            plan(), r"data: expected splits of one shape with the same classes, got Dataset\(digits, train"
        )


def test_learning_rate_follows_its_formula(plan):
    step, cosine = plan(schedule="step"), plan()
    steps = 100 * 391
    rates = [learning_rate(step, at, steps) for at in (0, 9774, 9775, 29324, 29325, steps - 1)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])  # Zhong et al., CIFAR-10
    assert learning_rate(cosine, 0, steps) == 0.05
    assert learning_rate(cosine, steps // 2, steps) == pytest.approx(0.025)
    assert 0 < learning_rate(cosine, steps - 1, steps) < 1e-8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_terminal_stays_clean(plan, capfd, precision):
    train(plan(precision=precision))
    assert capfd.readouterr() == ("", "")
