from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import DatasetInfo

from zeronorm import ArgumentError
from zeronorm.data import load


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Put the files of tmp_path on a Hub of their own; returns the list of what was downloaded."""
    downloaded = []

    def information(repository, *, timeout):
        root = tmp_path / repository
        tables = (p.relative_to(root).as_posix() for p in root.rglob("*.parquet"))
        return DatasetInfo(
            id=repository,
            author="",
            siblings=[{"rfilename": name} for name in (".gitattributes", "README.md", *tables)],
        )

    def download(repository, file, *, repo_type):
        assert repo_type == "dataset"
        downloaded.append(file)
        return str(tmp_path / repository / file)

    monkeypatch.setattr(huggingface_hub, "dataset_info", information)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return downloaded


@pytest.mark.parametrize(
    ("name", "folder", "columns", "classes"),
    [
        ("mnist", "ylecun/mnist/mnist", ("image", "label"), 10),
        ("cifar10", "uoft-cs/cifar10/plain_text", ("img", "label"), 10),
        ("cifar100", "uoft-cs/cifar100/cifar100", ("img", "fine_label"), 100),
    ],
)
def test_named_data_sets(tmp_path, serve, greys, write_table, name, folder, columns, classes):
    write_table(tmp_path / folder / "train-00000-of-00001.parquet", greys(4), [0, 1, 2, 3], columns)
    write_table(tmp_path / folder / "test-00000-of-00001.parquet", greys(2), [0, 1], columns)
    data = load(name)
    assert (data.name, data.split, len(data), len(data.class_names)) == (name, "test", 2, classes)
    assert len(load(name, "train")) == 4
    config = folder.split("/")[-1]
    assert serve == [f"{config}/{split}-00000-of-00001.parquet" for split in ("test", "train")]


def test_names_of_the_table_come_before_ours(tmp_path, serve, greys, write_table):
    path = tmp_path / "ylecun/mnist/mnist/test-00000-of-00001.parquet"
    write_table(path, greys(2), [0, 1], names=["zero", "one"])
    assert load("mnist").class_names == ("zero", "one")


def test_any_repository_by_its_shards(tmp_path, serve, greys, write_table):
    for i in range(3):
        path = tmp_path / f"some/one/data/validation-0000{i}-of-00003-4f2a.parquet"
        write_table(path, greys(2, 10 * i), [0, i], names=["a", "b", "c"])
    data = load("hub:some/one", "validation")
    assert data.y.tolist() == [0, 0, 0, 1, 0, 2] and data.class_names == ("a", "b", "c")
    message = r"^split: expected one of validation \(in some/one\), got 'test'$"
    with pytest.raises(ArgumentError, match=message):
        load("hub:some/one")


def test_only_the_shards_needed_are_downloaded(tmp_path, serve, greys, write_table):
    for i in range(3):
        path = tmp_path / f"some/one/data/test-0000{i}-of-00003.parquet"
        write_table(path, greys(2), [0, 1], names=["a", "b"])
    assert len(load("hub:some/one", limit=3)) == 3
    assert len(serve) == 2


def test_no_network_says_how_to_use_a_local_copy():
    # HF_HUB_OFFLINE is not read again once the client is imported, so break the calls themselves
    def fail(*_, **__):
        raise ConnectionError("Name or service\nnot known")

    with pytest.MonkeyPatch.context() as patch:
        for function in ("dataset_info", "snapshot_download"):
            patch.setattr(huggingface_hub, function, fail)
        with pytest.raises(
            ArgumentError, match="ConnectionError: Name or service not known; set ZERONORM_DATA"
        ):
            load("mnist")
        with pytest.raises(
            ArgumentError, match=r"to download some/one from .*; parquet:PATH reads a local copy$"
        ):
            load("hub:some/one")


def test_a_download_that_breaks_off(tmp_path, serve, greys, write_table, monkeypatch):
    def fail(*_, **__):
        raise OSError("Consistency check failed")

    write_table(tmp_path / "ylecun/mnist/mnist/test-00000-of-00001.parquet", greys(2), [0, 1])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = r"download ylecun/mnist/mnist/test-.* Consistency check failed; set"
    with pytest.raises(ArgumentError, match=message):
        load("mnist")


def test_what_was_downloaded_once_needs_no_network(tmp_path, greys, write_table, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError

    def cached(repository, *, repo_type, local_files_only):
        assert (repository, repo_type, local_files_only) == ("ylecun/mnist", "dataset", True)
        return str(tmp_path)

    write_table(tmp_path / "mnist/test-00000-of-00001.parquet", greys(2), [0, 1])
    monkeypatch.setattr(huggingface_hub, "dataset_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert len(load("mnist")) == 2
    with pytest.raises(
        ArgumentError, match=r"^data: expected to download ylecun/mnist from the Hugging Face Hub"
    ):
        load("mnist", "train")
