"""The ArcLoss study: twelve networks and optimisers that draw MNIST in the plane.

python -m experiments.arcloss --variant v1_2_3
"""

import time

from experiments.arcloss.config import Config
from experiments.arcloss.variants import VARIANTS
from experiments.run.session import Invocation, prepare
from experiments.run.terminal import command_line, main, parse

PROG = "python -m experiments.arcloss"
EXAMPLES = ("--variant v1_2_3", "--variant all --epochs 3", "--data folder:PHOTOGRAPHS --size 64 --margin cosface")


def command(config: Config, line: str = PROG) -> None:
    started = time.perf_counter()
    if config.list:
        for variant in VARIANTS.values():
            print(f"{variant.name:<8}{variant.change:<50}{variant.verdict}")
        return
    config.check()
    prepare(keep_memory=config.keep_memory, verbose=config.verbose, count=config.processes)
    from experiments.arcloss.study import train  # JAX is imported from here on, not for --help and --list

    train(config, Invocation(line, started, config.fresh))


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES), command_line(PROG)))
