"""The page of a training, from metrics.csv and model.json alone."""

from __future__ import annotations

import json

import pytest
from test_page import EVIL, Page

from zeronorm import ArgumentError
from zeronorm.report import render
from zeronorm.report.training import read_metrics

HEADER = "epoch,lr,loss,accuracy,validation_loss,validation_accuracy,robust_accuracy,seconds"


def write(folder, rows, sidecar=None):
    folder.mkdir()
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows, ""]))
    if sidecar is not None:
        (folder / "model.json").write_text(json.dumps(sidecar))
    return folder


def sidecar(name="small_cnn"):
    return {
        "architecture": name,
        "digest": "sha256:ab",
        "data": {"name": "digits", "digest": "sha256:cd"},
        "accuracy": {"value": 0.95, "correct": 342, "n": 360, "split": "test"},
        "training": {
            "command": "zeronorm train --method strades --out DIR",
            "plan": {"method": "strades", "k": 3},
            "best_epoch": 2,
            "robust_accuracy": 0.625,
            "seconds": 12.5,
            "device": "cpu",
        },
        "versions": {"zeronorm": "0.1.0"},
    }


ROWS = ["1,0.05,2.5,0.1,2.25,0.25,0.125,3.5", "2,0.01,1.5,0.5,1.25,0.75,0.625,3.25"]


def test_says_what_the_records_say(tmp_path):
    page = Page(render(write(tmp_path / "run", ROWS, sidecar()), tmp_path / "page.html"))
    for said in (
        "Trained on digits by strades , 2 epochs; kept is epoch 2",
        "Of 360 test images 95.0",
        "within k = 3 pixels, 62.5",
        "zeronorm train --method strades --out DIR",
        "robust accuracy",
        "12.5 s on cpu",
    ):
        assert said in page.text
    descriptions = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img"]
    assert descriptions == [
        "Right answers. learnt, as they were learnt: 50.0 % at the end; held out: 75.0 % at the end; "
        "held out, under attack: 62.5 % at the end.",
        "Loss. learnt: 1.5000 at the end; held out: 1.2500 at the end.",
    ]
    # the last point of the robust line: at the right, 62.5 % up
    assert "L1000.0 375.0" in page.source
    assert render(tmp_path / "run", tmp_path / "again.html").read_text() == page.source


def test_an_unfinished_plain_training_without_held_out_examples(tmp_path):
    page = Page(render(write(tmp_path / "run", ["1,0.05,2.5,0.1,,,,3.5"]), tmp_path / "page.html"))
    assert "This training is unfinished. 1 epoch so far" in page.text
    assert "validation" not in page.text and "held out:" not in page.text


def test_many_epochs_and_a_loss_of_zero(tmp_path):
    rows = [f"{epoch},0.1,0,1,0,1,1,1" for epoch in range(1, 201)]
    page = Page(render(write(tmp_path / "run", rows, sidecar()), tmp_path / "page.html"))
    ticks = [attrs for _, attrs in page.tags if attrs.get("class") == "x"]
    assert len(ticks) <= 2 * 9
    assert ">nan" not in page.source and " nan" not in page.source


def test_names_cannot_speak_html(tmp_path):
    page = Page(render(write(tmp_path / "run", ROWS, sidecar(EVIL)), tmp_path / "page.html"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_damaged_records(tmp_path):
    broken = write(tmp_path / "a", ["1,0.05,x,0.1,,,,1"])
    with pytest.raises(ArgumentError, match=r"runs: .*metrics.csv cannot be read: could not convert string"):
        render(broken, tmp_path / "page.html")
    with pytest.raises(ArgumentError, match=r"expected an epoch at least in .*metrics.csv, found none"):
        read_metrics(write(tmp_path / "b", []))
    damaged = write(tmp_path / "c", ROWS, sidecar())
    (damaged / "model.json").write_text("{")
    with pytest.raises(ArgumentError, match=r"runs: .*model.json is damaged"):
        render(damaged, tmp_path / "page.html")
