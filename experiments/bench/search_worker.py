"""One contender of `search` or `pairs` in a process of its own, as `harness.TimedProcess` drives it.

python -m experiments.bench.search_worker faiss search '{"queries": 10, "gallery": 100, "dimensions": 8, "k": 3}'
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.harness import memory_before, memory_of_process, seconds_of

_DRAWN = 2**16  # rows that are drawn at once


def unit_vectors(seed: int, number: int, dimensions: int) -> np.ndarray:
    """[number, dimensions] float32, in every direction alike."""
    rng = np.random.default_rng(seed)
    rows = np.empty((number, dimensions), np.float32)
    for start in range(0, number, _DRAWN):
        part = rows[start : start + _DRAWN]
        part[:] = rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def jaxnets_search(queries: int, gallery: int, dimensions: int, k: int) -> Callable[[], float]:
    """The timed function; it returns the mean of all cosines found, in which contenders agree."""
    _keep_freed_memory()
    from jaxnets.recognition import nearest

    asked, others = unit_vectors(0, queries, dimensions), unit_vectors(1, gallery, dimensions)
    return lambda: float(nearest(asked, others, k)[0].mean())


def faiss_search(queries: int, gallery: int, dimensions: int, k: int) -> Callable[[], float]:
    """The same; the index has its copy of the gallery before the search begins."""
    import faiss

    asked, index = unit_vectors(0, queries, dimensions), faiss.IndexFlatIP(dimensions)
    index.add(unit_vectors(1, gallery, dimensions))
    return lambda: float(index.search(asked, k)[0].mean())


def jaxnets_pairs(embeddings: int, dimensions: int, each: int) -> Callable[[], float]:
    """The timed function; it returns the area under the ROC."""
    _keep_freed_memory()
    from jaxnets.recognition import verification

    rows, labels = unit_vectors(0, embeddings, dimensions), np.arange(embeddings) // each
    return lambda: verification(rows, labels).auc


def _keep_freed_memory() -> None:
    from experiments.run.session import keep_freed_memory

    keep_freed_memory()  # as every command of this project does


CONTENDERS: dict[tuple[str, str], Callable[..., Callable[[], float]]] = {
    ("jaxnets", "search"): jaxnets_search,
    ("faiss", "search"): faiss_search,
    ("jaxnets", "pairs"): jaxnets_pairs,
}


def main(contender: str, task: str, job: dict[str, int]) -> None:
    measure = CONTENDERS[contender, task](**job)
    found: list[float] = []
    before = memory_before()
    _print()
    for _ in sys.stdin:
        _print(seconds=seconds_of(lambda: found.append(measure())))
    _print(peak_bytes=memory_of_process("VmHWM") - before, found=found[-1])


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
