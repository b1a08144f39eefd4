"""The user's pictures, file after file or whole folders, and their unit embeddings, in bounded memory."""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8

from experiments.run.terminal import UserError
from experiments.trained import pictures
from experiments.trained.predictions import batch_size
from jaxnets.data.decoding import endings
from jaxnets.export import Program
from jaxnets.export.program import Weights
from jaxnets.naming import quoted


def found_in(sources: Sequence[Path]) -> Iterator[Path]:
    """The named pictures, and the pictures in named folders, in the file system's order.

    A folder is never listed as a whole, so memory does not grow with it. In it, pictures are known by their endings.

    Raises:
      UserError: where there is no such file.
    """
    for source in sources:
        if source.is_dir():
            yield from _within(source)
        elif source.exists():
            yield source
        else:
            raise UserError(f"{quoted(source)}: there is no such picture or folder")


def _within(folder: Path) -> Iterator[Path]:
    known = endings()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _within(Path(entry.path))
            elif os.path.splitext(entry.name)[1].lower() in known:
                yield Path(entry.path)


class Count(NamedTuple):
    """Of pictures: how many, the longest name in characters and in bytes, and a digest of all names in order."""

    pictures: int
    characters: int
    octets: int
    digest: str

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Count":
        count = characters = octets = 0
        digest = hashlib.sha256()
        for path in paths:
            encoded = os.fsencode(path)
            count, characters, octets = count + 1, max(characters, len(str(path))), max(octets, len(encoded))
            digest.update(encoded + b"\0")
        return cls(count, characters, octets, digest.hexdigest())


class Batch(NamedTuple):
    sources: list[Path | pictures.Encoded]
    embeddings: Float32[np.ndarray, "B D"]
    inverted: int  # how many look dark on light


def with_mirrored(program: Program) -> Program:
    """Sums of the embeddings of each image and its mirror image, as faces are verified: the two count as one.

    Lengths count in the sum, as in insightface's verification.py.
    """

    def apply(weights: Weights, images: UInt8[jax.Array, "N H W C"]) -> Float[jax.Array, "N D"]:
        return program.apply(weights, images) + program.apply(weights, images[:, :, ::-1])

    return dataclasses.replace(program, apply=apply)


def embed(program: Program, sources: Iterable[Path | pictures.Encoded], *, invert: bool = False) -> Iterator[Batch]:
    """The unit embeddings of pictures, in batches of one size, so that the program is compiled once.

    Raises:
      UserError: for a picture that cannot be read, and one whose embedding is zero or not finite.
    """
    apply, shape, size = jax.jit(program.apply), program.image_shape, batch_size(program.image_shape)
    remaining = iter(sources)
    with ThreadPoolExecutor() as readers:
        while chosen := [*itertools.islice(remaining, size)]:
            images = np.zeros((size, *shape), np.uint8)
            for i, image in enumerate(readers.map(lambda source: pictures.read(source, shape), chosen)):
                images[i] = image
            if invert:
                images = 255 - images
            outputs = np.asarray(apply(program.weights, images), np.float64)[: len(chosen)]
            lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
            broken = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0))[:, 0])
            if len(broken):
                raise UserError(f"the network makes no embedding of {quoted(chosen[broken[0]])} that has a direction")
            dark = int(pictures.look_inverted(images[: len(chosen)]).sum()) if shape[2] == 1 else 0
            yield Batch(chosen, (outputs / lengths).astype(np.float32), dark)


def digest_of(program: Program) -> str:
    """A digest of a network's weights: embeddings compare only if one network made them."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(program.weights):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
