"""Pictures of successive epochs as an animation."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from PIL import Image

FRAME_SECONDS = 0.5
LAST_SECONDS = 2.5
NEAR_WHITE = 240


def animate(frames: Sequence[bytes | UInt8[np.ndarray, "H W 3"]]) -> bytes:
    """An endless GIF of frames of one size, each the bytes of a PNG or an array of pixels.

    A frame stays for half a second, the last for 2.5 s. All frames share one palette, so that nothing flickers. Two
    equal frames in a row become one that stays for the time of both.

    Raises:
        ValueError: there are no frames, or their sizes differ.
    """
    from PIL import Image

    images = [_opened(frame) for frame in frames]
    if not images:
        raise ValueError("an animation needs one frame or more, and was given none")
    if len({image.size for image in images}) > 1:
        raise ValueError(f"the frames differ in size: {sorted({image.size for image in images})}")
    palette = _shared_palette(images)
    # Dithering would turn the white background into noise, which flickers and compresses badly.
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    milliseconds = [round(1000 * FRAME_SECONDS)] * (len(indexed) - 1) + [round(1000 * LAST_SECONDS)]
    buffer = io.BytesIO()
    indexed[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=milliseconds,
        loop=0,
        optimize=False,
        disposal=1,
    )
    return buffer.getvalue()


def _opened(frame: bytes | np.ndarray) -> "Image.Image":
    from PIL import Image

    if isinstance(frame, bytes):
        with Image.open(io.BytesIO(frame)) as image:
            return image.convert("RGB")
    return Image.fromarray(np.ascontiguousarray(frame, np.uint8), "RGB")


def _shared_palette(images: Sequence["Image.Image"]) -> "Image.Image":
    """White, and 255 colours for the other pixels; every third row and column of each frame is looked at."""
    from PIL import Image

    pixels = np.concatenate([np.asarray(image)[::3, ::3].reshape(-1, 3) for image in images])
    drawn = pixels[(pixels < NEAR_WHITE).any(axis=1)]
    colours = np.full((1, 3), 255)
    if len(drawn):
        found = Image.fromarray(drawn[None]).quantize(255, method=Image.Quantize.MEDIANCUT).getpalette() or []
        colours = np.concatenate([colours, np.reshape(found, (-1, 3))])
    # Pillow looks colours up by their upper bits: the background would take another colour near white.
    colours[(colours >= NEAR_WHITE).all(axis=1)] = 255
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.reshape(-1).tolist())
    return palette
