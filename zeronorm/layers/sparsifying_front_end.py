"""A sparsifying front end (Gopalakrishnan, Marzi, Cekic, Madhow & Pedarsani, "Robust adversarial learning via
sparsifying front ends", 2020): the classifier sees the K largest wavelet coefficients of its input, nothing else.

f(x) = clip(Ψ H_K(Ψᵀ x)), with Ψ an orthonormal wavelet basis and H_K keeping the K coefficients largest in
magnitude.  A change e of the input that leaves these K the same ones reaches the classifier as P_K(e, x), its
projection onto K of the N basis functions: most of it is gone.  An adversary who also changes *which* ones are
largest is not bound by that (`zeronorm.theory.front_end_gain` says when this cannot happen).

b, c, h, w  images;  c = 1 plane (grey), or 3 (red, green, blue, taken apart into Y, Cb, Cr)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import pywt
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zeronorm import checks
from zeronorm.errors import ArgumentError
from zeronorm.layers.wavelet_basis import WaveletBasis, basis_of, check_wavelet
from zeronorm.projections import top_k

Gradient = Literal["bpda", "projection", "iterated", "true"]
_GRADIENTS = ("bpda", "projection", "iterated", "true")

# BT.601, full range; Cb and Cr about 0
_RED, _BLUE = 0.299, 0.114
_LUMA = torch.tensor([_RED, 1 - _RED - _BLUE, _BLUE], dtype=torch.float64)
YCBCR = torch.stack(
    [
        _LUMA,
        (torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) - _LUMA) / (2 * (1 - _BLUE)),
        (torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) - _LUMA) / (2 * (1 - _RED)),
    ]
)
RGB = YCBCR.inverse()


class SparsifyingFrontEnd(nn.Module):
    """Keeps the ⌊keep_fraction · h w⌋ largest wavelet coefficients per plane of images `(b, 1 or 3, h, w)` in [0, 1].

        front_end = SparsifyingFrontEnd("coif1", 0.035)
        model = front_end.wrap(model)               # logits of sparsified images

    The value is always the same; `gradient` says what a backward pass takes for the derivative (section VI-B):

    - "bpda": 1, as if there were no front end;
    - "projection": onto the coefficients that are kept, as if there were no clipping;
    - "iterated": the same, but onto those kept at the place the gradient leads to: a step of `step_size` along
      its sign, taken anew `refinements` times, each with the projection found at the last place;
    - "true": the derivative, which exists but where two coefficients tie.

    An attack is as strong as the best of them; for a fair figure try all.  "iterated" supposes that the
    gradient is that of something to be increased, by steps of its sign, as the ℓ∞ attacks of this library do.

    **Arguments:**

    - `wavelet`, `level`: the basis, as of `WaveletBasis`.
    - `keep_fraction`: in (0, 1], a number, or three for Y, Cb and Cr.
    - `clip`: whether the result is clipped to [0, 1] (as in the authors' code; the paper does not say).
    - `step_size`, `refinements`: of "iterated"; the attack's own step size is the right one.

    **Raises:** `ArgumentError` for arguments out of range, and at the first pass for images that do not fit.

    Differences from the authors' code: of coefficients equal in magnitude the first are kept; the refinement
    stays in the box [0, 1], but does not know the attack's budget and so may look a step beyond it.  Colour is
    taken apart by BT.601, which the paper leaves open.
    """

    keep: Tensor
    filter: Tensor

    def __init__(
        self,
        wavelet: str,
        keep_fraction: float | Sequence[float],
        gradient: Gradient = "bpda",
        *,
        level: int = 1,
        clip: bool = True,
        step_size: float = 0.05,
        refinements: int = 20,
    ) -> None:
        super().__init__()
        given = list(keep_fraction) if isinstance(keep_fraction, list | tuple) else [keep_fraction]
        if len(given) not in (1, 3):
            raise ArgumentError(
                f"keep_fraction: expected a number, or three for Y, Cb and Cr, got {keep_fraction!r}"
            )
        fractions = [checks.real("keep_fraction", one, 0.0, 1.0, open_low=True) for one in given]
        self.wavelet, self.level = check_wavelet(wavelet), checks.integer("level", level, 1)
        self.keep_fraction: float | list[float] = fractions if len(fractions) > 1 else fractions[0]
        self.gradient: str = checks.choice("gradient", gradient, _GRADIENTS)
        self.clip = bool(clip)
        self.step_size = checks.real("step_size", step_size, 0.0, open_low=True)
        self.refinements = checks.integer("refinements", refinements, 0)
        # what the value depends on, where the digest of a model sees it
        self.register_buffer("keep", torch.tensor([level, clip, *fractions]), persistent=False)
        self.register_buffer("filter", torch.tensor(pywt.Wavelet(wavelet).dec_lo), persistent=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that make an equal front end, ready for JSON."""
        names = ("wavelet", "keep_fraction", "gradient", "level", "clip", "step_size", "refinements")
        return {name: getattr(self, name) for name in names}

    def wrap(self, model: nn.Module) -> nn.Module:
        """A copy of the model that sees sparsified images only, with the same weights.

        A front end that it had is replaced.  A model of `zeronorm.models.build` stays one that can be saved.
        """
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"model: expected a torch module, got {type(model).__name__}")
        if rebuilt := getattr(model, "rebuilt", None):  # a `zeronorm.models.Classifier`
            wrapped: nn.Module = rebuilt(front_end=self.arguments)
            return wrapped
        if isinstance(model, nn.Sequential) and len(model) == 2 and isinstance(model[0], SparsifyingFrontEnd):
            model = model[1]  # one that was wrapped here
        return nn.Sequential(copy.deepcopy(self), copy.deepcopy(model)).train(model.training)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        basis = self.basis(x)
        # which coefficients are largest is decided in float32 at least
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return self._sparsified(exact, basis).to(x.dtype)

    def basis(self, x: Float[Tensor, "b c h w"]) -> WaveletBasis:
        """The basis that suits these images; `ArgumentError` if none does."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(f"x: expected a tensor of floating-point numbers, got {got}")
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ArgumentError(
                f"x: expected images (batch, 1 or 3, height, width), grey or red, green and blue, got {tuple(x.shape)}"
            )
        if x.shape[1] == 1 and isinstance(self.keep_fraction, list):
            raise ArgumentError(
                f"keep_fraction: expected one number for images of one channel, got {self.keep_fraction}"
            )
        basis = basis_of(self.wavelet, x.shape[2], x.shape[3], self.level)
        self.kept(basis)
        return basis

    def kept(self, basis: WaveletBasis) -> list[int]:
        """K of each plane, Y, Cb and Cr; all alike where one fraction was given."""
        n = basis.height * basis.width
        fractions = self.keep_fraction if isinstance(self.keep_fraction, list) else [self.keep_fraction] * 3
        # a product such as 0.29 * 100 comes out below the whole number it is
        kept = [math.floor(fraction * n + 1e-9) for fraction in fractions]
        if min(kept) == 0:
            raise ArgumentError(
                f"keep_fraction: expected to keep at least one of {n} coefficients, got {self.keep_fraction}"
            )
        return kept

    def coefficients(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Wavelet coefficients of each plane: Ψᵀ x."""
        return _analysed(x, self.basis(x), YCBCR)

    def support(self, x: Float[Tensor, "b c h w"]) -> Bool[Tensor, "b c h w"]:
        """Which coefficients of each plane are kept."""
        return self._largest(self.coefficients(x.detach()), self.basis(x))

    def project(
        self, e: Float[Tensor, "b c h w"], support: Bool[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """P_K(e, x): e projected onto the basis functions that x keeps."""
        return _synthesised(self.coefficients(e) * support, self.basis(e), RGB)

    def _sparsified(self, x: Tensor, basis: WaveletBasis) -> Tensor:
        if self.gradient == "iterated":
            return _Iterated.apply(x, self) if x.requires_grad else self._value(x, basis)
        if self.gradient == "bpda":
            with torch.no_grad():
                value = self._value(x, basis)
            return _Through.apply(x, value)
        projected = self._projected(x, basis)
        if not self.clip:
            return projected
        if self.gradient == "projection":
            return _Through.apply(projected, projected.detach().clamp(0.0, 1.0))
        return projected.clamp(0.0, 1.0)

    def _value(self, x: Tensor, basis: WaveletBasis) -> Tensor:
        projected = self._projected(x, basis)
        return projected.clamp(0.0, 1.0) if self.clip else projected

    def _projected(self, x: Tensor, basis: WaveletBasis) -> Tensor:
        c = _analysed(x, basis, YCBCR)
        return _synthesised(c * self._largest(c.detach(), basis), basis, RGB)

    def _largest(self, c: Tensor, basis: WaveletBasis) -> Bool[Tensor, "b c h w"]:
        planes, kept = c.abs().flatten(2), self.kept(basis)
        mask = torch.zeros_like(planes, dtype=torch.bool)
        # planes of one K together
        for k in sorted(set(kept[: c.shape[1]])):
            rows = [plane for plane in range(c.shape[1]) if kept[plane] == k]
            some = planes[:, rows].flatten(0, 1)
            chosen = torch.zeros_like(some, dtype=torch.bool).scatter_(1, top_k(some, k), True)
            mask[:, rows] = chosen.view(len(c), len(rows), planes.shape[2])
        return mask.view_as(c)

    def _pulled_back(self, upstream: Tensor, support: Tensor, basis: WaveletBasis) -> Tensor:
        """The transpose of `project`; for grey images that is P_K itself."""
        return _synthesised(_analysed(upstream, basis, RGB.T) * support, basis, YCBCR.T)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


class _Through(torch.autograd.Function):
    """Returns the second argument; its gradient goes to the first, unchanged."""

    @staticmethod
    def forward(ctx: Any, through: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0], None


class _Iterated(torch.autograd.Function):
    """The front end, with the gradient projected onto the coefficients kept where the gradient leads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, front_end: SparsifyingFrontEnd) -> Tensor:
        ctx.save_for_backward(x)
        ctx.front_end = front_end
        return front_end._value(x, front_end.basis(x))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (x,), front_end = ctx.saved_tensors, ctx.front_end
        basis, gradient = front_end.basis(x), upstream[0]
        for _ in range(front_end.refinements):
            tentative = (x + front_end.step_size * gradient.sign()).clamp_(0.0, 1.0)
            gradient = front_end._pulled_back(upstream[0], front_end.support(tentative), basis)
        return gradient, None


def _analysed(x: Tensor, basis: WaveletBasis, matrix: Tensor) -> Tensor:
    """Wavelet coefficients of the planes, into which the matrix mixes the colours."""
    with torch.autocast(x.device.type, enabled=False):
        return basis.analyse(_mixed(matrix, x))


def _synthesised(c: Tensor, basis: WaveletBasis, matrix: Tensor) -> Tensor:
    """Images from wavelet coefficients; the matrix mixes the planes back into colours."""
    with torch.autocast(c.device.type, enabled=False):
        return _mixed(matrix, basis.synthesise(c))


def _mixed(matrix: Float[Tensor, "3 3"], x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The matrix times each pixel's colour; grey images stay as they are."""
    if x.shape[1] == 1:
        return x
    return (matrix.to(x) @ x.flatten(2)).view_as(x)
