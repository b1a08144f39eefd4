"""python -m experiments.tables                            rewrites the tables
python -m experiments.tables study OUT [OUT …]          first adds the finished runs below --out folders to study.json
python -m experiments.tables collect NAME RUN [RUN …]   first makes NAME.json of finished runs of one recipe
python -m experiments.tables compare NAME RUN [RUN …]   the same of classifiers, each of a recipe of its own
python -m experiments.tables recognised NAME RUN [RUN …]   the same of recognition, on the same identities
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.run.records import write_json
from experiments.run.terminal import UserError, main
from experiments.tables.cells import RESULTS
from experiments.tables.collect import collect, compare, recognised
from experiments.tables.pages import PAGES, PICTURES, with_tables
from experiments.tables.study_runs import add_to_study
from jaxnets.figures import to_png
from jaxnets.files import write_atomically

MADE_OF_RUNS: dict[str, Callable[[list[Path]], dict[str, Any]]] = {
    "collect": collect,
    "compare": compare,
    "recognised": recognised,
}


def command(argv: list[str]) -> None:
    folders = [Path(word) for word in argv[1:]]
    if argv[:1] == ["study"] and folders:
        print(add_to_study(RESULTS, folders))
    elif argv[:1] and argv[0] in MADE_OF_RUNS and len(folders) > 1:
        result = MADE_OF_RUNS[argv[0]](folders[1:])
        write_json(RESULTS / f"{argv[1]}.json", result)
        if argv[1] in PICTURES:
            write_atomically(RESULTS / f"{argv[1]}.png", to_png(PICTURES[argv[1]](result)))
    elif argv:
        made = " | ".join(f"{name} NAME RUN …" for name in MADE_OF_RUNS)
        raise UserError(f"usage: python -m experiments.tables [study OUT … | {made}]")
    for page in PAGES:
        write_atomically(page, with_tables(page.read_text()))


if __name__ == "__main__":
    main(lambda: command(sys.argv[1:]))
