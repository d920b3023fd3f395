"""Traffic signs: which are still read when five pixels change, and does robust training help?

    python examples/traffic_signs.py                    # on signs drawn here
    python examples/traffic_signs.py --folder signs     # on yours: signs/train/CLASS/*.png, signs/test/CLASS/*.png

Such a folder is that of GTSRB, with the images resized to one size.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import zeronorm as zn

# corners, how far they are turned, colour, and a white bar's half width and height
SIGNS = {"stop": (8, 22, "firebrick", (7, 1)), "give way": (3, 180, "firebrick", (3, 3))}
SIGNS |= {"priority": (4, 0, "gold", (3, 3)), "ahead": (30, 0, "royalblue", (1, 7))}


def draw(folder: Path, each: int = 100) -> None:
    """Signs of any size, place and light: `each` of a class to learn from, half as many to test on."""
    rng = np.random.default_rng(0)
    for name, i in ((name, i) for name in SIGNS for i in range(each + each // 2)):
        (corners, turn, colour, (w, h)), (x, y), r = SIGNS[name], rng.uniform(14, 18, 2), rng.uniform(9, 13)
        picture = Image.new("RGB", (32, 32), tuple(map(int, rng.integers(40, 200, 3))))
        pen = ImageDraw.Draw(picture)
        pen.regular_polygon((x, y, r), corners, turn + rng.uniform(-8, 8), colour)
        pen.rectangle((x - w, y - h, x + w, y + h), "white")
        light = np.asarray(picture) * rng.uniform(0.4, 1) + rng.normal(0, 8, (32, 32, 3))
        path = folder / ("train" if i < each else "test") / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(path)


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--folder", type=Path)
options.add_argument("--out", type=Path, default=Path("runs/traffic-signs"))
for name, default in {"epochs": 20, "limit": 100, "steps": 100, "queries": 500}.items():
    options.add_argument(f"--{name}", type=int, default=default)
asked = options.parse_args()
folder = asked.folder or asked.out / "signs"
if not asked.folder:
    draw(folder)
common = dict(data=f"folder:{folder}", model_arguments={"width": 0.25}, epochs=asked.epochs, batch_size=40)
robust = {"method": "sat", "k": 5, "multi_k": 2, "steps": 5, "lr": 0.02}
test = zn.data.load(f"folder:{folder}", "test", asked.limit)
runs = {name: asked.out / f"{name}-attacked" for name in ("plain", "robust")}
for name, run in runs.items():
    plan = zn.training.TrainingPlan(out=asked.out / name, **common, **robust if name == "robust" else {})
    model, threats = zn.training.train(plan).model, [zn.L0(1), zn.L0(5)]
    result = zn.evaluate(model, test, threats, name=name, out=run, steps=asked.steps, queries=asked.queries)
    print(f"\n{result}\n")
    broken = [(row["label"], row["prediction"]) for row in result.records.to_pylist() if row["distance"]]
    for (label, prediction), n in Counter(broken).most_common(2):
        print(f"'{test.class_names[label]}' read as '{test.class_names[prediction]}' {n} times")
print(f"\nreport: {zn.report.render(list(runs.values()), asked.out / 'report.html')}")
