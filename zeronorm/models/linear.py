"""Linear classifiers, as Guo, Zhang, Zhang & Chen prune them ("Sparse DNNs with improved adversarial robustness",
NeurIPS 2018, section 4.1).
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def linear(in_channels: int = 1, image_size: tuple[int, int] = (28, 28), classes: int = 10) -> nn.Module:
    """One linear layer with bias, a softmax regression; 7,850 parameters on MNIST.

    With two classes it has one row of weights w (785 parameters), and the logits are 0 and wᵀx + b: the binary
    classifier of the paper, whose softplus loss is the cross-entropy of these.
    """
    height, width = image_size
    features = in_channels * height * width
    if classes == 2:
        return nn.Sequential(nn.Flatten(), nn.Linear(features, 1), AgainstZero())
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


class AgainstZero(nn.Module):
    """A score, behind a 0 for the other class."""

    def forward(self, x: Float[Tensor, "b 1"]) -> Float[Tensor, "b 2"]:
        return F.pad(x, (1, 0))
