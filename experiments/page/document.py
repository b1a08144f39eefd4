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
from jaxtyping import Shaped, UInt8
from PIL import Image

SPRITE_BYTES = 3_000_000  # of all small pictures together, at most


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


def sprite(images: UInt8[np.ndarray, "N H W C"]) -> dict[str, Any]:
    """All pictures as one, row by row: as they are where they are small, and else as thumbnails that fit the limit."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    sides = [28] if max(height, width) <= 28 and channels == 1 else [64, 56, 48, 40, 32, 28, 24, 20, 16]
    for side in sides:
        sheet = np.zeros((math.ceil(count / columns) * side, columns * side, channels), np.uint8)
        for number, image in enumerate(images):
            top, left = number // columns * side, number % columns * side
            sheet[top : top + side, left : left + side] = _thumbnail(image, side)
        content, kind = _encoded(sheet, is_drawing=len(sides) == 1)
        if len(content) <= SPRITE_BYTES:
            break
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "side": side, "columns": columns}


def _thumbnail(image: UInt8[np.ndarray, "H W C"], side: int) -> UInt8[np.ndarray, "side side C"]:
    if image.shape[:2] == (side, side):
        return image
    small = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).reshape(side, side, image.shape[2])


def _encoded(sheet: UInt8[np.ndarray, "H W C"], *, is_drawing: bool) -> tuple[bytes, str]:
    file = io.BytesIO()
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    if is_drawing:
        picture.save(file, "PNG", optimize=True)
    else:
        picture.save(file, "JPEG", quality=70)
    return file.getvalue(), "png" if is_drawing else "jpeg"


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
