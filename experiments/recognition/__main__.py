"""Recognition: embeddings trained on some identities, and judged on others.

python -m experiments.recognition
python -m experiments.recognition --margin cosface --augment
"""

import time

from experiments.recognition.config import Config
from experiments.run.session import Invocation, prepare
from experiments.run.terminal import command_line, main, parse

PROG = "python -m experiments.recognition"
EXAMPLES = ("", "--margin cosface --m 0.2 --s 32", "--data glyphs:FONTS --model resnet18 --embedding 256 --augment")


def command(config: Config, line: str = PROG) -> None:
    started = time.perf_counter()
    config.check()
    prepare(keep_memory=config.keep_memory, verbose=config.verbose, count=config.processes)
    from experiments.recognition.study import train  # JAX is imported from here on, not for --help

    train(config, Invocation(line, started, config.fresh))


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES), command_line(PROG)))
