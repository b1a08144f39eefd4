"""A stream of RecordIO pictures against the decoding of the same pictures alone: the cost of reading."""

import dataclasses
import io
import os
import statistics
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from experiments.bench.harness import Measurement, in_turns, seconds_of
from experiments.run.options import check_counts

MAGIC = 0xCED7230A  # of RecordIO
BATCH = 128


@dataclasses.dataclass(frozen=True)
class StreamRate(Measurement):
    """Pictures a second of a stream of JPEGs in RecordIO, and of their decoding alone, from memory."""

    pictures: int = 10_000
    size: int = 112
    """height and width"""
    rounds: int = 5
    """epochs of each, after a first one that does not count; the median counts"""

    def run(self) -> dict[str, Any]:
        check_counts(self, ("pictures", "size", "rounds"))
        encoded = noisy_faces(self.pictures, self.size)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), encoded)
            from jaxnets.data import find
            from jaxnets.data.streaming import Stream

            stream = Stream(find(f"recordio:{folder}").train, size=self.size, batch_size=BATCH, seed=0)
            count = len(stream)
            chosen = encoded[:count]
            ways: dict[str, Callable[[], object]] = {
                "the stream": lambda: sum(len(batch.labels) for batch in stream),
                "Pillow, all processors": lambda: _in_threads(_pillow, chosen),
                "Pillow, one thread": lambda: [*map(_pillow, chosen)],
            }
            if find_spec("torchvision"):
                ways["torchvision, all processors"] = lambda: _in_threads(_torchvision, chosen)
            found = in_turns({name: partial(seconds_of, way) for name, way in ways.items()}, self.rounds)
            stream.close()
        size = statistics.mean(map(len, chosen))
        table = Table(
            "", "pictures a second", title=f"{count:,} pictures of {self.size}×{self.size}, {size:,.0f} bytes each"
        )
        rows = []
        for name, seconds in found.items():
            rows.append({"name": name, "pictures_per_second": count / statistics.median(seconds), "seconds": seconds})
            table.add_row(name, f"{rows[-1]['pictures_per_second']:,.0f}")
        Console().print(table)
        return {"pictures": count, "size": self.size, "bytes_per_picture": size, "rows": rows}


def noisy_faces(count: int, size: int) -> list[bytes]:
    """Drawn faces with the noise of a camera, which makes their JPEGs as large as photographs'."""
    from jaxnets.data import load

    drawn, rng = load("faces", size=size).train.images, np.random.default_rng(0)
    encoded = []
    for number in range(count):
        noisy = np.asarray(drawn[number % len(drawn)]) + rng.normal(0, 8, (size, size, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
        encoded.append(file.getvalue())
    return encoded


def write(folder: Path, encoded: list[bytes]) -> None:
    """A set in MXNet's RecordIO, twenty pictures of each identity; JPEG's bytes cannot hold the format's magic."""
    content, index = bytearray(), []
    for key, picture in enumerate(encoded):
        index.append(f"{key}\t{len(content)}\n")
        record = struct.pack("<IfQQ", 0, key // 20, key, 0) + picture
        content += struct.pack("<II", MAGIC, len(record)) + record + bytes(-len(record) % 4)
    (folder / "train.rec").write_bytes(content)
    (folder / "train.idx").write_text("".join(index))


def _in_threads(decode: Callable[[bytes], object], encoded: list[bytes]) -> int:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(1 for _ in pool.map(decode, encoded, chunksize=BATCH))


def _pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _torchvision(content: bytes) -> object:
    import torch
    from torchvision.io import decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))
