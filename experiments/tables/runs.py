"""Tables of runs: accuracies epoch by epoch, and classifiers of several recipes."""

from collections.abc import Iterator
from typing import Any

from experiments.tables.cells import head, made_by, mean, percent, row


def default_run_table(result: dict[str, Any]) -> str:
    accuracies = [seed["test_accuracy"] for seed in result["seeds"]]
    epochs = range(1, len(accuracies[0]) + 1)
    rows = head(["seed", *map(str, epochs), "gaps at the end", "verdict"])
    for seed, values in zip(result["seeds"], accuracies, strict=True):
        gaps = f"{seed['smallest_gap_degrees']:.0f}°–{seed['largest_gap_degrees']:.0f}°"
        rows.append(row([str(seed["seed"]), *map(percent, values), gaps, seed["verdict"]]))
    last, best = mean([values[-1] for values in accuracies]), mean([max(values) for values in accuracies])
    rows += [
        "",
        f"Test accuracy in % after each epoch, n = {len(accuracies)}; the last {last} %, the best of a run {best} %. "
        f"{made_by(result)}",
    ]
    return "\n".join(rows)


def classifiers_table(result: dict[str, Any]) -> str:
    """One line a run, in the given order: each is the one before with one thing changed."""
    rows = head(("network", "recipe", "epochs", "last", "best", "MiB"))
    for each in result["rows"]:
        config, accuracies = each["config"], each["test_accuracy"]
        recipe = [f"{config['optimizer']} {config['learning_rate']:g}", *_ingredients(config)]
        percents = percent(accuracies[-1]), percent(max(accuracies))
        rows.append(
            row([config["variant"], ", ".join(recipe), str(len(accuracies)), *percents, f"{each['megabytes']:.2f}"])
        )
    first = result["rows"][0]
    size = "×".join(map(str, first["config"]["image_shape"][:2]))
    rows += [
        "",
        f"Test accuracy in %, pictures of {size}, seed {first['config']['seed']}; the first: {made_by(first)}",
    ]
    return "\n".join(rows)


def _ingredients(config: dict[str, Any]) -> Iterator[str]:
    if config["augment"]:
        yield "augmented"
    if config["schedule"] != "constant":
        yield "cosine"
    if config["averaging"] is not None:
        yield f"averaging {config['averaging']}"
