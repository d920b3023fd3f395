"""Crops and mirror images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zeronorm.training.augment import crop_and_flip

X = torch.arange(200 * 2 * 5 * 4, dtype=torch.float64).reshape(200, 2, 5, 4) + 1
IDS = torch.arange(200)


def places(x, augmented, crop, flip):
    """Where each image was cut out, found by trying every place."""
    padded = F.pad(x, (crop,) * 4)
    found = []
    for image, result in zip(padded, augmented, strict=True):
        matches = [
            (top, left, mirrored)
            for top in range(2 * crop + 1)
            for left in range(2 * crop + 1)
            for mirrored in ((False, True) if flip else (False,))
            if torch.equal(_cut(image, top, left, mirrored, x.shape[2:]), result)
        ]
        found.append(matches[0])
    return found


def _cut(image, top, left, mirrored, size):
    cut = image[:, top : top + size[0], left : left + size[1]]
    return cut.flip(2) if mirrored else cut


def test_every_place_and_both_sides_occur_about_equally_often():
    found = places(X, crop_and_flip(X, IDS, crop=1, flip=True, seed=0, epoch=1), 1, True)
    counts = {place: found.count(place) for place in set(found)}
    assert len(counts) == 18 and max(counts.values()) < 30  # 200 / 18 = 11
    flips = places(X, crop_and_flip(X, IDS, crop=0, flip=True, seed=0, epoch=1), 0, True)
    assert 70 < sum(mirrored for *_, mirrored in flips) < 130
    crops = places(X, crop_and_flip(X, IDS, crop=2, flip=False, seed=0, epoch=1), 2, False)
    assert len(set(crops)) == 25


def test_named_by_seed_example_and_epoch_only():
    whole = crop_and_flip(X, IDS, crop=1, flip=True, seed=0, epoch=1)
    rows = torch.tensor([7, 3, 100])
    assert torch.equal(crop_and_flip(X[rows], IDS[rows], crop=1, flip=True, seed=0, epoch=1), whole[rows])
    assert not torch.equal(crop_and_flip(X, IDS, crop=1, flip=True, seed=1, epoch=1), whole)
    assert not torch.equal(crop_and_flip(X, IDS, crop=1, flip=True, seed=0, epoch=2), whole)


def test_nothing_asked_nothing_done():
    assert crop_and_flip(X, IDS, crop=0, flip=False, seed=0, epoch=1) is X
