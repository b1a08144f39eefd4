"""The pages that have tables, and the table of each result."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.run.records import read_json
from experiments.tables import runs, speed, study
from experiments.tables.cells import RESULTS

README = Path(__file__).parents[2] / "README.md"
PAGES = (README, RESULTS / "README.md")

# By the name of its marks in a page: the result that a table is made of, and the way it is made.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "study": ("study", study.variants_table),
    "study_changes": ("study", study.changes_table),
    "study_fashion": ("study", study.fashion_table),
    "default_run": ("default_run", runs.default_run_table),
    "exact_gradient_run": ("exact_gradient_run", runs.default_run_table),
    "kills_cpu": ("kills_cpu", runs.kills_line),
    "mynn_ingredients": ("mynn_ingredients", runs.classifiers_table),
    "mynn_networks": ("mynn_networks", runs.networks_table),
    "mynn_large": ("mynn_large", runs.networks_table),
    "mynn_relu": ("mynn_relu", runs.classifiers_table),
    "mynn_deep": ("mynn_deep", runs.classifiers_table),
    "recognition_beside_torch": ("recognition_beside_torch", speed.recognition_beside_table),
    "recognition_line": ("recognition", runs.recognition_line),
    "recognition": ("recognition", runs.recognition_table),
    "recognition_kanji": ("recognition_kanji", runs.recognition_table),
    "recognition_kanji_designs": ("recognition_kanji", runs.sources_table),
    "accuracy_cpu": ("accuracy_cpu", speed.accuracy_table),
    "mynn_accuracy_cpu": ("mynn_accuracy_cpu", speed.accuracy_table),
    "step_cpu": ("step_cpu", speed.step_table),
    "step_cpu_amd": ("step_cpu_amd", speed.rates_table),
    "step_cpu_jax_0_10": ("step_cpu_jax_0_10", speed.rates_table),
    "step_cpu_amd_jax_0_10": ("step_cpu_amd_jax_0_10", speed.rates_table),
    "mynn_step_cpu": ("mynn_step_cpu", speed.step_table),
    "inference_cpu": ("inference_cpu", speed.step_table),
    "products_cpu": ("products_cpu", speed.products_table),
    "start_cpu": ("start_cpu", speed.start_table),
    "epoch_cpu": ("epoch_cpu", speed.epoch_table),
    "mynn_epoch_cpu": ("mynn_epoch_cpu", speed.epoch_of_pictures_table),
    "stream_cpu": ("stream_cpu", speed.stream_table),
    "search_cpu": ("search_cpu", speed.search_table),
    "pairs_cpu": ("pairs_cpu", speed.pairs_line),
    "head_cpu": ("head_cpu", speed.head_table),
    "head_sharded": ("head_sharded", speed.sharded_head_table),
    "head_estimate": ("head_sharded", speed.head_estimate_table),
}

# Results that are drawn, too, beside their files.
PICTURES: dict[str, Callable[[dict[str, Any]], Figure]] = {"mynn_networks": runs.networks_picture}


def with_tables(page: str) -> str:
    """The page with each table between its marks made anew."""
    for name, (result, table) in TABLES.items():
        marks = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", page, re.DOTALL)
        file = RESULTS / f"{result}.json"
        if marks and file.exists():
            page = f"{page[: marks.start()]}{table(read_json(file))}\n{page[marks.end() :]}"
    return page
