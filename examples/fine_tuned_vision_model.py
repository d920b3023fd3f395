"""A robust vision model, fine-tuned on two classes of your own: does it stay robust?

    python examples/fine_tuned_vision_model.py

The body is a ResNet-20 that learnt CIFAR-10 and to resist 20 changed pixels; the classes are two photographs that
scikit-learn brings, cut into pieces.  For another body change `fine_tuned`: a last layer of your own is all it takes.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from torch import nn

import zeronorm as zn

BODY = Path(__file__).parents[1] / "models/cifar10-sat"


def pieces() -> tuple[torch.Tensor, torch.Tensor]:
    """Pieces of 32 × 32 pixels of a temple (0) and of a flower (1), from left to right."""
    cut = []
    for photograph in load_sample_images().images:
        grid = torch.tensor(photograph / 255, dtype=torch.float32).unfold(0, 32, 32).unfold(1, 32, 32)
        cut.append(grid.transpose(0, 1).flatten(0, 1))
    return torch.stack(cut, 1).flatten(0, 1), torch.arange(2).repeat(len(cut[0]))


def fine_tuned(x: torch.Tensor, y: torch.Tensor, epochs: int, whole: bool) -> nn.Module:
    """A new last layer; the layers below keep their weights, or learn too if `whole`."""
    torch.manual_seed(0)
    model = zn.models.load(str(BODY))
    model.network.linear = nn.Linear(64, 2)
    optimiser = torch.optim.Adam((model if whole else model.network.linear).parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model


options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("--out", type=Path, default=Path("runs/fine-tuned"))
for name, default in {"epochs": 8, "limit": 40, "steps": 40, "queries": 100}.items():
    options.add_argument(f"--{name}", type=int, default=default)
asked = options.parse_args()

x, y = pieces()
split = 3 * len(x) // 4  # the right quarter of either photograph is new to the model
test, runs = (x[split:][: asked.limit], y[split:][: asked.limit]), []
for name, whole in {"last layer only": False, "all layers": True}.items():
    model = fine_tuned(x[:split], y[:split], asked.epochs, whole)
    runs.append(asked.out / name.replace(" ", "-"))
    effort = {"steps": asked.steps, "queries": asked.queries}
    print(zn.evaluate(model, test, [zn.L0(k) for k in (5, 20)], name=name, out=runs[-1], **effort), "\n")
print(f"report: {zn.report.render(runs, asked.out / 'report.html')}")
