import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, decoding
from jaxnets.data.decoding import decode

RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)
GREY = RGB[:, :, 0]


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_a_picture_of_the_right_shape_keeps_its_very_pixels(kind):
    np.testing.assert_array_equal(decode(encode(RGB, kind), (6, 4, 3), where="x"), RGB, strict=True)


def test_grey_and_one_bit_and_palette_and_sixteen_bits_become_what_they_look_like():
    expected = GREY[..., np.newaxis].repeat(3, axis=2)
    np.testing.assert_array_equal(decode(encode(GREY), (6, 4, 3), where="x"), expected)
    np.testing.assert_array_equal(decode(encode(GREY), (6, 4, 1), where="x")[..., 0], GREY)
    np.testing.assert_array_equal(decode(encode(GREY.astype(np.uint16) * 257), (6, 4, 3), where="x"), expected)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(GREY).convert("P")), (6, 4, 3), where="x"), expected)
    checker = 255 * (np.indices((6, 4)).sum(0) % 2).astype(np.uint8)
    one_bit = encode(Image.fromarray(checker).convert("1"))
    np.testing.assert_array_equal(decode(one_bit, (6, 4, 3), where="x")[..., 2], checker)
    inks = np.uint8([[[255, 0, 0, 0]]]).repeat(6, axis=0).repeat(4, axis=1)  # cyan alone
    cmyk = encode(Image.frombytes("CMYK", (4, 6), inks.tobytes()), "TIFF")
    np.testing.assert_array_equal(decode(cmyk, (6, 4, 3), where="x")[0, 0], [0, 255, 255])


def test_what_is_transparent_is_white():
    half = np.dstack([RGB, np.zeros((6, 4), np.uint8)])
    half[3:, :, 3] = 255
    pixels = decode(encode(half), (6, 4, 3), where="x")
    np.testing.assert_array_equal(pixels[:3], 255)
    np.testing.assert_array_equal(pixels[3:], RGB[3:])


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: stored[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda stored: np.rot90(stored)),
    ],
)
def test_exif_says_which_way_is_up(orientation, upright):
    expected = upright(RGB)
    stored = encode(RGB, "PNG", exif=turned(orientation))
    np.testing.assert_array_equal(decode(stored, expected.shape, where="x"), expected)


def test_another_ratio_is_squashed_and_nothing_is_cut_off():
    bands = np.uint8([[10] * 30, [90] * 30, [200] * 30]).repeat(4, axis=0)  # 12 high, 30 wide
    pixels = decode(encode(bands), (3, 5, 1), where="x")[..., 0]
    # Each output row lies in the middle of a band of 4 rows; its tent reaches half a band into the next ones.
    weights = np.clip(1 - np.abs(np.arange(12) + 0.5 - np.float64([[2], [6], [10]])) / 4, 0, None)
    expected = (weights / weights.sum(axis=1, keepdims=True)) @ bands[:, :1].astype(float)
    np.testing.assert_allclose(pixels, expected.repeat(5, axis=1), atol=1)


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(np.full((6, 4), value, np.uint8)) for value in (10, 250)]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(animation, (6, 4, 1), where="x"), 10)


PNG = encode(np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a/b.png is empty: it holds no picture."),
        (b"seven", "a/b.png is no picture in any known format."),
        (PNG[:20], "a/b.png is "),
        (PNG[: len(PNG) // 2], r"a/b.png is damaged, or not all of it is there \(.*\)\."),
        (
            encode(np.float32(RGB[..., 0]), "TIFF"),
            "a/b.png has pixels that are negative, fractions or of 32 bits, and nothing says which value is white",
        ),
    ],
    ids=["empty", "text", "head", "half", "float"],
)
def test_what_is_no_picture_is_refused_in_one_sentence(content, message):
    with pytest.raises(DataError, match=message) as refusal:
        decode(content, (6, 4, 3), where="a/b.png")
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header():
    large = encode(Image.new("1", (13_000, 13_000)))
    with pytest.raises(DataError, match=r"x claims 13000×13000 pixels, of which at most 134,217,728 fit into"):
        decode(large, (6, 4, 3), where="x")
    larger = PNG[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + PNG[24:]
    larger = larger[:29] + struct.pack(">I", zlib.crc32(larger[12:29])) + larger[33:]
    with pytest.raises(DataError, match="x claims more pixels than fit into the memory"):
        decode(larger, (6, 4, 3), where="x")


@pytest.mark.parametrize("name", ["picture.png", "picture.eps"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, name):
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    with Image.open(io.BytesIO(program)) as known_to_pillow:
        assert known_to_pillow.format == "EPS"
    with pytest.raises(DataError, match="is no picture in any known format"):
        decode(program, (9, 9, 3), where=name)
    assert not (tmp_path / "ran").exists()


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"),
    "WEBP": ("L", "LA", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
}


@pytest.mark.parametrize("kind", MODES)
def test_each_format_in_each_mode_looks_as_pillow_has_it_over_white(kind):
    """Of those that Pillow reads right; `test_png.py` and the next test have the others."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 4), np.uint8))
    for mode in MODES[kind]:
        image = rgba.convert("RGB").convert(mode) if mode in ("1", "P", "CMYK", "YCbCr") else rgba.convert(mode)
        for options in ({}, {"transparency": 3} if mode == "P" and kind in ("PNG", "GIF") else {}):
            content = encode(image, kind, **options)
            with Image.open(io.BytesIO(content)) as stored:
                white = Image.new("RGBA", stored.size, "white")
                expected = Image.alpha_composite(white, stored.convert("RGBA"))
            for channels, as_mode in ((1, "L"), (3, "RGB")):
                actual = decode(content, (6, 4, channels), where="x")
                looks = np.asarray(expected.convert(as_mode)).astype(float)
                # Made grey by way of RGB or not, a colour may round to the one value or the other.
                np.testing.assert_allclose(actual.squeeze(), looks, rtol=0, atol=as_mode == "L")


def tiff(rows, photometric, bits, sample_format):
    """A grey TIFF of these rows of bytes, by TIFF 6.0, little-endian and uncompressed."""
    height, content = len(rows), b"".join(rows)
    width = len(rows[0]) * 8 // bits
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(content)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


@pytest.mark.parametrize(("bits", "is_white_zero"), [*itertools.product([1, 2, 4, 8, 16], [False, True]), (12, False)])
def test_grey_tiff_of_any_depth_with_black_or_white_as_zero(bits, is_white_zero):
    samples = np.random.default_rng(0).integers(0, 2**bits, (3, 8))
    if bits == 16:
        rows = [row.astype("<u2").tobytes() for row in samples]
    else:
        rows = [np.packbits((row[:, np.newaxis] >> np.arange(bits)[::-1]) & 1).tobytes() for row in samples]
    looks = samples * 255 / (2**bits - 1)
    actual = decode(tiff(rows, 0 if is_white_zero else 1, bits, 1), (3, 8, 1), where="x")[..., 0]
    np.testing.assert_allclose(actual, 255 - looks if is_white_zero else looks, rtol=0, atol=0.501)


def test_signed_pixels_are_refused_as_what_they_are():
    rows = [np.int16([-5, 7]).astype("<i2").tobytes()]
    with pytest.raises(DataError, match="x has pixels that are negative, fractions or of 32 bits"):
        decode(tiff(rows, 1, 16, 2), (1, 2, 1), where="x")


def test_threads_share_the_memory_that_pictures_are_decoded_in(monkeypatch):
    """Four fit at a time, of twelve that are asked for at once."""
    room = decoding._Room(4 * 100)
    inside, most, lock = 0, 0, threading.Lock()

    def work(_):
        nonlocal inside, most
        with room.taken(100):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(12)))
    assert 1 < most <= 4 and inside == 0
    with pytest.raises(KeyError), room.taken(400):
        raise KeyError
    with room.taken(400):
        pass


MEASURED = """
import sys
import threading
import warnings
from pathlib import Path
from jaxnets.data.decoding import decode

warnings.simplefilter("ignore")
content = Path(sys.argv[1]).read_bytes()
threads = [threading.Thread(target=decode, args=(content, (9, 9, 3)), kwargs={"where": "x"}) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_the_largest_pictures_in_three_threads_take_less_than_two_gibibytes(tmp_path, mode):
    Image.new(mode, (11_500, 11_500)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "large.png")]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 2, "GiB"
