import io

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError
from jaxnets.data.pictures import decode

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
        (encode(np.float32(RGB[..., 0]), "TIFF"), "a/b.png has pixels of 32 bits, and nothing says which is black"),
    ],
    ids=["empty", "text", "head", "half", "float"],
)
def test_what_is_no_picture_is_refused_in_one_sentence(content, message):
    with pytest.raises(DataError, match=message) as refusal:
        decode(content, (6, 4, 3), where="a/b.png")
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_picture_that_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"x is damaged, or not .*decompression bomb"):
        decode(PNG, (6, 4, 3), where="x")
