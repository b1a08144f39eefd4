"""Every colour type and bit depth of PNG, with and without a transparent colour, against the specification.

The files are written here bit by bit, as Pillow writes few of the kinds and misreads some of the transparent ones.
"""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError
from jaxnets.data.decoding import decode

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
KINDS = [
    *((GREY, depth, hidden) for depth in (1, 2, 4, 8, 16) for hidden in (False, True)),
    *((RGB, depth, hidden) for depth in (8, 16) for hidden in (False, True)),
    *((PALETTE, depth, hidden) for depth in (1, 2, 4, 8) for hidden in (False, True)),
    *((colour, depth, False) for colour in (GREY_ALPHA, RGB_ALPHA) for depth in (8, 16)),
]
H, W = 5, 7


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(samples, colour, depth, *more):
    """The file of samples [H, W, C], with more chunks before them."""
    height, width, channels = samples.shape
    sixteen = samples.astype(">u2").view(np.uint8).reshape(height, width * channels, 2)
    bits = np.unpackbits(sixteen, axis=2)[:, :, 16 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = [header, *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def picture(colour, depth, hidden):
    """A random file of the kind, and what it looks like over white [H, W, 3], in 0 to 255 and not yet rounded."""
    rng = np.random.default_rng(depth)
    samples = rng.integers(0, 2**depth, (H, W, CHANNELS[colour]))
    samples[1, 1] = samples[2, 2] = samples[0, 0]
    samples[3, 3] = samples[0, 0] ^ 1  # differs in the lowest bits alone, and so is not transparent
    chunks, alpha = [], np.ones((H, W))
    if colour == PALETTE:
        entries = rng.integers(0, 256, (2**depth, 3))
        chunks.append(chunk(b"PLTE", entries.astype(np.uint8).tobytes()))
        looks = entries[samples[:, :, 0]].astype(float)
        if hidden:
            alphas = rng.integers(0, 256, 2**depth)
            chunks.append(chunk(b"tRNS", alphas.astype(np.uint8).tobytes()))
            alpha = alphas[samples[:, :, 0]] / 255
    else:
        looks = samples[:, :, :3] if colour in (RGB, RGB_ALPHA) else samples[:, :, :1].repeat(3, axis=2)
        looks = looks * 255 / (2**depth - 1)
        if colour in (GREY_ALPHA, RGB_ALPHA):
            alpha = samples[:, :, -1] / (2**depth - 1)
        if hidden:
            chunks.append(chunk(b"tRNS", struct.pack(f">{CHANNELS[colour]}H", *samples[0, 0].tolist())))
            alpha = 1.0 - (samples == samples[0, 0]).all(axis=2)
    alpha = alpha[:, :, np.newaxis]
    return png(samples, colour, depth, *chunks), alpha * looks + (1 - alpha) * 255


@pytest.mark.parametrize(("colour", "depth", "hidden"), KINDS)
def test_each_kind_looks_as_the_specification_says(colour, depth, hidden):
    content, looks = picture(colour, depth, hidden)
    # Pillow takes the upper byte of 16 bits, up to 1 below the nearest; over white a rounding more.
    tolerance = 2.01 if depth == 16 and colour != GREY else 1.01 if CHANNELS[colour] % 2 == 0 or hidden else 0.5
    np.testing.assert_allclose(decode(content, (H, W, 3), where="x"), looks, rtol=0, atol=tolerance)
    grey = looks @ [0.299, 0.587, 0.114]  # ITU-R BT.601, as Pillow has it
    np.testing.assert_allclose(decode(content, (H, W, 1), where="x")[..., 0], grey, rtol=0, atol=tolerance + 1)


def test_a_large_picture_is_converted_in_bands_without_a_seam(monkeypatch):
    content, _ = picture(GREY, 16, True)
    whole = decode(content, (H, W, 3), where="x")
    monkeypatch.setattr("jaxnets.data.colours._BAND_PIXELS", 2 * W)
    np.testing.assert_array_equal(decode(content, (H, W, 3), where="x"), whole)


SIDE = [b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"gAMA", b"pHYs", b"sRGB", b"cHRM", b"tIME", b"acTL", b"fcTL"]
BOMB = zlib.compress(bytes(2**26))
FAULTS = {
    "empty": lambda name: chunk(name, b""),
    "text": lambda name: chunk(name, b"seven"),
    "bytes": lambda name: chunk(name, b"x\0\0" + bytes(range(256))),
    "checksum": lambda name: chunk(name, b"seven")[:-1] + b"!",
    "bomb": lambda name: chunk(name, b"x\0\0" + BOMB),
}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is odd in a file
@pytest.mark.parametrize(("name", "fault"), [*itertools.product(SIDE, FAULTS)])
def test_a_fault_beside_the_pixels_does_not_refuse_them(name, fault):
    samples = np.random.default_rng(0).integers(0, 256, (H, W, 3))
    content = png(samples, RGB, 8, FAULTS[fault](name))
    np.testing.assert_array_equal(decode(content, (H, W, 3), where="x"), samples)


@pytest.mark.parametrize("missing", [b"IHDR", b"IDAT"])
def test_a_fault_in_the_pixels_does(missing):
    content, _ = picture(PALETTE, 8, False)
    with pytest.raises(DataError, match=r"^x is "):
        decode(content.replace(missing, b"tEXt"), (H, W, 3), where="x")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_nor_does_a_damaged_block_beside_them_in_other_formats(kind):
    def encoded(**options):
        file = io.BytesIO()
        Image.new("RGB", (W, H), (9, 60, 200)).save(file, kind, **options)
        return file.getvalue()

    expected = decode(encoded(), (H, W, 3), where="x")
    cut_short, astray = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0MM\0*\xff\xff\xff\xff"
    blocks = ("icc_profile", "xmp") if kind == "TIFF" else ("icc_profile", "xmp", "exif")
    for block, damaged in itertools.product(blocks, (b"", b"Exif\0\0", cut_short, astray, b"\xff" * 99)):
        np.testing.assert_array_equal(decode(encoded(**{block: damaged}), (H, W, 3), where="x"), expected)
