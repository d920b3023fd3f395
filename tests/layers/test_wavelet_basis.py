"""Wavelet bases: PyWavelets' own transform, orthonormal, and the figures of the fact sheet."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeronorm import ArgumentError
from zeronorm.defenses import WaveletBasis

SIZES = [(28, 28, 1), (28, 28, 2), (32, 32, 1), (32, 32, 3), (12, 20, 2), (2, 2, 1), (4, 4, 2), (224, 224, 1)]


@pytest.mark.parametrize("wavelet", ["haar", "db5", "coif1", "sym9", "db2", "coif5"])
@pytest.mark.parametrize(("height", "width", "level"), SIZES)
@pytest.mark.filterwarnings("ignore:Level value")
def test_equal_to_pywavelets(wavelet, height, width, level):
    x = np.random.default_rng(0).random((2, height, width))
    basis = WaveletBasis(wavelet, height, width, level)
    c = basis.analyse(torch.from_numpy(x))
    theirs = pywt.wavedec2(x, wavelet, "periodization", level, axes=(-2, -1))
    arranged, _ = pywt.coeffs_to_array(theirs, axes=(-2, -1))
    np.testing.assert_allclose(c.numpy(), arranged, atol=1e-12)
    # theirs is only orthonormal to the digits of their filters
    np.testing.assert_allclose(basis.synthesise(c).numpy(), x, atol=1e-9)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 2), st.sampled_from(["haar", "db3", "coif1"]))
@settings(max_examples=25, deadline=None)
def test_orthonormal_for_any_even_size(half_height, half_width, level, wavelet):
    height, width = half_height << level, half_width << level
    functions = WaveletBasis(wavelet, height, width, level).functions()
    assert functions.shape == (height * width, height * width)
    torch.testing.assert_close(functions @ functions.T, torch.eye(len(functions), dtype=torch.float64))


def test_the_functions_are_the_rows_of_the_transform():
    basis, x = WaveletBasis("coif1", 12, 8), torch.rand(12, 8, dtype=torch.float64)
    torch.testing.assert_close(basis.functions() @ x.flatten(), basis.analyse(x).flatten())


def test_the_first_function_of_coif1():
    first = WaveletBasis("coif1", 28, 28).functions()[0].view(28, 28)
    expected = {
        (0, 0): 0.726879, (0, 1): 0.328125, (0, 2): -0.06201, (0, 3): -0.013348, (0, 26): -0.06201,
        (0, 27): 0.288082, (1, 0): 0.328125, (1, 1): 0.148121,
    }  # fmt: skip
    for place, value in expected.items():
        assert first[place].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("wavelet", "entries"), [("coif1", 36), ("db5", 100), ("sym9", 324)])
def test_how_many_pixels_a_function_touches(wavelet, entries):
    functions = WaveletBasis(wavelet, 32, 32).functions()
    assert bool(((functions.abs() > 1e-9).sum(1) == entries).all())


@pytest.mark.parametrize(
    ("wavelet", "side", "level", "gamma"),
    [
        ("haar", 28, 1, 4.0), ("coif1", 28, 1, 6.030555384), ("db5", 28, 1, 8.007502239),
        ("sym9", 32, 1, 8.112355558), ("coif1", 28, 2, 12.5456), ("db5", 28, 2, 17.7011), ("sym9", 28, 2, 18.5962),
        ("sym9", 32, 2, 18.6958), ("coif1", 32, 3, 24.2926), ("db5", 32, 3, 36.8248), ("sym9", 32, 3, 33.4430),
    ],
)  # fmt: skip
def test_the_largest_length_is_that_of_the_sheet_and_of_all_functions(wavelet, side, level, gamma):
    basis = WaveletBasis(wavelet, side, side, level)
    assert 2 * basis.largest_l1() == pytest.approx(gamma, abs=1e-4)
    assert basis.largest_l1() == pytest.approx(basis.functions().abs().sum(1).max().item())


def test_a_ramp_of_sixteen():
    x = torch.arange(16, dtype=torch.float64).view(4, 4) / 16
    c = WaveletBasis("coif1", 4, 4).analyse(x)
    expected = torch.tensor(
        [
            [0.46875, 0.65625, 0.02018, -0.14518], [1.21875, 1.40625, 0.02018, -0.14518],
            [0.080719, 0.080719, 0, 0], [-0.580719, -0.580719, 0, 0],
        ],
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(c, expected, atol=1e-5, rtol=0)
    averages = WaveletBasis("db5", 4, 4).analyse(x)[:2, :2]
    torch.testing.assert_close(
        averages,
        torch.tensor([[1.138106, 1.057864], [0.817136, 0.736894]], dtype=torch.float64),
        atol=1e-5,
        rtol=0,
    )


def test_gradients_reach_the_image_at_every_level():
    basis = WaveletBasis("db2", 8, 16, 2)
    x = torch.rand(3, 8, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis.analyse, x) and torch.autograd.gradcheck(basis.synthesise, x)


def test_made_in_inference_mode_it_still_differentiates():
    basis, x = WaveletBasis("haar", 4, 4), torch.rand(4, 4)
    with torch.inference_mode():
        basis.analyse(x)
    basis.analyse(x.requires_grad_()).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("db99", 28, 28), "wavelet: expected an orthogonal wavelet of PyWavelets, .* got 'db99'"),
        (("bior4.4", 28, 28), "wavelet: expected an orthogonal one, got bior4.4"),
        (("dmey", 28, 28), "wavelet: expected an orthogonal one, got dmey"),
        (("db5", 27, 28), "level: expected a height that can be halved 1 times, got 27"),
        (("db5", 28, 28, 3), "level: expected a height that can be halved 3 times, got 28"),
        (("db5", 32, 28, 3), "level: expected a width that can be halved 3 times, got 28"),
        (("db5", 28, 28, 0), "level: expected an integer of at least 1, got 0"),
        (("db5", 0, 28), "height: expected an integer of at least 1, got 0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        WaveletBasis(*arguments)
