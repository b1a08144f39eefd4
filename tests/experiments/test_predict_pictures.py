"""Pictures as the command takes them: in every format, size and colour, or refused in one sentence."""

import numpy as np
import pytest
from PIL import Image

from experiments.trained import pictures

SHAPE = (28, 28, 1)


def rotated(image, path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right when it is shown
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def cmyk(image, path):
    black = Image.fromarray(255 - np.asarray(image))
    nothing = Image.new("L", image.size)
    Image.merge("CMYK", (nothing, nothing, nothing, black)).save(path)


def behind_glass(image, path):
    """Transparent where the digit is: it shows as white."""
    Image.merge("LA", (Image.new("L", image.size), Image.fromarray(255 - np.asarray(image)))).save(path)


LOSSLESS = {
    "grey.png": lambda image, path: image.save(path),
    "rgb.bmp": lambda image, path: image.convert("RGB").save(path),
    "rgba.png": lambda image, path: image.convert("RGBA").save(path),
    "palette.png": lambda image, path: image.convert("P").save(path),
    "palette.gif": lambda image, path: image.save(path),
    "sixteen.png": lambda image, path: Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save(path),
    "sixteen.tiff": lambda image, path: Image.fromarray(np.asarray(image).astype(">u2") * 257).save(path),
    "thirty_two.tiff": lambda image, path: Image.fromarray(np.asarray(image).astype(np.int32) * 257).save(path),
    "cmyk.tiff": cmyk,
    "rotated.png": rotated,
    "transparent.png": behind_glass,
    "no_ending": lambda image, path: image.save(path, "PNG"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_digit_keeps_its_pixels_in_every_format(name, digit, tmp_path):
    LOSSLESS[name](Image.fromarray(digit), tmp_path / name)
    np.testing.assert_array_equal(pictures.read(tmp_path / name, SHAPE)[:, :, 0], digit)


def test_formats_are_what_their_names_say(digit, tmp_path):
    modes = {"palette.png": "P", "sixteen.png": "I;16", "thirty_two.tiff": "I", "cmyk.tiff": "CMYK", "rgba.png": "RGBA"}
    for name, mode in modes.items():
        LOSSLESS[name](Image.fromarray(digit), tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.mode == mode


def test_one_digit_in_many_formats_is_one_prediction(v0_run, digit, tmp_path, predict_says):
    image = Image.fromarray(digit)
    for name, save in LOSSLESS.items():
        save(image, tmp_path / name)
    image.save(tmp_path / "lossy.jpg", quality=97)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=97)
    code, out, err = predict_says(v0_run, *sorted(tmp_path.iterdir()), "--top", 1)
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    assert code == 0 and not err and len(rows) == len(LOSSLESS) + 2
    assert len({tuple(row[2:]) for row in rows if not row[0].endswith(".jpg")}) == 1
    assert len({row[2] for row in rows}) == 1
    assert np.ptp([float(row[3]) for row in rows]) < 0.02


def test_pictures_of_other_sizes_and_colours_are_scaled_and_converted(tmp_path):
    halves = np.zeros((90, 200, 3), np.uint8)
    halves[:, 100:] = (10, 200, 30)
    Image.fromarray(halves).save(tmp_path / "halves.png")
    colours = pictures.read(tmp_path / "halves.png", (12, 12, 3))
    np.testing.assert_array_equal(colours[:, :5], 0)
    np.testing.assert_array_equal(colours[:, 7:], np.broadcast_to(np.uint8([10, 200, 30]), (12, 5, 3)))
    grey = pictures.read(tmp_path / "halves.png", (12, 20, 1))
    np.testing.assert_array_equal(grey[:, :9], 0)
    np.testing.assert_allclose(grey[:, 11:], 0.299 * 10 + 0.587 * 200 + 0.114 * 30, atol=1)  # ITU-R 601


def test_what_is_transparent_is_white(tmp_path):
    image = np.zeros((28, 28, 4), np.uint8)
    image[:, 14:] = (0, 0, 0, 255)
    Image.fromarray(image).save(tmp_path / "half.png")
    pixels = pictures.read(tmp_path / "half.png", SHAPE)
    assert (pixels[:, :14] == 255).all() and (pixels[:, 14:] == 0).all()


def damaged(tmp_path, digit, name, share):
    """A picture of which only the first part is there."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (100, 100, 3), np.uint8)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])


REFUSED = {
    "missing.png": (lambda tmp_path, digit: None, "cannot be read (No such file or directory)"),
    "empty.png": (lambda tmp_path, digit: (tmp_path / "empty.png").touch(), "is empty"),
    "folder": (lambda tmp_path, digit: (tmp_path / "folder").mkdir(), "is a folder: name the pictures in it"),
    "text.png": (lambda tmp_path, digit: (tmp_path / "text.png").write_text("seven"), "is no picture"),
    "cut.png": (
        lambda tmp_path, digit: damaged(tmp_path, digit, "cut.png", 0.5),
        "is damaged, or not all of it is there",
    ),
    "cut.jpg": (
        lambda tmp_path, digit: damaged(tmp_path, digit, "cut.jpg", 0.5),
        "is damaged, or not all of it is there",
    ),
    "cut.gif": (
        lambda tmp_path, digit: damaged(tmp_path, digit, "cut.gif", 0.5),
        "is damaged, or not all of it is there",
    ),
    "cut.tiff": (lambda tmp_path, digit: damaged(tmp_path, digit, "cut.tiff", 0.5), "is "),
    "head.png": (lambda tmp_path, digit: damaged(tmp_path, digit, "head.png", 0.0004), "is no picture"),
    "float.tiff": (
        lambda tmp_path, digit: Image.fromarray(digit / np.float32(255)).save(tmp_path / "float.tiff"),
        "has pixels that are negative, fractions or of 32 bits",
    ),
    "large.tiff": (
        lambda tmp_path, digit: Image.fromarray(digit.astype(np.int32) * 1000).save(tmp_path / "large.tiff"),
        "has pixels that are negative, fractions or of 32 bits",
    ),
    "lab.tiff": (
        lambda tmp_path, digit: Image.new("LAB", (28, 28)).save(tmp_path / "lab.tiff"),
        "has colours that cannot be converted (LAB)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_is_refused_in_one_sentence(name, v0_run, digit, tmp_path, predict_says):
    make, words = REFUSED[name]
    make(tmp_path, digit)
    Image.fromarray(digit).save(tmp_path / "good.png")
    code, out, err = predict_says(v0_run, tmp_path / "good.png", tmp_path / name)
    assert code == 2 and not out and err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / name}") and words in err


def test_a_picture_that_would_fill_the_memory(v0_run, digit, tmp_path, predict_says, monkeypatch):
    Image.fromarray(digit).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    code, out, err = predict_says(v0_run, tmp_path / "bomb.png")
    assert code == 2 and not out
    assert err == (f"error: {tmp_path / 'bomb.png'} claims more pixels than fit into the memory; make it smaller.\n")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # more than which Pillow warns of, and large photographs have
    assert predict_says(v0_run, tmp_path / "bomb.png")[0] == 0
