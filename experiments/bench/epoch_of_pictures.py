"""An epoch of the gender study against the sum of its steps: on the device, mapped on the host, and streamed."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.bench.epoch import EpochCost, compare, seconds_of_steps

if TYPE_CHECKING:
    from jaxnets.data import Split
    from jaxnets.data.streaming import Stream


def measure(config: EpochCost) -> dict[str, Any]:
    """Whole epochs as `experiments.run` takes them, the cache warm; the same steps for each way.

    `steps alone` finds its batches on the device. `streamed` is measured for pictures that are stored: it decodes.
    """
    from experiments.session import prepare

    prepare()
    import jax
    import numpy as np

    from experiments import mynn, mynn_data
    from experiments.folder import Position
    from experiments.run import calls
    from jaxnets import quick_compilation, train_step
    from jaxnets.data import Split
    from jaxnets.epochs import Totals

    study = mynn.Config(
        data=config.data, size=config.size, batch_size=config.batch_size, steps_per_epoch=config.steps, epochs=1
    )
    dataset = mynn_data.load(study)
    experiment = mynn.build("mynn", study, dataset)
    cut, state = experiment.cut, experiment.state
    single = jax.jit(train_step, compiler_options=quick_compilation())
    batches = [
        jax.device_put(Split(np.asarray(dataset.train.images[i : i + size]), dataset.train.labels[i : i + size]))
        for i, size in (
            (step * cut.batch_size, cut.batch_size if step + 1 < cut.steps else cut.last_batch_size)
            for step in range(cut.steps)
        )
    ]

    def epoch_over(train: "Split | Stream") -> Callable[[], float]:
        of_these = dataclasses.replace(experiment, train=train)

        def whole_epoch() -> float:
            copy = jax.tree.map(lambda leaf: leaf.copy(), state)
            before = time.perf_counter()
            for _, totals, _ in calls(of_these, Position(copy, Totals.zero(cut.steps))):
                int(totals.bad_step)  # waits, as a run does
            return time.perf_counter() - before

        return whole_epoch

    ways = {
        "steps alone": lambda: seconds_of_steps(single, state, batches),
        "on the device": epoch_over(jax.device_put(dataset.train)),
        "mapped on the host": epoch_over(dataset.train),
    }
    if config.data.startswith(("folder:", "tfds:")):
        ways["streamed"] = epoch_over(mynn_data.open_stream(study).train)
    rows = compare(ways, dataclasses.replace(config, steps=cut.steps))
    shape = [cut.batch_size, *dataset.test.images.shape[1:]]
    return {"variant": "mynn", "data": config.data, "batch_shape": shape, "steps": cut.steps, "rows": rows}
