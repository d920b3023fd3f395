"""Every defence of the library as commands that train it, in proportion to a data set."""

from __future__ import annotations

import math

LARGE = 256  # pixels from which networks and trainings are those of the papers


def recipes(channels: int, sides: tuple[int, int], k: int, epochs: int) -> dict[str, list[str]]:
    """By the defence's name, what follows `zeronorm train`; "{plain}" stands for the folder of the plain model.

    All have the same network but those that are networks themselves: a truncated one (two hidden layers), an
    ℓ0-Lipschitz one and a vote of groups.  None is tuned: they are what the documentation of each starts from, within
    so many passes over the data, of the plain network.  `k` is how many pixels shall be withstood.
    """
    height, width = sides
    pixels = height * width
    large = pixels >= LARGE
    network = ["--model", "small_cnn", "--set", "width=0.25" if large else "width=0.32"]
    batch = [] if large else ["--batch-size", "64"]
    robust = ["--k", str(k), *network, *batch, "--average", "0.99"]
    many = ["--multi-k", "4" if large else "1.5", "--steps", "10"]
    halves = min(_halvings(height), _halvings(width), 2)
    frequencies = {"wavelet": "haar", "level": halves, "keep_fraction": 0.1 if large else 0.3}
    # images of digits are no mirror images of one another, and their sides are not those of CIFAR-10
    lattice = [[[height // 4 if large else 4, 0], [0, width // 4 if large else 4]]]
    window = max(1, min(k, (channels * pixels) // 2 - 1))

    def passes(share: float = 1.0) -> list[str]:
        return ["--epochs", str(max(1, math.ceil(share * epochs)))]

    retraining = max(2, epochs if large else 2 * epochs)

    made = {
        "plain": [*network, *batch, *passes()],
        "pruned": [
            "--initial", "{plain}", "--prune", "0.9" if large else "0.8", "--prune-rounds",
            str(min(3, retraining - 1)), "--lr", "0.02", *batch, "--epochs", str(retraining),
        ],
        "front_end": [*network, *batch, *passes(), "--set", f"front_end={_json(frequencies)}"],
        "truncated": [
            "--method", "truncated", "--model", "mlp", "--set", "widths=[128,100]", "--set", f"truncation={window}",
            "--k", str(k), "--box-factor", "1", "--append-every", str(max(1, epochs // 3)), "--append-limit", "1000",
            *batch, *passes(),
        ],
        "sat": ["--method", "sat", *robust, *many, *passes()],
        "strades": ["--method", "strades", *robust, *many, "--beta", "4", *passes()],
        "fast_ls": ["--method", "fast_ls", *robust, "--multi-k", "4" if large else "1.5", *passes()],
        "ablation": [
            "--method", "ablation", *network, *batch, "--retained", str(round((0.0575 if large else 0.3) * pixels)),
            *passes(3.0),
        ],
        "l0_lipschitz": [
            "--method", "l0_lipschitz", "--budget", f"{2.6 * k:g}", "--temperature", f"{0.5 * k:g}",
            *([] if large else ["--batch-size", "50"]), *passes(0.6),
        ],
        "feature_partition": [
            "--method", "feature_partition", "--budget", f"{2.5 * k:g}", "--temperature", f"{k:g}",
            *(["--batch-size", "50", "--set", "widths=[128,64]"] if not large else []),
            *(["--set", f"partition={_json(lattice)}", "--set", "mirrored=false", "--no-flip", "--crop", "0"]
              if channels != 3 else []),
            *passes(1.0 if large else 3.0),
        ],
    }  # fmt: skip
    return made


def _halvings(side: int) -> int:
    return (side & -side).bit_length() - 1


def _json(value: object) -> str:
    import json

    return json.dumps(value, separators=(",", ":"))
