"""The same on a GPU: skipped without one."""

from __future__ import annotations

import pytest
import torch

import zeronorm as zn
from zeronorm.attacks import catalogue
from zeronorm.seeding import Streams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

OPTIONS = {"steps": 50, "queries": 100}


def digits(n: int) -> zn.data.Dataset:
    return zn.data.load("digits", "test", n)


def test_random_numbers_are_those_of_the_cpu():
    ids = torch.arange(100)
    cpu, gpu = (Streams(3, ids.to(device), "test") for device in ("cpu", "cuda"))
    assert torch.equal(cpu.bits(7, 50), gpu.bits(7, 50).cpu())
    assert torch.allclose(cpu.normal(7, 50), gpu.normal(7, 50).cpu(), atol=1e-5)


@pytest.mark.parametrize("name", catalogue)
def test_attacks_stay_inside_and_break_as_many_as_on_the_cpu(name):
    data, attack = digits(100), catalogue[name]
    threat = {"L0": zn.L0(2), "Linf": zn.Linf(0.2), "L2": zn.L2(1.0)}[attack.norms[0]]
    options = {option: OPTIONS[option] for option in attack.cost}
    broken = {}
    for device in ("cpu", "cuda"):
        model, x, y = zn.models.load("digits").to(device), data.x.to(device), data.y.to(device)
        x_adv = attack.function(model, x, y, threat, **options)
        assert x_adv.device == x.device and bool(threat.contains(x, x_adv).all())
        broken[device] = float((model(x_adv).argmax(1) != y).float().mean())
    assert abs(broken["cpu"] - broken["cuda"]) <= 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_on_the_gpu_holds_on_the_cpu(tmp_path, precision):
    model, data = zn.models.load("digits").to("cuda"), digits(60)
    evaluation = zn.evaluate(
        model, data, [zn.L0(1), zn.L0(3)], out=tmp_path / "run", precision=precision, **OPTIONS
    )
    assert evaluation.robust_accuracy[3] < evaluation.robust_accuracy[1] < evaluation.clean_accuracy
    on_gpu = zn.verify(tmp_path / "run", model, data)
    assert on_gpu.ok, on_gpu.problems


@pytest.mark.parametrize("method", ["sat", "strades", "fast_ls", "truncated", "ablation"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_on_the_gpu_learns_as_on_the_cpu(tmp_path, method, precision):
    attacked = {} if method == "ablation" else {"k": 1, "steps": 5}
    own = {"multi_k": 2.0} if method in ("sat", "strades", "fast_ls") else {}
    model = {"truncated": "mlp", "ablation": "lenet_300_100"}.get(method, "preact_resnet18")
    own |= {"retained": 24} if method == "ablation" else {"append_every": 2} if method == "truncated" else {}
    plan = zn.training.TrainingPlan(
        out=tmp_path / "out", method=method, model=model, precision=precision, epochs=6, device="cuda",
        validation_limit=40, validation_steps=5, validation_queries=20, **attacked, **own,
    )  # fmt: skip
    result = zn.training.train(plan)
    assert result.accuracy > 0.2  # a short training; guessing has 0.1
    assert next(zn.models.load(result.out).parameters()).device.type == "cpu"
    on_gpu = (
        zn.evaluate(result.model.to("cuda"), digits(30), zn.L0(1), "sparse_rs", queries=20)
        if attacked
        else None
    )
    assert on_gpu is None or on_gpu.clean_accuracy > 0.2


def test_certificates_on_the_gpu_are_those_of_the_cpu():
    base = zn.models.build("lenet_300_100", in_channels=2, image_size=8).eval()
    votes = [
        zn.defenses.RandomizedAblation(base.to(device), 20).vote_counts(digits(10).x.to(device), 200)
        for device in ("cpu", "cuda")
    ]
    assert int((votes[0] - votes[1]).abs().sum()) <= 4  # of 2,000: near ties
