"""One HTML file that needs no network and no server: a template, its scripts, and the data, packed."""

import base64
import html
import importlib.resources
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image

SPRITE_BYTES = 3_000_000  # of all small pictures together, at most
SMALL, THUMBNAIL = 28, 56  # pixels a side: of digits, which are shown as they are, and of larger pictures


def document(title: str, data: dict[str, Any], scripts: Sequence[str]) -> bytes:
    """The file. Nothing in `data` can end the element that it lies in; the scripts show strings as text alone."""
    packed = json.dumps(finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "title": html.escape(title),
        "style": _part("style.css"),
        "scripts": "\n".join(_part(name) for name in ("parts.js", *scripts)),
        "data": packed.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"),
    }
    first, *rest = _part("template.html").split("{{")
    written = [first]
    for piece in rest:  # not by replacement: a title may hold the name of another part
        name, after = piece.split("}}", 1)
        written += [parts[name], after]
    return "".join(written).encode("utf-8", errors="replace")


def pack(array: Shaped[np.ndarray, "..."]) -> dict[str, str]:
    """Numbers as little-endian base64, with their dtype."""
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "base64": base64.b64encode(little.tobytes()).decode()}


def sprite(images: Any, chosen: Int[np.ndarray, "M"]) -> dict[str, Any]:
    """The chosen pictures as one, row by row: small ones as they are, others as thumbnails that fit the limit.

    `images` is a uint8 array [N, H, W, C], or anything that gives one when it is indexed by numbers.
    """
    height, width, channels = images.shape[1:]
    is_drawing = max(height, width) <= SMALL and channels == 1
    side = SMALL if is_drawing else THUMBNAIL
    blocks = [chosen[start : start + 256] for start in range(0, len(chosen), 256)]
    small = np.concatenate([_resized(np.asarray(images[block]), side) for block in blocks])
    while len(content := _encoded(small, is_drawing)) > SPRITE_BYTES and side > 12:
        side = side * 3 // 4
        small = _resized(small, side)
    kind = "png" if is_drawing else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "side": side, "columns": _columns(len(chosen))}


def _columns(count: int) -> int:
    return math.ceil(math.sqrt(count))


def _resized(images: UInt8[np.ndarray, "N H W C"], side: int) -> UInt8[np.ndarray, "N side side C"]:
    if images.shape[1:3] == (side, side):
        return images
    squeezed = images[..., 0] if images.shape[3] == 1 else images
    small = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX)) for image in squeezed]
    return np.stack(small).reshape(len(images), side, side, images.shape[3])


def _encoded(small: UInt8[np.ndarray, "N side side C"], is_drawing: bool) -> bytes:
    count, side, _, channels = small.shape
    columns = _columns(count)
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, side, side, channels), np.uint8)
    grid[:count] = small
    sheet = (
        grid.reshape(rows, columns, side, side, channels).swapaxes(1, 2).reshape(rows * side, columns * side, channels)
    )
    file = io.BytesIO()
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    if is_drawing:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=70)
    return file.getvalue()


def finite(value: Any) -> Any:
    """The same with null for each number that is not finite, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(config: Any, name: str = "") -> list[tuple[str, str]]:
    """A configuration as names and values, one a row."""
    if isinstance(config, dict):
        return [row for key, value in config.items() for row in flat(value, f"{name}.{key}" if name else str(key))]
    return [(name, ", ".join(map(str, config)) if isinstance(config, list | tuple) else str(config))]


def _part(name: str) -> str:
    return importlib.resources.files("experiments.page").joinpath(name).read_text(encoding="utf-8")
