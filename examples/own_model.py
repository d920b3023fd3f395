"""A model of your own, trained in seconds on handwritten digits, then evaluated in three lines.

Run it: `python examples/own_model.py`.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads sleep

import argparse

import torch
from torch import nn

import zeronorm as zn


def train(x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    """An ordinary training loop: zeronorm asks nothing of it."""
    torch.manual_seed(0)
    model = nn.Sequential(
        zn.models.Normalize(mean=[0.305], std=[0.376]),  # inside the model: inputs stay in [0, 1]
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()  # an evaluation refuses a model in training mode


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--limit", type=int, default=100)
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--queries", type=int, default=1000)
    asked = options.parse_args()

    train_set, test_set = zn.data.load("digits", "train"), zn.data.load("digits", "test", asked.limit)
    model = train(train_set.x, train_set.y, asked.epochs)

    threats = [zn.L0(k) for k in (1, 2, 4)]
    effort = {"steps": asked.steps, "queries": asked.queries}
    evaluation = zn.evaluate(model, test_set, threats, **effort)
    print(evaluation)

    print(f"\nwith 2 pixels changed at most {evaluation.robust_accuracy[2]:.1%} stay right")
    print(f"report: {evaluation.to_html('runs/own-model.html')}")


if __name__ == "__main__":
    main()
