"""One colour a class, and greys for the rest of a figure."""

import math

import numpy as np
from jaxtyping import Float

INK = "#1f2328"
GREY = "#6e7781"
FAINT = "#d8dee4"
ALARM = "#c4161c"

# A search maximised the smallest OKLab distance between any two colours, under normal vision, protanopia, deuteranopia
# and tritanopia (Machado et al. 2009, full severity), at least 0.2 from white. The smallest distances are 0.206, 0.129,
# 0.129 and 0.128; matplotlib's tab10 has 0.113, 0.007, 0.023 and 0.042.
TEN = (
    "#4ba3ed",
    "#b00f20",
    "#46e7ab",
    "#8848d7",
    "#ffb700",
    "#11069f",
    "#f164a1",
    "#246182",
    "#ac7c17",
    "#580c49",
)


def class_colours(num_classes: int) -> Float[np.ndarray, "C 3"]:
    """RGB in 0..1, [C, 3]: the ten chosen colours; for more classes, hues spread evenly around OKLCH."""
    if num_classes <= len(TEN):
        return np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in TEN[:num_classes]])
    hues = 2 * math.pi * np.arange(num_classes) / num_classes
    # Three lightnesses in turn: neighbouring hues alone are too similar.
    lightness = np.array([0.45, 0.78, 0.62])[np.arange(num_classes) % 3]
    return _oklch(lightness, 0.16, hues)


def darker(colours: Float[np.ndarray, "*C 3"], by: float = 0.3) -> Float[np.ndarray, "*C 3"]:
    return np.asarray(colours) * (1 - by)


def _oklch(lightness: Float[np.ndarray, "C"], chroma: float, hue: Float[np.ndarray, "C"]) -> Float[np.ndarray, "C 3"]:
    """OKLCH to sRGB, clipped to the colours of a screen (Ottosson 2020, bottosson.github.io/posts/oklab)."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
