from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from zeronorm import ArgumentError
from zeronorm.data import images
from zeronorm.data.images import Images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)


def of(*sources, limit=None):
    n = len(sources[:limit])
    return Images(lambda at: [sources[i] for i in at], "row {}".format, n, len(sources))[:]


def test_eight_bit_levels_are_divided_by_255(encode):
    x = of(encode(COLOUR), encode(COLOUR[::-1]))
    assert x.shape == (2, 3, 4, 5) and x.dtype == torch.float32 and x.is_contiguous()
    assert torch.equal(x[0], torch.from_numpy(COLOUR).permute(2, 0, 1).float() / 255)
    assert torch.equal(of(encode(GREY)), torch.from_numpy(GREY)[None, None].float() / 255)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_agree(encode, format):
    options = {"lossless": True} if format == "WEBP" else {}
    assert torch.equal(of(encode(COLOUR, format, **options)), of(encode(COLOUR)))


def test_jpeg(encode):
    smooth = np.full((16, 16, 3), 100, dtype=np.uint8)
    assert torch.allclose(of(encode(smooth, "JPEG")), torch.tensor(100 / 255), atol=0.02)


def test_one_bit(encode):
    x = of(encode(Image.fromarray(GREY > 127)))
    assert torch.equal(x[0, 0], torch.from_numpy(GREY > 127).float())


def test_palette_becomes_rgb(encode):
    image = Image.fromarray(COLOUR // 64 * 64).quantize(64)
    assert image.mode == "P"
    assert torch.equal(of(encode(image)), of(encode(image.convert("RGB"))))
    # a palette with transparency per entry, of which Pillow would warn
    assert torch.equal(of(encode(image, transparency=bytes(range(64)))), of(encode(image)))


def test_transparency_is_dropped(encode):
    alpha = RNG.integers(0, 256, (4, 5, 1), dtype=np.uint8)
    assert torch.equal(of(encode(np.concatenate([COLOUR, alpha], 2))), of(encode(COLOUR)))
    assert torch.equal(of(encode(np.concatenate([GREY[..., None], alpha], 2))), of(encode(GREY)))
    assert torch.equal(of(encode(GREY, transparency=3)), of(encode(GREY)))
    assert torch.equal(of(encode(COLOUR, transparency=(1, 2, 3))), of(encode(COLOUR)))


def test_cmyk(encode):
    x = of(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert torch.allclose(x[0].mean((1, 2)), torch.tensor([1.0, 0.0, 0.0]), atol=0.05)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_greyscale_keeps_its_precision(encode, format):
    levels = RNG.integers(0, 65536, (4, 5), dtype=np.uint16)
    levels[0, :2] = 0, 65535
    x = of(encode(levels, format))
    assert torch.equal(x[0, 0], torch.from_numpy(levels.astype(np.float32)) / 65535)


def test_sixteen_bit_big_endian(encode):
    levels = np.array([[0, 256, 65535]], dtype=np.uint16)
    image = Image.frombytes("I;16B", (3, 1), levels.astype(">u2").tobytes())
    assert torch.equal(of(encode(image, "TIFF"))[0, 0, 0], torch.tensor([0.0, 256 / 65535, 1.0]))


def test_greyscale_among_colour_becomes_three_equal_channels(encode):
    x = of(encode(GREY), encode(COLOUR), encode(GREY.astype(np.uint16) * 257))
    assert x.shape == (3, 3, 4, 5)
    assert torch.equal(x[0], of(encode(GREY))[0].expand(3, 4, 5))
    assert torch.equal(x[2], x[0])


def test_limit_keeps_the_channels_of_the_whole_and_decodes_no_more(encode, monkeypatch):
    sources = [encode(GREY)] * 3 + [encode(COLOUR), b"never opened"]
    decoded = []
    colour = images._colour
    monkeypatch.setattr(images, "_colour", lambda *image: decoded.append(image) or colour(*image))
    assert of(*sources, limit=2).shape == (2, 3, 4, 5)
    assert len(decoded) == 2


def test_large_images_are_decoded_by_threads_in_order(encode):
    sources = [encode(np.full((100, 100), i, dtype=np.uint8)) for i in range(20)]
    assert torch.equal(of(*sources)[:, 0, 7, 7], torch.arange(20) / 255)
    broken = encode(RNG.integers(0, 256, (100, 100), dtype=np.uint8))[:5000]
    with pytest.raises(ArgumentError, match="in row 3"):
        of(*sources[:3], broken, broken, *sources)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "expected a PNG or .* image in row 1, got none"),
        (b"not an image", "expected a PNG or .* image in row 1, got none"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n",
            "expected a PNG or .* image in row 1, got none",
        ),
        (None, "expected an intact image in row 1, got: no bytes"),
    ],
)
def test_what_is_no_image(encode, source, message):
    with pytest.raises(ArgumentError, match=f"^data: {message}$"):
        of(encode(GREY), source)


def test_truncated_image(encode):
    noise = encode(RNG.integers(0, 256, (40, 40), dtype=np.uint8))
    with pytest.raises(ArgumentError, match=r"^data: expected an intact image in row 1, got: .*truncated"):
        of(noise, noise[: len(noise) // 2])


def test_sizes_that_differ_name_the_first_odd_image_before_decoding(encode, monkeypatch):
    monkeypatch.setattr(images, "_grey", None)
    with pytest.raises(
        ArgumentError, match=r"one size, most are 5x4, got 4x5 in row 0; :resize=256:crop=224 "
    ):
        of(encode(GREY.T), encode(GREY), encode(GREY), encode(GREY))


def test_levels_of_unknown_scale(encode):
    with pytest.raises(ArgumentError, match="row 0, got: floating-point pixels"):
        of(encode(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"))
    with pytest.raises(ArgumentError, match="row 0, got: pixels of more than 16 bits"):
        of(encode(Image.fromarray(np.full((2, 2), 65536, dtype=np.int32)), "TIFF"))


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bomb(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ArgumentError, match=r"row 0, got: .*decompression bomb"):
        of(bomb)
