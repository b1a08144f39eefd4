"""How well a network verifies: the accuracy in ten folds of sets of pairs, such as lfw.bin.

python -m experiments.verify backbone.pth --model iresnet50 lfw.bin cfp_fp.bin agedb_30.bin
python -m experiments.verify runs/recognition/v1_2_3/arcface/seed0 lfw.bin
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.options import Inputs, OptionalStr
from experiments.run.session import prepare
from experiments.run.terminal import UserError, main, parse

PROG = "python -m experiments.verify"
EXAMPLES = (
    "backbone.pth --model iresnet50 lfw.bin cfp_fp.bin agedb_30.bin",
    "runs/recognition/v1_2_3/arcface/seed0 lfw.bin",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Print how well a network tells pairs of one identity from pairs of two: the accuracy in folds, and TAR at FAR.

    The sets are insightface's: pickles of encoded pictures, of which nothing is run. The threshold of each fold is the
    one that is best for the others.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_FILE")]
    """a run's folder, or a .safetensors or .pth file"""
    sets: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="BIN...", help_behavior_hint="")]
    """files of pairs, such as lfw.bin"""
    model: OptionalStr = None
    """the network of a weights file; a run's folder knows its own"""
    mirrored: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = True
    """take each picture alone; by default the embedding of its mirror image is added to its own"""
    folds: int = 10
    """number of folds, each of consecutive pairs"""
    inputs: Inputs = "auto"
    """of a file: imagenet takes ImageNet's mean from the images and divides by its standard deviation, as torchvision's
    weights expect; plain has them in [0, 1]; auto takes imagenet where the file tells 1,000 classes"""


def command(config: Config) -> None:
    if not config.sets:
        raise UserError(f"name the sets of pairs, such as lfw.bin, after the run or file; see {PROG} --help")
    if config.folds < 2:
        raise UserError(f"--folds must be 2 or more, not {config.folds}")
    prepare()
    from experiments.trained import network  # JAX is imported from here on, not for --help
    from experiments.trained.embeddings import with_mirrored
    from experiments.trained.verification import table, verified
    from jaxnets.naming import quoted

    trained = network.load(config.source, config.model, config.inputs)
    program = trained.program("embeddings")
    if config.mirrored:
        program = with_mirrored(program)
    for path in config.sets:
        report = verified(program, path, config.folds)
        print(
            f"{quoted(path)}: {report.num_genuine:,} genuine pairs and {report.num_impostor:,} of impostors, by "
            f"{trained.name} from {trained.origin}",
            *table(report),
            sep="\n",
            flush=True,
        )


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
