"""Any Python function as a model: numpy in, scores out.  Nothing else of it is used, no gradient.

Run it: `python examples/black_box_function.py`.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep

import argparse
from pathlib import Path

import numpy as np

import zeronorm as zn

_train = zn.data.load("digits", "train")
_images, _digits = _train.x.numpy().reshape(len(_train), -1), np.eye(10)[_train.y.numpy()]


def classify(images: np.ndarray) -> np.ndarray:
    """Probabilities (image, class): the neighbours of an image vote, the near ones with more weight."""
    flat = images.reshape(len(images), -1)
    squared = (flat**2).sum(1)[:, None] - 2 * flat @ _images.T + (_images**2).sum(1)
    votes = np.exp(-2 * np.maximum(squared, 0)) @ _digits + 1e-12
    return votes / votes.sum(1, keepdims=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--limit", type=int, default=50)
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--out", type=Path, default=Path("runs/black-box"))
    asked = options.parse_args()

    model = zn.models.BlackBox(classify, scores="probabilities", batch_size=512)
    data = zn.data.load("digits", "test", asked.limit)
    # the cascade keeps its black-box stage: sparse_rs
    print(zn.evaluate(model, data, [zn.L0(k) for k in (1, 2, 4)], queries=asked.queries, out=asked.out))
    print(f"\nreport: {zn.report.render(asked.out, asked.out / 'report.html')}")


if __name__ == "__main__":
    main()
