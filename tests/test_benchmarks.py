"""`make bench` runs; what it measures is tested beside `zeronorm.evaluation.cost`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_it_says_where_only_the_time_means_anything():
    words = "--models lenet_300_100,resnet20 --data noise --images 4 --steps 1 --queries 2 --rounds 1"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "resnet20 on noise, untrained: only the time means anything" in done.stdout
    assert done.stdout.count("sparse_pgd (projected)") == 2


def test_a_training_step_against_its_bare_passes():
    words = "--data noise --width 0.05 --rounds 2 --batch-size 8 --k 3"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["sat", "strades", "fast_ls"]
    assert all("ms of bare passes: " in line and line.endswith(" images/s") for line in lines)


def test_certificates_attacked_at_their_radius():
    words = (
        "--model nearest-neighbour --data digits --neighbours 300 --images 12 --queries 30 --attack pointwise"
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.certificates", *words.split(), "--beyond", "0,12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    title, within, beyond = done.stdout.splitlines()
    assert title.startswith("nearest-neighbour on digits: 12 certified images, radii ")
    assert within.startswith("  pointwise, 30 queries, radius + 0: 0 of 12 broken")
    assert int(beyond.split("radius + 12: ")[1].split()[0]) > 0
