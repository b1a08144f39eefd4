"""Pictures of successive epochs as an animation."""

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from PIL import Image

FRAME_SECONDS = 0.5
LAST_SECONDS = 2.5
NEAR_WHITE = 240


def animate(frames: Iterable[bytes | UInt8[np.ndarray, "H W 3"]]) -> bytes:
    """An endless GIF of frames of one size, each the bytes of a PNG or an array of pixels.

    A frame stays for half a second, the last for 2.5 s. All frames share one palette, so that nothing flickers. Two
    equal frames in a row become one that stays for the time of both. Frames are taken one by one: a generator's
    frames never lie in memory together.

    Raises:
        ValueError: there are no frames, or their sizes differ.
    """
    from PIL import Image

    kept, sizes, samples = [], set(), []
    for frame in frames:
        image = _opened(frame)
        kept.append(_compressed(image))
        sizes.add(image.size)
        samples.append(_drawn(image))
    if not kept:
        raise ValueError("an animation needs one frame or more, and was given none")
    if len(sizes) > 1:
        raise ValueError(f"the frames differ in size: {sorted(sizes)}")
    palette = _palette(np.concatenate(samples))
    # Dithering would turn the white background into noise, which flickers and compresses badly.
    first, *others = (_opened(png).quantize(palette=palette, dither=Image.Dither.NONE) for png in kept)
    milliseconds = [round(1000 * FRAME_SECONDS)] * len(others) + [round(1000 * LAST_SECONDS)]
    buffer = io.BytesIO()
    options = {"save_all": True, "append_images": others, "loop": 0, "optimize": False, "disposal": 1}
    first.save(buffer, format="GIF", duration=milliseconds, **options)
    return buffer.getvalue()


def _opened(frame: bytes | np.ndarray) -> "Image.Image":
    from PIL import Image

    if isinstance(frame, bytes):
        with Image.open(io.BytesIO(frame)) as image:
            return image.convert("RGB")
    return Image.fromarray(np.ascontiguousarray(frame, np.uint8), "RGB")


def _compressed(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _drawn(image: "Image.Image") -> UInt8[np.ndarray, "N 3"]:
    """The pixels of every third row and column that are not the background's."""
    pixels = np.asarray(image)[::3, ::3].reshape(-1, 3)
    return pixels[(pixels < NEAR_WHITE).any(axis=1)]


def _palette(drawn: UInt8[np.ndarray, "N 3"]) -> "Image.Image":
    """White, and 255 colours for these pixels."""
    from PIL import Image

    colours = np.full((1, 3), 255)
    if len(drawn):
        found = Image.fromarray(drawn[None]).quantize(255, method=Image.Quantize.MEDIANCUT).getpalette() or []
        colours = np.concatenate([colours, np.reshape(found, (-1, 3))])
    # Pillow looks colours up by their upper bits: the background would take another colour near white.
    colours[(colours >= NEAR_WHITE).all(axis=1)] = 255
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.reshape(-1).tolist())
    return palette
