"""The gender study: Mynn, a network of a dozen lines, against the larger ones, on photographs or on drawn faces.

python -m experiments.mynn
python -m experiments.mynn --model all --data folder:PHOTOGRAPHS
"""

import time

from experiments.mynn.config import Config
from experiments.run.session import Invocation, prepare
from experiments.run.terminal import command_line, main, parse

PROG = "python -m experiments.mynn"
EXAMPLES = ("", "--model all --data folder:PHOTOGRAPHS --size 64", "--model resnet18 --pretrained resnet18.pth")


def command(config: Config, line: str = PROG) -> None:
    started = time.perf_counter()
    config.check()
    prepare(keep_memory=config.keep_memory, verbose=config.verbose, count=config.processes)
    from experiments.mynn.study import train  # JAX is imported from here on, not for --help

    train(config, Invocation(line, started, config.fresh))


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES), command_line(PROG)))
