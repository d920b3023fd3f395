"""The adversarials of a run, made again: those of the model, within the budget, and as pictures what they say."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from small_runs import SHORT, dataset, network

import zeronorm as zn
from zeronorm.errors import ArgumentError
from zeronorm.evaluation.adversarials import save_adversarials

BUDGETS = [zn.L0(1), zn.L0(3)]


@pytest.fixture(scope="module")
def run(model, data, tmp_path_factory):
    return zn.evaluate(model, data, BUDGETS, out=tmp_path_factory.mktemp("run") / "r", **SHORT)


def test_each_breaks_the_model_with_as_few_changes_as_the_run_found(run, model, data):
    found = run.adversarials(data)
    smallest = {
        i: s
        for i, s in zip(run.summary.examples.tolist(), run.summary.smallest.tolist(), strict=True)
        if 0 < s < 9
    }
    distance = zn.distances.l0_pixels(found.x, found.x_adv)
    assert dict(zip(found.ids.tolist(), distance.tolist(), strict=True)) == smallest and len(found) > 5
    with torch.no_grad():
        assert torch.equal(model(found.x_adv).argmax(1), found.prediction)
    assert (found.prediction != found.y).all()


def test_within_fewer_changes_there_are_fewer(run, data):
    few = run.adversarials(data, k=1)
    assert 0 < len(few) < len(run.adversarials(data))
    assert zn.distances.l0_pixels(few.x, few.x_adv).eq(1).all()


def test_files(run, model, data, tmp_path):
    found = run.adversarials(data)
    counts = save_adversarials(found, tmp_path, model)
    stored = safetensors.torch.load_file(tmp_path / "adversarials.safetensors")
    assert torch.equal(stored["x_adv"], found.x_adv) and torch.equal(stored["ids"], found.ids)
    lines = list(csv.DictReader((tmp_path / "index.csv").read_text().splitlines()))
    assert counts["adversarials"] == len(lines) == len(found)
    assert counts["survive"] == sum(line["survives"] == "yes" for line in lines)
    for line, x in zip(lines, found.x_adv, strict=True):
        picture = np.asarray(Image.open(tmp_path / line["file"]))
        assert np.abs(picture / 255 - x[0].numpy()).max() <= 0.5 / 255 + 1e-6
        with torch.no_grad():
            answer = int(model(torch.tensor(picture / 255, dtype=torch.float32)[None, None]).argmax())
        assert answer == int(line["rounded_prediction"])
        assert (line["survives"] == "yes") is (answer != int(line["label"]))


def test_without_a_model_survival_is_not_claimed(run, data, tmp_path):
    save_adversarials(run.adversarials(data), tmp_path)
    assert {
        line["survives"] for line in csv.DictReader((tmp_path / "index.csv").read_text().splitlines())
    } == {""}


def test_colour(tmp_path):
    model = network(channels=3)
    data = dataset(model, channels=3)
    found = zn.evaluate(model, data, zn.L0(3), **SHORT).adversarials(data)
    save_adversarials(found, tmp_path)
    picture = np.asarray(Image.open(tmp_path / "adversarial" / f"{int(found.ids[0]):06d}.png"))
    assert picture.shape == (5, 5, 3)
    assert np.abs(np.moveaxis(picture, -1, 0) / 255 - found.x_adv[0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_refusals(run, model, data):
    with pytest.raises(ArgumentError, match=r"^data: expected the run's, whose example"):
        run.adversarials(data.first(2))
    other = zn.data.Dataset(data.x, (data.y + 1) % 4, data.ids, "random", "test", data.class_names)
    with pytest.raises(ArgumentError, match=r"^data: expected the run's, where example"):
        run.adversarials(other)
    nothing = zn.evaluate(model, data, zn.L0(0), **SHORT)
    with pytest.raises(ArgumentError, match=r"^run: expected adversarials in .* found none$"):
        nothing.adversarials(data)


def test_a_frame_of_the_figures(run):
    frame = run.to_frame()
    assert frame["k"].tolist() == [0, 1, 3]
    assert frame["accuracy"].tolist() == [run.clean_accuracy, *run.robust_accuracy.values()]
    assert "<table>" in run._repr_html_()


def test_robust_accuracy_is_a_mapping(run):
    assert list(run.robust_accuracy) == [1, 3] == list(run.robust_accuracy.keys())
    assert dict(run.robust_accuracy)[3] == run.robust_accuracy == min(run.robust_accuracy.values())
    assert 3 in run.robust_accuracy and 2 not in run.robust_accuracy and len(run.robust_accuracy) == 2
