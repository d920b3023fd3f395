"""Several processes that train one model: what they learn is what one learns, and one of them alone speaks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import shared_training
import torch

from zeronorm import models
from zeronorm.errors import ArgumentError
from zeronorm.training.processes import Processes

CLI = [sys.executable, "-m", "zeronorm", "train", "--data", "digits", "--limit", "300", "--lr", "0.1"]
WORDS = ["--model", "lenet_300_100", "--epochs", "3", "--batch-size", "64"]


def compared(one, two):
    """The losses and the weights of trainings by one process and by two, in two folders."""
    curves = [json.loads((folder / "curves.json").read_text()) for folder in (one, two)]
    assert curves[0].keys() == curves[1].keys()
    for name, curve in curves[0].items():
        assert torch.tensor(curves[1][name]) == pytest.approx(torch.tensor(curve), abs=2e-6), name  # float32
        first, second = (
            safetensors.torch.load_file(folder / name / "checkpoint.safetensors") for folder in (one, two)
        )
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            if tensor.dtype == torch.float64:
                assert torch.allclose(tensor, second[key], rtol=0, atol=1e-9), (name, key)
            elif not tensor.is_floating_point():
                assert torch.equal(tensor, second[key]), (name, key)


def both(tmp_path, names):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for folder, how in ((tmp_path / "one", []), (tmp_path / "two", torchrun)):
        folder.mkdir()
        words = [sys.executable, *how, shared_training.__file__, folder, *names]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    compared(tmp_path / "one", tmp_path / "two")
    return done


def test_two_learn_what_one_learns(tmp_path):
    """A batch that two do not share evenly, batch normalisation, labels that are remembered."""
    done = both(tmp_path, ["fast_ls", "batch_norm"])
    assert "Warning" not in done.stderr
    curves = json.loads((tmp_path / "two" / "curves.json").read_text())
    assert curves["fast_ls"][-1][1] > 0.5  # of the last epoch, what was right as it was learnt


@pytest.mark.slow
def test_two_learn_what_one_learns_by_every_method(tmp_path):
    both(tmp_path, list(shared_training.CASES))


@pytest.mark.slow
def test_the_command_line_shares_speaks_once_and_goes_on_with_another_number(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    stopped = subprocess.Popen(
        [*CLI, *WORDS, "--epochs", "400", "--devices", "2", "--out", str(halves)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = halves / "metrics.csv"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 128 + signal.SIGTERM
    assert said.count("stopped; the same command with --resume continues") == 1
    assert said.count("epoch 1/400: ") == 1
    learnt = len(metrics.read_text().splitlines()) - 1
    assert 1 <= learnt < 400
    # alone from here on, for as long as it takes to compare
    from zeronorm.training import TrainingPlan, train

    asked = {"model": "lenet_300_100", "limit": 300, "lr": 0.1, "epochs": 400, "batch_size": 64}

    class Enough(Exception): ...

    def until(now):
        if (now.epoch, now.step) == (learnt + 5, 2):
            raise Enough

    losses = []
    for out in (halves, whole):
        with pytest.raises(Enough):
            train(TrainingPlan(out=out, resume=True, **asked), until)
        losses.append(
            [float(row.split(",")[2]) for row in (out / "metrics.csv").read_text().splitlines()[1:]]
        )
    assert len(losses[0]) == len(losses[1]) == learnt + 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)  # float32, after hundreds of steps


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_word(tmp_path):
    training = subprocess.Popen(
        [*CLI, *WORDS, "--epochs", "4000", "--devices", "2", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = {
        re.search(rb"\0RANK=(\d)\0", environment).group(1): int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit()
        and (environment := _environment(path))
        and b"\0RANK=" in environment
        and str(training.pid).encode() == _parent(path)
    }
    os.kill(ranks[b"1"], signal.SIGKILL)
    _, said = training.communicate(timeout=120)
    assert training.returncode == 2
    assert "devices: process 1 of 2 was killed by SIGKILL and the others were ended; the same command" in said
    assert said.count("devices: another process of this training ended early; the same command") <= 1
    assert "Traceback" not in said
    assert not any(_parent(Path("/proc") / str(pid)) for pid in ranks.values()), "one is left over"


@pytest.mark.slow
def test_processes_end_with_the_one_that_launched_them(tmp_path):
    """Killed, it cannot end them; they notice, and keep what they learnt."""
    words = [*CLI, *WORDS, "--epochs", "4000", "--devices", "2", "--out", str(tmp_path / "out")]
    training = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "out" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = [
        path
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and str(training.pid).encode() == _parent(path)
    ]
    assert ranks
    training.kill()
    training.wait()
    deadline = time.monotonic() + 60
    while any(map(_parent, ranks)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(_parent, ranks)), "they go on"
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


def _environment(process):
    try:
        return b"\0" + (process / "environ").read_bytes()
    except OSError:
        return b""


def _parent(process):
    try:
        return re.search(rb"PPid:\t(\d+)", (process / "status").read_bytes()).group(1)
    except OSError:
        return None


class TestRefusals:
    def test_what_does_not_learn_by_gradients(self, cli, tmp_path):
        with pytest.raises(
            ArgumentError, match="model: expected one that learns by gradients, got l0_lipschitz"
        ):
            cli("--model", "l0_lipschitz", "--out", str(tmp_path / "out"))

    @pytest.mark.parametrize("method", ["l0-lipschitz", "feature_partition"])
    def test_methods_with_loops_of_their_own(self, cli, tmp_path, method):
        with pytest.raises(ArgumentError, match=r"devices: the method \w+ trains on one, got 2"):
            cli("--method", method, "--devices", "2", "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_no_devices(self, cli, tmp_path):
        with pytest.raises(
            ArgumentError, match=r"devices: expected at most \d+, the cores of this machine, got 999"
        ):
            cli("--devices", "999", "--out", str(tmp_path / "out"))
        with pytest.raises(ArgumentError, match="devices: expected an integer of at least 1, got 0"):
            cli("--devices", "0", "--out", str(tmp_path / "out"))

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
    def test_a_gpu_where_there_is_none(self, cli, tmp_path):
        with pytest.raises(ArgumentError, match="device: expected a device of this machine, got cuda"):
            cli("--devices", "2", "--device", "cuda", "--out", str(tmp_path / "out"))

    def test_another_number_than_torchrun_started(self, cli, tmp_path, monkeypatch):
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ArgumentError, match="devices: expected 2, the processes that torchrun started"):
            cli("--devices", "4", "--out", str(tmp_path / "out"))
        with pytest.raises(ArgumentError, match=r"devices: the method \w+ trains on one, got 2"):
            cli("--method", "l0_lipschitz", "--out", str(tmp_path / "out"))

    @pytest.mark.slow
    def test_what_all_refuse_is_said_once(self, tmp_path):
        done = subprocess.run(
            [*CLI, "--limit", "6", "--batch-size", "2", "--devices", "2", "--out", str(tmp_path / "out")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr == (
            "zeronorm: batch_size: expected steps of at least 2 examples, one for each process, got 1\n"
        )

    def test_fewer_examples_in_a_step_than_processes(self, cli, tmp_path):
        with pytest.raises(ArgumentError, match="batch_size: expected at least 2 examples, one for each"):
            cli("--batch-size", "1", "--devices", "2", "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


@pytest.fixture
def cli():
    """The command line in this process; what it refuses comes out."""
    from typer.testing import CliRunner

    from zeronorm.cli.main import app

    def run(*words):
        result = CliRunner().invoke(app, ["train", "--data", "digits", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception

    return run


def test_alone_everything_is_its_own():
    alone, rows = Processes(), torch.arange(5)
    assert alone.leads and torch.equal(alone.share(rows), rows) and torch.equal(alone.total(rows), rows)
    assert alone.agreed(None) is None and alone.agreed(15) == 15 and alone.first(lambda: 3) == 3
    shares = [Processes(count=3, rank=rank).share(rows) for rank in range(3)]
    assert torch.equal(torch.cat(shares), rows)
    model = models.build("resnet20", in_channels=1, image_size=8, classes=10)
    kinds = [type(module) for module in model.modules()]
    alone.normalise(model)
    assert [type(module) for module in model.modules()] == kinds
