"""python -m experiments.bench step --variants v1_2_3 mynn
python -m experiments.bench inference
python -m experiments.bench products
python -m experiments.bench epoch
python -m experiments.bench epoch --variant mynn --data folder:PHOTOGRAPHS
python -m experiments.bench start
python -m experiments.bench accuracy --data folder:PHOTOGRAPHS
python -m experiments.bench recognition --seeds 1
python -m experiments.bench head --classes 10000 100000
python -m experiments.bench head --sharded --classes 10000 100000 1000000
python -m experiments.bench search
python -m experiments.bench pairs
python -m experiments.bench stream
"""

import sys
from typing import Annotated

import tyro

from experiments.bench.accuracy import Accuracy
from experiments.bench.epoch import EpochCost
from experiments.bench.harness import Measurement
from experiments.bench.head import Head
from experiments.bench.products import Products
from experiments.bench.recognition import Recognition
from experiments.bench.search import Pairs, Search
from experiments.bench.start import Start
from experiments.bench.step import Inference, Step
from experiments.bench.stream import StreamRate
from experiments.run.terminal import main, parse

Command = (
    Annotated[Step, tyro.conf.subcommand("step")]
    | Annotated[Inference, tyro.conf.subcommand("inference")]
    | Annotated[Products, tyro.conf.subcommand("products")]
    | Annotated[EpochCost, tyro.conf.subcommand("epoch")]
    | Annotated[Start, tyro.conf.subcommand("start")]
    | Annotated[Accuracy, tyro.conf.subcommand("accuracy")]
    | Annotated[Recognition, tyro.conf.subcommand("recognition")]
    | Annotated[Head, tyro.conf.subcommand("head")]
    | Annotated[Search, tyro.conf.subcommand("search")]
    | Annotated[Pairs, tyro.conf.subcommand("pairs")]
    | Annotated[StreamRate, tyro.conf.subcommand("stream")]
)


def command(measurement: Measurement) -> None:
    result = measurement.run()
    if measurement.out:
        from experiments.run.records import environment, write_json  # they import JAX, which --help does without

        line = f"python -m experiments.bench {' '.join(sys.argv[1:])}"
        write_json(measurement.out, {"command": line, "environment": environment(), **result})
        print(f"written to {measurement.out}")


if __name__ == "__main__":
    main(lambda: command(parse(Command, "python -m experiments.bench")))
