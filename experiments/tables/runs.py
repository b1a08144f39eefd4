"""Tables of runs: accuracies epoch by epoch, classifiers of several recipes, and recognition."""

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from experiments.tables.cells import head, made_by, mean, percent, row
from jaxnets import figures


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
    """One line a recipe, in the given order: mean and standard deviation over its seeds."""
    rows, recipes = head(("network", "recipe", "epochs", "seeds", "last", "best", "MiB")), defaultdict(list)
    for each in result["rows"]:
        config = each["config"]
        recipe = ", ".join([f"{config['optimizer']} {config['learning_rate']:g}", *_ingredients(config)])
        recipes[config["variant"], recipe, str(len(each["test_accuracy"]))].append(each)
    for words, runs in recipes.items():
        last, best = ([pick(run["test_accuracy"]) for run in runs] for pick in (lambda of: of[-1], max))
        rows.append(row([*words, str(len(runs)), mean(last), mean(best), f"{runs[0]['megabytes']:.2f}"]))
    rows += ["", f"{_accuracy_of(result)} The first run: {made_by(result['rows'][0])}"]
    return "\n".join(rows)


def networks_table(result: dict[str, Any]) -> str:
    """One line a network, the smallest first, of one recipe on one machine."""
    rows = head(("network", "parameters", "MiB", "epochs", "last", "best", "s/epoch"))
    for each in sorted(result["rows"], key=lambda each: each["parameters"]):
        size = f"{each['parameters']:,}", f"{each['megabytes']:.2f}", str(len(each["test_accuracy"]))
        accuracy = percent(each["last_accuracy"]), percent(each["best_accuracy"])
        rows.append(row([each["name"], *size, *accuracy, f"{each['seconds_per_epoch']:.0f}"]))
    rows += ["", f"{_accuracy_of(result)} s/epoch: the median. The first run: {made_by(result['rows'][0])}"]
    return "\n".join(rows)


def networks_picture(result: dict[str, Any]) -> Figure:
    """The table of networks, drawn."""
    names = [field.name for field in dataclasses.fields(figures.ComparedNetwork)]
    networks = [figures.ComparedNetwork(**{name: each[name] for name in names}) for each in result["rows"]]
    return figures.comparison(networks, title="cost and accuracy of each network", subtitle="aligned photographs")


def _accuracy_of(result: dict[str, Any]) -> str:
    """On which pictures, and how far chance moves it."""
    first = result["rows"][0]
    size, tested = "×".join(map(str, first["config"]["image_shape"][:2])), first["test_images"]
    share = statistics.mean(each["test_accuracy"][-1] for each in result["rows"])
    error = percent(math.sqrt(share * (1 - share) / tested))
    several = len({each["config"]["seed"] for each in result["rows"]}) > 1
    return (
        f"Test accuracy in %, pictures of {size}; {'mean ± standard deviation over seeds' if several else 'one seed'}. "
        f"Of {tested:,} test pictures, an accuracy of {percent(share, 0)} % has a standard error of {error} %."
    )


# Of recognition: a column, the kind of report, and the figure's name there.
RECOGNISED = (
    ("P@1", "retrieval", "precision_at_1"),
    ("MAP@R", "retrieval", "map_at_r"),
    ("equal errors", "verification", "eer"),
    ("TAR at FAR 1e-3", "verification", "tar_at_far[0.001]"),
    ("TAR at FAR 1e-4", "verification", "tar_at_far[0.0001]"),
    ("rank-1", "identification", "rank_at[1]"),
)


def recognition_table(result: dict[str, Any]) -> str:
    """One line a recipe: mean and standard deviation over its seeds; of one seed the interval over identities."""
    recipes = defaultdict(list)
    for each in result["rows"]:
        recipes[_recipe(each)].append(each)
    rows = head(("network", "loss", "with", "epochs", "seeds", *(name for name, *_ in RECOGNISED)))
    for words, runs in recipes.items():
        reports = [run["recognition"] for run in runs]
        cells = [_over_seeds([report[kind] for report in reports], name) for _, kind, name in RECOGNISED]
        rows.append(row([*words, str(len(runs)), *cells]))
    first = result["rows"][0]
    # The time is that on the hardware of which the line tells.
    alike = [each for each in result["rows"] if _hardware(each) == _hardware(first)]
    seconds = statistics.mean(each["seconds"] for each in alike)
    retrieved = first["recognition"]["retrieval"]
    rows += [
        "",
        f"In %, mean ± standard deviation over seeds, or of one run its {retrieved['confidence']:.0%} interval over "
        f"identities. {retrieved['num_queries']:,} pictures of {retrieved['num_identities']:,} identities that "
        f"training never saw; {seconds / 60:.0f} minutes of training a run. {made_by(result)}",
    ]
    return "\n".join(rows)


def sources_table(result: dict[str, Any]) -> str:
    """Rank-1 of each source, the easiest first, in a line a recipe: a mean over all hides the hard ones."""
    recipes = defaultdict(list)
    for each in result["rows"]:
        recipes[_recipe(each)].append(each["recognition"]["by_source"])
    first = next(iter(recipes.values()))
    easiest = sorted(first[0]["rank_1"], key=lambda name: -statistics.mean(of["rank_1"][name] for of in first))
    rows = head(("network", "loss", "with", "epochs", *(name.removesuffix(" Regular") for name in easiest)))
    for words, reports in recipes.items():
        rows.append(row([*words, *(mean([report["rank_1"][name] for report in reports], 1) for name in easiest)]))
    fewest, most = min(first[0]["num_with_mate"].values()), max(first[0]["num_with_mate"].values())
    rows += ["", f"Rank-1 in % of {fewest:,} to {most:,} probes of each design, mean ± standard deviation over seeds."]
    return "\n".join(rows)


def _hardware(run: dict[str, Any]) -> list[Any]:
    return [run["environment"].get(name) for name in ("device", "devices", "cpu", "cpu_cores")]


def _recipe(run: dict[str, Any]) -> tuple[str, ...]:
    """All of it but the seed, in words."""
    config = run["config"]
    loss = f"{config['margin']['name']}, s = {config['scale']:.4g}"
    return config["variant"], loss, ", ".join(_of_recognition(config)) or "–", str(run["epochs"])


def recognition_line(result: dict[str, Any]) -> str:
    """The first recipe in a sentence: the default one."""
    first = result["rows"][0]
    same = [each for each in result["rows"] if _recipe(each) == _recipe(first)]
    reports, retrieved = [each["recognition"] for each in same], first["recognition"]["retrieval"]
    told = (
        f"{name} {_over_seeds([report[kind] for report in reports], key)} %"
        for name, kind, key in RECOGNISED
        if name in ("P@1", "MAP@R", "rank-1")
    )
    where = f"{len(same)} seeds; [all figures](experiments/results/README.md#recognition)"
    return (
        f"On {retrieved['num_identities']} characters that training never saw it reaches {', '.join(told)} ({where})."
    )


def _over_seeds(reports: list[dict[str, Any]], name: str) -> str:
    values = [report[name] for report in reports]
    if any(value is None for value in values):  # too few impostor pairs to state it
        return "–"
    low, high = reports[0]["intervals"].get(name, (None, None))
    if len(values) > 1 or low is None or high is None:
        return mean(values, 1)
    return f"{percent(values[0], 1)} ({percent(low, 1)}–{percent(high, 1)})"


def _of_recognition(config: dict[str, Any]) -> Iterator[str]:
    """The recipe's differences from the defaults."""
    if config["augment"]:
        yield "augmentation"
        if isinstance(config["augment"], dict) and "elastic" in config["augment"]:
            yield f"elastic {config['augment']['elastic']}"
    if config["subcenters"] > 1:
        yield f"{config['subcenters']} sub-centres"
    if config["embedding"] != 128:
        yield f"{config['embedding']}-D"
    if config["averaging"] is not None:
        yield f"averaging {config['averaging']}"


def kills_line(result: dict[str, Any]) -> str:
    """The count of kills that runs survived, and of faults."""
    kills = result["kills"]
    each = ", ".join(f"{count} {name}" for name, count in kills.items())
    return (
        f"{sum(kills.values())} kills ({each}) of {result['runs']} runs at random moments "
        f"({'; '.join(result['scenarios'])}): {len(result['faults'])} faults. {made_by(result)}"
    )


def _ingredients(config: dict[str, Any]) -> Iterator[str]:
    if config["augment"]:
        yield "augmented"
    if config["schedule"] != "constant":
        yield "cosine"
    if config["averaging"] is not None:
        yield f"averaging {config['averaging']}"
