from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from zeronorm.data import Dataset


@pytest.fixture
def dataset():
    x = torch.arange(12.0).reshape(2, 1, 2, 3) / 12
    return Dataset(x, torch.tensor([0, 1]), torch.tensor([5, 6]), "some", "test", ("cat", "dog"))


def test_length_and_text(dataset):
    assert len(dataset) == 2
    assert repr(dataset) == "Dataset(some, test: 2 of 1x2x3, 2 classes)"


def test_is_frozen(dataset):
    with pytest.raises(FrozenInstanceError):
        dataset.x = dataset.x + 1


def test_digest_notices_any_change_of_the_examples(dataset):
    x = dataset.x.clone()
    x[1, 0, 1, 2] += 1e-7
    changed = [
        replace(dataset, x=x),
        replace(dataset, x=dataset.x.reshape(2, 1, 3, 2)),
        replace(dataset, y=torch.tensor([1, 0])),
        replace(dataset, ids=torch.tensor([5, 7])),
    ]
    digests = {d.digest for d in [dataset, *changed]}
    assert len(digests) == 5
    assert all(digest.startswith("sha256:") and len(digest) == 71 for digest in digests)


def test_digest_is_of_the_values_not_of_their_layout_or_name(dataset):
    strided = torch.stack([dataset.x, dataset.x], -1)[..., 0]
    assert not strided.is_contiguous()
    assert replace(dataset, x=strided, name="other", split="train").digest == dataset.digest
