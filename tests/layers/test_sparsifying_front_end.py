"""The sparsifying front end: what it keeps, its four gradients, and models that carry it."""

from __future__ import annotations

import json

import jaxtyping
import numpy as np
import pytest
import pywt
import torch
from torch import nn

import zeronorm as zn
from zeronorm import ArgumentError
from zeronorm.defenses import SparsifyingFrontEnd, WaveletBasis
from zeronorm.layers.sparsifying_front_end import YCBCR

GRADIENTS = ["bpda", "projection", "iterated", "true"]


@pytest.fixture
def as_installed(monkeypatch):
    """A person's mistakes meet the library's own checks, not those that the tests add."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def images(n=4, channels=1, side=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, side, side, generator=generator, dtype=dtype)


def gradient(front_end, x, upstream):
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(front_end(leaf), leaf, upstream)
    return found


def by_pywavelets(x, wavelet, k):
    """Keep the k largest coefficients of one plane, the slow way."""
    averages, details = pywt.dwt2(x, wavelet, "periodization")
    c = np.stack([averages, *details])
    c[np.abs(c) < np.sort(np.abs(c), axis=None)[-k]] = 0.0
    return pywt.idwt2((c[0], tuple(c[1:])), wavelet, "periodization")


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize(
    ("wavelet", "fraction", "k"), [("db5", 0.02, 15), ("coif1", 0.035, 27), ("haar", 1.0, 784)]
)
def test_keeps_the_largest(kind, wavelet, fraction, k):
    x = images(3, side=28)
    expected = np.stack([by_pywavelets(one[0].numpy(), wavelet, k) for one in x])[:, None].clip(0, 1)
    front_end = SparsifyingFrontEnd(wavelet, fraction, kind)
    np.testing.assert_allclose(front_end(x).numpy(), expected, atol=1e-9)
    with_gradients = front_end(x.clone().requires_grad_())
    assert torch.equal(with_gradients.detach(), front_end(x)), "the value does not depend on who asks"
    assert bool((front_end.support(x).flatten(1).sum(1) == k).all())


def test_colour_plane_by_plane():
    x = images(2, channels=3, side=32)
    front_end = SparsifyingFrontEnd("sym9", [0.035, 0.01, 0.01], clip=False)
    planes = torch.einsum("pc,bchw->bphw", YCBCR, x)
    sparse = torch.stack(
        [
            torch.from_numpy(by_pywavelets(planes[b, p].numpy(), "sym9", k))
            for b in range(2)
            for p, k in enumerate((35, 10, 10))
        ]
    ).view(2, 3, 32, 32)
    expected = torch.einsum("cp,bphw->bchw", YCBCR.inverse(), sparse)
    torch.testing.assert_close(front_end(x), expected)
    assert front_end.support(x).flatten(2).sum(2).tolist() == [[35, 10, 10]] * 2


def test_the_colours_are_those_of_bt601():
    assert torch.det(YCBCR).item() == pytest.approx(0.2363, abs=1e-4)
    grey = YCBCR @ torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(grey, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    blue, red = (YCBCR[:, i].tolist() for i in (2, 0))
    assert blue == pytest.approx([0.114, 0.5, -0.081312], abs=1e-6)
    assert red == pytest.approx([0.299, -0.168736, 0.5], abs=1e-6)


def test_a_sparse_image_passes_unchanged_and_a_change_is_projected():
    """f(x + e) = x + P_K(e, x) where the support stays, without clipping."""
    basis, front_end = WaveletBasis("db5", 28, 28), SparsifyingFrontEnd("db5", 0.02, clip=False)
    c = torch.zeros(2, 1, 28, 28, dtype=torch.float64)
    c.view(2, -1)[:, :15] = 1.0 + torch.rand(2, 15, dtype=torch.float64)
    x = basis.synthesise(c)
    torch.testing.assert_close(front_end(x), x)
    e = 0.01 * torch.randn_like(x)
    torch.testing.assert_close(front_end(x + e), x + front_end.project(e, front_end.support(x)))


def test_haar_by_hand():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[0, 0, :2, :2], x[0, 0, 2:, 2:] = 1.0, 0.25
    front_end = SparsifyingFrontEnd("haar", 1 / 8)
    c = front_end.coefficients(x)[0, 0]
    assert c[0, 0].item() == pytest.approx(2.0) and c[1, 1].item() == pytest.approx(0.5)
    w = torch.tensor([1, -1, 2, 0.5, 1, 1, -1, 0.5, 0.25, -0.25, 1, 1, -2, 1, 1, -1], dtype=torch.float64)
    projected = front_end.project(w.view(1, 1, 4, 4), front_end.support(x)).flatten()
    assert (w.sign() @ projected).abs().item() * 0.1 == pytest.approx(0.2)
    assert projected.abs().sum().item() * 0.1 == pytest.approx(0.4)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_four_gradients(channels):
    x, upstream = images(3, channels), torch.randn(3, channels, 8, 8, dtype=torch.float64)

    def of(kind, **options):
        return gradient(SparsifyingFrontEnd("db2", 0.2, kind, **options), x, upstream)

    assert torch.equal(of("bpda"), upstream)
    front_end = SparsifyingFrontEnd("db2", 0.2, clip=False)
    support = front_end.support(x)
    # <P e, g> = <e, Pᵀ g> for every e
    e = torch.randn_like(x)
    torch.testing.assert_close((of("projection") * e).sum(), (front_end.project(e, support) * upstream).sum())
    # the derivative, by differences
    clipped = SparsifyingFrontEnd("db2", 0.2)
    step = 1e-7 * e
    assert torch.equal(clipped.support(x + step), support) and torch.equal(clipped.support(x - step), support)
    slope = ((clipped(x + step) - clipped(x - step)) * upstream).sum() / 2e-7
    torch.testing.assert_close((of("true") * e).sum(), slope, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(of("true"), of("projection"))
    torch.testing.assert_close(of("true", clip=False), of("projection"))
    # refined: by hand
    refined = upstream
    for _ in range(3):
        there = (x + 0.3 * refined.sign()).clamp(0, 1)
        leaf = x.clone().requires_grad_()
        (refined,) = torch.autograd.grad(front_end.project(leaf, front_end.support(there)), leaf, upstream)
    torch.testing.assert_close(of("iterated", step_size=0.3, refinements=3), refined)
    assert not torch.allclose(refined, of("projection"))
    assert torch.equal(of("iterated", refinements=0), upstream)


@pytest.mark.parametrize("kind", GRADIENTS)
def test_an_image_is_sparsified_alike_alone_and_in_a_batch(kind):
    x, front_end = images(8, 3, 32, torch.float32), SparsifyingFrontEnd("sym9", [0.035, 0.01, 0.01], kind)
    together, upstream = front_end(x), torch.randn_like(x)
    slopes = gradient(front_end, x, upstream)
    for rows in ([3], [6, 1], [0, 2, 7]):
        assert torch.equal(front_end(x[rows]), together[rows])
        assert torch.equal(gradient(front_end, x[rows], upstream[rows]), slopes[rows])
    assert front_end(x[:0]).shape == x[:0].shape


def test_a_product_that_rounds_below_its_whole_number():
    assert SparsifyingFrontEnd("haar", 0.29).kept(WaveletBasis("haar", 10, 10)) == [29] * 3
    assert SparsifyingFrontEnd("haar", 0.035).kept(WaveletBasis("haar", 28, 28)) == [27] * 3


def test_half_precision_decides_in_full():
    x = images(2, side=28, dtype=torch.float32)
    front_end = SparsifyingFrontEnd("coif1", 0.035)
    with torch.autocast("cpu", torch.bfloat16):
        inside, support = front_end(x), front_end.support(x)
    assert torch.equal(inside, front_end(x)) and torch.equal(support, front_end.support(x))
    assert front_end(x.bfloat16()).dtype == torch.bfloat16


# -- models that carry one ---------------------------------------------------------------------------------


def test_wrapped_saved_and_loaded(tmp_path):
    plain = zn.models.load("digits")
    x = zn.data.load("digits", "test", 40).x
    model = SparsifyingFrontEnd("haar", 0.25, "projection").wrap(plain)
    front_end = SparsifyingFrontEnd("haar", 0.25)
    assert torch.equal(model(x), plain(front_end(x))) and not torch.equal(model(x), plain(x))
    assert not model.training and plain.arguments.keys() == model.arguments.keys() - {"front_end"}
    zn.models.save(model, tmp_path / "model", data={"name": "digits"})
    told = json.loads((tmp_path / "model/model.json").read_text())
    assert told["arguments"]["front_end"]["wavelet"] == "haar" and told["digest"] != zn.models.digest(plain)
    loaded = zn.models.load(tmp_path / "model")
    assert torch.equal(loaded(x), model(x)) and zn.models.digest(loaded) == zn.models.digest(model)
    again = SparsifyingFrontEnd("haar", 0.5).wrap(loaded)
    assert again.arguments["front_end"]["keep_fraction"] == 0.5, "a front end is replaced, not doubled"
    digests = {
        zn.models.digest(SparsifyingFrontEnd(*given, clip=clip).wrap(plain))
        for given in (("haar", 0.25), ("haar", 0.5), ("db2", 0.25))
        for clip in (True, False)
    }
    assert len(digests) == 6, "the digest of a model tells front ends apart"


def test_precision_survives(tmp_path):
    model = SparsifyingFrontEnd("haar", 0.035 * 4).wrap(zn.models.load("digits")).double()
    zn.models.save(model, tmp_path)
    loaded, x = zn.models.load(tmp_path), images()
    assert torch.equal(loaded(x), model(x)) and loaded(x).dtype == torch.float64


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    from zeronorm.cli.main import run

    front_end = '{"wavelet": "haar", "keep_fraction": 0.5, "gradient": "true"}'
    words = ["--data", "digits", "--limit", "60", "--epochs", "1", "--set", "width=0.1"]
    out = str(tmp_path / "model")
    assert run(["train", *words, "--set", f"front_end={front_end}", "--out", out]) == 0
    asked = ["--model", out, "--limit", "4", "--k", "1", "--attack", "fmn_l0", "--steps", "5"]
    assert run(["evaluate", *asked, "--out", str(tmp_path / "run")]) == 0
    assert run(["verify", str(tmp_path / "run")]) == 0
    told = json.loads((tmp_path / "run/run.json").read_text())["plan"]["model"]["arguments"]
    assert told["front_end"]["gradient"] == "true"


def test_wrapping_a_model_of_ones_own():
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, front_end = images(), SparsifyingFrontEnd("haar", 0.25)
    wrapped = front_end.wrap(own)
    assert torch.equal(wrapped(x), own(front_end(x))) and wrapped[1] is not own
    assert wrapped.train().training and front_end.wrap(own.eval()).training is False


def test_proofs_know_that_a_front_end_spreads_changes():
    truncated = zn.models.build("mlp", image_size=8, widths=[16], truncation=3)
    wrapped = SparsifyingFrontEnd("haar", 0.5).wrap(truncated).eval()
    with pytest.raises(
        ArgumentError, match=r"^model: expected (a truncated first layer|functions that can be bounded)"
    ):
        zn.certification.certify_truncated(wrapped, images(dtype=torch.float32))
    with pytest.raises(ArgumentError, match=r"^front_end: expected none before l0_lipschitz"):
        SparsifyingFrontEnd("haar", 0.5).wrap(zn.models.build("l0_lipschitz", image_size=8))
    votes = zn.models.build(
        "feature_partition", in_channels=1, image_size=8, partition=[[[4, 0], [0, 4]]], mirrored=False
    ).eval()
    with pytest.raises(ArgumentError, match=r"^front_end: expected none before feature_partition"):
        SparsifyingFrontEnd("haar", 0.5).wrap(votes)
    votes.normalize = torch.nn.Sequential(SparsifyingFrontEnd("haar", 0.5), votes.normalize)
    with pytest.raises(
        ArgumentError, match=r"^model: expected nothing but normalisation before a feature_partition network"
    ):
        zn.certification.certify_feature_partition(votes, torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wavelet": "db0"}, "wavelet: expected an orthogonal wavelet"),
        ({"wavelet": "bior2.2"}, "wavelet: expected an orthogonal one, got bior2.2"),
        ({"keep_fraction": 0.0}, r"keep_fraction: expected a number in \(0, 1\], got 0.0"),
        ({"keep_fraction": 1.5}, r"keep_fraction: expected a number in \(0, 1\], got 1.5"),
        ({"keep_fraction": "all"}, r"keep_fraction: expected a number in \(0, 1\], got 'all'"),
        (
            {"keep_fraction": [0.1, 0.2]},
            r"keep_fraction: expected a number, or three for Y, Cb and Cr, got \[0.1",
        ),
        ({"gradient": "none"}, "gradient: expected one of bpda, projection, iterated, true, got 'none'"),
        ({"level": 0}, "level: expected an integer of at least 1, got 0"),
        ({"step_size": 0.0}, r"step_size: expected a number in \(0, inf\), got 0.0"),
        ({"refinements": -1}, "refinements: expected an integer of at least 0, got -1"),
    ],
)
def test_what_is_refused(arguments, message, as_installed):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        SparsifyingFrontEnd(**{"wavelet": "haar", "keep_fraction": 0.5} | arguments)


@pytest.mark.parametrize(
    ("fraction", "shape", "message"),
    [
        (0.5, (2, 2, 8, 8), r"x: expected images \(batch, 1 or 3, height, width\), .*, got \(2, 2, 8, 8\)"),
        (0.5, (2, 64), r"x: expected images \(batch, 1 or 3, .*, got \(2, 64\)"),
        (0.5, (2, 1, 7, 8), "level: expected a height that can be halved 1 times, got 7"),
        (0.01, (2, 1, 8, 8), "keep_fraction: expected to keep at least one of 64 coefficients, got 0.01"),
        ([0.5, 0.1, 0.1], (2, 1, 8, 8), "keep_fraction: expected one number for images of one channel"),
    ],
)
def test_images_that_do_not_fit(fraction, shape, message, as_installed):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        SparsifyingFrontEnd("haar", fraction)(torch.rand(shape))
    with pytest.raises(
        ArgumentError, match=r"^x: expected a tensor of floating-point numbers, got torch.uint8"
    ):
        SparsifyingFrontEnd("haar", 0.5)(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("front_end", "message"),
    [
        ("haar", "front_end: expected the arguments of a front end by name, got 'haar'"),
        ({"wavelet": "haar"}, "front_end: expected a keep_fraction, got wavelet"),
        (
            {"wavelet": "haar", "keep_fraction": 0.5, "k": 3},
            "front_end: expected arguments wavelet, .*, got 'k'",
        ),
        (
            {"wavelet": "haar", "keep_fraction": 0.5, "level": 3},
            "level: expected a height that can be halved 3",
        ),
    ],
)
def test_models_that_are_refused(front_end, message, as_installed):
    with pytest.raises(ArgumentError, match=f"^{message}"):
        zn.models.build("small_cnn", front_end=front_end)
