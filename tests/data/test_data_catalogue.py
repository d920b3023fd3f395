from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from zeronorm import ArgumentError
from zeronorm.data import available, load


def test_digits_are_the_same_everywhere_and_for_ever():
    train, test = load("digits", "train"), load("digits")
    assert (len(train), len(test)) == (1437, 360)
    assert test.x.shape == (360, 1, 8, 8) and test.x.dtype == torch.float32 and test.x.is_contiguous()
    assert test.x.min() == 0 and test.x.max() == 1
    assert test.y[:5].tolist() == [2, 3, 4, 5, 6] and test.y.dtype == torch.int64
    assert torch.equal(test.ids, torch.arange(360))
    assert test.class_names == tuple("0123456789") and test.names is None
    assert test.digest == "sha256:b1c7c438ce7b5b2f175dd6cb53c133274bd97cf6bad370d6094ccaf39eb856c1"
    assert train.digest == "sha256:7fc950203aff0673ee56a602b4207419343db04ff593b7df81ebdaaf54532bac"


@pytest.mark.parametrize("limit", [1, 100, 1000])
def test_limit_takes_the_first(limit):
    whole, data = load("digits"), load("digits", limit=limit)
    assert len(data) == min(limit, 360)
    assert torch.equal(data.x, whole.x[:limit]) and torch.equal(data.ids, whole.ids[:limit])


@pytest.mark.parametrize("limit", [0, -1, True])
def test_limit_is_a_positive_integer(limit):
    with pytest.raises(ArgumentError, match=r"^limit: expected an integer of at least 1, got "):
        load("digits", limit=limit)


@pytest.mark.parametrize("name", ["digit", "", "folder:", "parquet", "hub:", "zip:x", "./images"])
def test_unknown_name(name):
    with pytest.raises(
        ArgumentError, match=r"^data: expected one of digits, mnist, .*folder:PATH, .*, got '"
    ):
        load(name)


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "cifar100"])
def test_unknown_split(name):
    with pytest.raises(ArgumentError, match=r"^split: expected one of train, test, got 'val'$"):
        load(name, "val")


def test_available_names_what_load_takes():
    assert list(available()) == [
        "digits", "mnist", "cifar10", "cifar100", "gtsrb", "imagenet", "imagenet100",
        "folder:PATH", "parquet:PATH", "table:PATH", "hub:OWNER/NAME",
    ]  # fmt: skip
    assert all(line and "\n" not in line for line in available().values())


def test_the_hub_client_is_imported_only_for_the_hub():
    code = "import sys, zeronorm.data; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_local_copies_of_named_data_sets(tmp_path, monkeypatch, greys, write_table):
    monkeypatch.setenv("ZERONORM_DATA", str(tmp_path))
    write_table(tmp_path / "cifar10" / "test.parquet", greys(3), [0, 9, 1], columns=("img", "label"))
    data = load("cifar10")
    assert len(data) == 3 and data.class_names[9] == "truck" and data.name == "cifar10"
    assert len(load("cifar10", limit=1).class_names) == 10
    with pytest.raises(ArgumentError, match=r"^split: expected one of test \(in .*cifar10\), got 'train'$"):
        load("cifar10", "train")


def test_a_folder_without_the_data_set(tmp_path, monkeypatch):
    for root in (tmp_path, tmp_path / "no"):
        monkeypatch.setenv("ZERONORM_DATA", str(root))
        message = r"^ZERONORM_DATA: expected a folder that holds mnist/test.parquet, got .* without it; unset it, or"
        with pytest.raises(ArgumentError, match=message):
            load("mnist")
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("ZERONORM_DATA", str(tmp_path))
    with pytest.raises(ArgumentError, match=r"^data: expected files such as test.parquet in .*mnist, got no"):
        load("mnist")


# -- real data ----------------------------------------------------------------------------------------------------


@pytest.fixture
def real_data():
    root = os.environ.get("ZERONORM_DATA")
    if not root:
        pytest.skip("ZERONORM_DATA is not set")
    return lambda name: os.path.isdir(os.path.join(root, name)) or pytest.skip(f"no {name} in ZERONORM_DATA")


def test_mnist(real_data):
    real_data("mnist")
    data = load("mnist")
    assert data.x.shape == (10_000, 1, 28, 28)
    assert data.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(float(data.x.mean()) - 0.1325) < 1e-4


def test_cifar10(real_data):
    real_data("cifar10")
    data = load("cifar10", limit=1000)
    assert data.x.shape == (1000, 3, 32, 32) and len(data.class_names) == 10
    assert set(data.y.tolist()) == set(range(10))
    assert data.x.min() == 0 and data.x.max() == 1
