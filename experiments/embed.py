"""The unit embeddings of the user's pictures, as a file.

python -m experiments.embed runs/recognition/v1_2_3/arcface/seed0 PHOTOGRAPHS --out photographs.npz
python -m experiments.embed resnet18.safetensors --model resnet18 faces/*.jpg --out faces.safetensors
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.options import Inputs, OptionalPath, OptionalStr
from experiments.run.session import prepare
from experiments.run.terminal import UserError, main, parse

PROG = "python -m experiments.embed"
EXAMPLES = (
    "runs/recognition/v1_2_3/arcface/seed0 PHOTOGRAPHS --out photographs.npz",
    "resnet18.safetensors --model resnet18 faces/*.jpg --out faces.safetensors",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Write the names and the unit embeddings of pictures to a file, in which experiments.search finds the nearest."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """pictures of any size, or folders of them"""
    out: OptionalPath = None
    """the file to write, .npz or .safetensors"""
    model: OptionalStr = None
    """the network of a weights file; a run's folder knows its own"""
    invert: bool = False
    """make dark light and light dark: MNIST's digits and the glyphs are white on black"""
    inputs: Inputs = "auto"
    """of a file: imagenet takes ImageNet's mean from the images and divides by its standard deviation, as torchvision's
    weights expect; plain has them in [0, 1]; auto takes imagenet where the file tells 1,000 classes"""


def command(config: Config) -> None:
    if not config.images:
        raise UserError(f"name the pictures, or folders of them, after the run or file; see {PROG} --help")
    if config.out is None:
        raise UserError("--out must name the file to write, .npz or .safetensors")
    prepare()
    from experiments.run.bar import ProgressBar  # JAX is imported from here on, not for --help
    from experiments.trained import embedding_file, network
    from experiments.trained.embeddings import Count, digest_of, embed, found_in
    from jaxnets.naming import quoted

    out = config.out
    if out.suffix not in embedding_file.KINDS:
        raise UserError(f"{quoted(out)} ends in neither {' nor '.join(embedding_file.KINDS)}")
    trained = network.load(config.source, config.model, config.inputs)
    program = trained.program("embeddings")
    count = Count.of(found_in(config.images))
    if not count.pictures:
        raise UserError(f"there is no picture in {', '.join(map(quoted, config.images))}")
    inverted = 0
    with ProgressBar("embedding", count.pictures) as bar:
        batches = embed(program, found_in(config.images), invert=config.invert)
        first = next(batches)

        def blocks() -> Iterator:
            nonlocal inverted
            done = 0
            for batch in itertools.chain([first], batches):
                done, inverted = done + len(batch.sources), inverted + batch.inverted
                yield batch.embeddings
                bar.advance_to(done)
            if done != count.pictures:
                raise UserError(_CHANGED)

        def names() -> Iterator[str]:
            if Count.of(found_in(config.images)) != count:
                raise UserError(_CHANGED)
            yield from map(str, found_in(config.images))

        about = embedding_file.About(
            str(config.source.absolute()), config.model, config.inputs, digest_of(program), os.getcwd()
        )
        embedding_file.write(out, count, first.embeddings.shape[1], blocks(), names(), about)
    if inverted and 2 * inverted >= count.pictures:
        print(
            f"note: {inverted} of {count.pictures} pictures look dark on light, where MNIST and the glyphs are light "
            f"on dark: try {'without' if config.invert else 'with'} --invert",
            file=sys.stderr,
        )
    print(
        f"{quoted(out)}: {count.pictures:,} embeddings of {first.embeddings.shape[1]} dimensions by {trained.name} "
        f"from {trained.origin}; {out.stat().st_size:,} bytes"
    )


_CHANGED = "pictures came or went while they were read: start again"


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
