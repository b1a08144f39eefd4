"""Two families of cartoon faces, drawn here: a set of two classes that needs no files, and says nothing about people.

Every face has four traits: the squareness of its head, the size of its eyes, the slant of its brows and the width of
its mouth. Each is a normal variable of standard deviation 1, with mean +1 in one family and −1 in the other. One trait
alone gives the family of Φ(1) = 84 % of the faces, and all four give it for Φ(√4) = 97.7 %; no classifier exceeds this
except by chance. Colours, place, size, hair, glasses and background are drawn in the same way for both families.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from jaxnets.data.dataset import DataError, Dataset, Split

TRAITS = ("squareness of the head", "size of the eyes", "slant of the brows", "width of the mouth")
_TRAIN, _TEST = 2000, 500
_SEED = 20
_SUPERSAMPLING = 3
_UNIT = 1000  # traits are integers, in thousandths, and lengths are in thousandths of the image


def load_faces(*, size: int = 224) -> Dataset:
    """2,000 drawings for training and 500 for testing, half of each family, RGB of size×size; always the same ones.

    Raises:
      DataError: if `size` is below 16, where the traits could not be seen.
    """
    if size < 16:
        raise DataError(f"faces: size is {size}, at which a face cannot be drawn; give at least 16 pixels.")
    train_traits, train_labels = draw_traits(_TRAIN, seed=_SEED)
    test_traits, test_labels = draw_traits(_TEST, seed=_SEED + 1)
    return Dataset(
        train=Split(_draw_all(train_traits, size, seed=_SEED + 2), train_labels),
        test=Split(_draw_all(test_traits, size, seed=_SEED + 3), test_labels),
        classes=("drawn family A", "drawn family B"),
        name="faces",
        notes=("These faces are drawings made by this program, not photographs; their traits are arbitrary.",),
    )


def draw_traits(num_faces: int, *, seed: int) -> tuple[Int[np.ndarray, "N 4"], Int[np.ndarray, " N"]]:
    """The traits of faces in the order of `TRAITS`, in thousandths, and their families, 0 and 1 by turns."""
    rng = np.random.RandomState(seed)  # the one generator whose numbers NumPy promises never to change
    # The sum of twelve uniform variables, minus its mean, is nearly normal, and the same integer on every machine.
    traits = rng.randint(0, _UNIT + 1, (num_faces, len(TRAITS), 12)).sum(axis=2) - 6 * _UNIT
    labels = np.arange(num_faces) % 2
    return traits + _UNIT * (2 * labels[:, np.newaxis] - 1), labels.astype(np.int32)


def _draw_all(traits: Int[np.ndarray, "N 4"], size: int, *, seed: int) -> UInt8[np.ndarray, "N H W 3"]:
    rng = np.random.RandomState(seed)
    images = np.empty((len(traits), size, size, 3), np.uint8)
    for image, of_face in zip(images, traits.tolist(), strict=True):
        image[:] = _draw(rng, of_face, size)
    return images


def _rounded(drawing: ImageDraw.ImageDraw, corners: list[tuple[int, int]], radius: int, fill: tuple[int, ...]) -> None:
    """A rectangle with round corners, of shapes that, unlike Pillow's own one, are the same in all its versions."""
    (left, top), (right, bottom) = corners
    radius = min(radius, (right - left) // 2, (bottom - top) // 2)
    drawing.rectangle((left + radius, top, right - radius, bottom), fill)
    drawing.rectangle((left, top + radius, right, bottom - radius), fill)
    for x in (left, right - 2 * radius):
        for y in (top, bottom - 2 * radius):
            drawing.ellipse((x, y, x + 2 * radius, y + 2 * radius), fill)


class _Frame(NamedTuple):
    """Where a face lies in its image: side of the image in pixels; scale and shift of the face in thousandths."""

    pixels: int
    scale: int
    left: int
    top: int

    def place(self, x: int, y: int) -> tuple[int, int]:
        """A point of the face, (0, 0) its middle, in pixels."""
        return self._pixel(x, self.left), self._pixel(y, self.top)

    def box(self, x: int, y: int, width: int, height: int) -> list[tuple[int, int]]:
        return [self.place(x - width, y - height), self.place(x + width, y + height)]

    def _pixel(self, at: int, shift: int) -> int:
        return (_UNIT // 2 + shift + at * self.scale // _UNIT) * self.pixels // _UNIT


def _colour(rng: np.random.RandomState, darkest: int, brightest: int) -> tuple[int, ...]:
    return tuple(rng.randint(darkest, brightest, 3).tolist())


def _draw(rng: np.random.RandomState, traits: list[int], size: int) -> UInt8[np.ndarray, "H W 3"]:
    """One face. Integers throughout, so that it is the same on every machine; edges are smoothed by drawing larger."""
    square, eyes, slant, mouth = (max(-3 * _UNIT, min(trait, 3 * _UNIT)) for trait in traits)
    pixels = size * _SUPERSAMPLING
    scale = int(rng.randint(850, 1050))  # of the face, in thousandths
    left, top = int(rng.randint(-30, 31)), int(rng.randint(-30, 31))
    frame = _Frame(pixels, scale, left, top)
    place, box = frame.place, frame.box
    background, dress = _colour(rng, 40, 230), _colour(rng, 40, 230)
    skin, hair = _colour(rng, 150, 245), _colour(rng, 10, 110)
    image = Image.new("RGB", (pixels, pixels), background)
    drawing = ImageDraw.Draw(image)
    for _ in range(int(rng.randint(0, 4))):  # things behind
        x, y, radius = (int(rng.randint(low, high)) for low, high in ((-500, 500), (-500, 500), (50, 250)))
        drawing.ellipse(box(x, y, radius, radius), _colour(rng, 40, 230))

    width, height = int(rng.randint(190, 240)), int(rng.randint(230, 290))
    _rounded(drawing, box(0, 480, int(rng.randint(220, 380)), 180), 60 * pixels // _UNIT, dress)
    length = int(rng.randint(-150, 350))  # how far down the hair falls
    _rounded(drawing, [place(-width - 45, -height - 60), place(width + 45, length)], 150 * pixels // _UNIT, hair)
    drawing.rectangle(box(0, 300, 70, 80), skin)  # the neck
    rounding = width - (square + 3 * _UNIT) * width * 7 // (60 * _UNIT)
    head = box(0, 20, width, height)
    _rounded(drawing, head, rounding * scale // _UNIT * pixels // _UNIT, skin)
    fringe = int(rng.randint(40, 110))
    drawing.chord([place(-width, -height - 20), place(width, -height + 4 * fringe)], 180, 360, hair)

    apart, at = int(rng.randint(90, 110)), int(rng.randint(-60, 0))
    radius = 42 + 9 * eyes // _UNIT
    tilt, thick = 14 * slant // _UNIT, int(rng.randint(6, 14))
    for side in (-1, 1):
        drawing.ellipse(box(side * apart, at, radius + 8, radius), (245, 245, 245))
        drawing.ellipse(box(side * apart + left // 4, at, radius // 2, radius // 2), (0, 0, 0))
        for step in range(-5, 6):  # a brow, of dots: thin polygons are not the same in all versions of Pillow
            drawing.ellipse(box(side * (apart + 10 * step), at - 75 + tilt * step // 5, thick, thick), hair)
    if rng.randint(0, 4) == 0:  # glasses
        for side in (-1, 1):
            drawing.ellipse(box(side * apart, at, 75, 65), outline=dress, width=12 * pixels // _UNIT)
    drawing.ellipse(box(0, 70, int(rng.randint(15, 35)), int(rng.randint(20, 45))), tuple(4 * c // 5 for c in skin))
    drawing.ellipse(box(0, 165, 90 + 20 * mouth // _UNIT, int(rng.randint(12, 35))), (170, 50, 60))
    return np.asarray(image.reduce(_SUPERSAMPLING))
