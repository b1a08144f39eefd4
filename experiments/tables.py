"""The README's tables, made of the results that are committed beside this file.

python -m experiments.tables                            rewrites the tables
python -m experiments.tables collect NAME RUN [RUN …]   first makes results/NAME.json of finished runs of one recipe
python -m experiments.tables compare NAME RUN [RUN …]   the same of classifiers, each of a recipe of its own
"""

import dataclasses
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.run.records import read_json, read_lines, write_json
from experiments.run.terminal import UserError, main
from jaxnets.files import write_atomically

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).parents[1] / "README.md"


def collect(runs: list[Path]) -> dict[str, Any]:
    """What finished runs of one configuration but for the seed gave, with how they were made."""
    records = [read_json(run / "config.json") for run in runs]
    configs = [{name: value for name, value in record["config"].items() if name != "seed"} for record in records]
    if any(config != configs[0] for config in configs):
        raise UserError("these runs differ in more than their seed")
    seeds = [
        {
            "seed": record["config"]["seed"],
            "test_accuracy": [line["test_accuracy"] for line in lines],
            "train_accuracy": [line["train_accuracy"] for line in lines],
            "smallest_gap_degrees": lines[-1]["separability"]["smallest_gap_degrees"],
            "largest_gap_degrees": lines[-1]["separability"]["largest_gap_degrees"],
            "verdict": lines[-1]["verdict"],
        }
        for record, lines in (
            (record, read_lines(run / "metrics.jsonl")) for record, run in zip(records, runs, strict=True)
        )
    ]
    return {
        "command": [record["command"] for record in records],
        "environment": records[0]["environment"],
        "config": configs[0],
        "seeds": seeds,
    }


def compare(runs: list[Path]) -> dict[str, Any]:
    """What finished runs of classifiers gave, each of a configuration of its own, on the same pictures."""
    from experiments.mynn.drawings import contender
    from experiments.run.folder import Folder

    rows = []
    for run in runs:
        record, lines = read_json(run / "config.json"), read_lines(run / "metrics.jsonl")
        found = dataclasses.asdict(contender(record["config"]["variant"], Folder(run)))
        rows.append({**record, **found, "test_accuracy": [line["test_accuracy"] for line in lines]})
    if len({row["config"]["data_fingerprint"] for row in rows}) > 1:
        raise UserError("these runs are of different pictures, or of pictures of different sizes")
    return {"command": [row["command"] for row in rows], "environment": rows[0]["environment"], "rows": rows}


def default_run_table(result: dict[str, Any]) -> str:
    accuracies = [seed["test_accuracy"] for seed in result["seeds"]]
    epochs = len(accuracies[0])
    rows = [
        "| seed | " + " | ".join(f"{epoch}" for epoch in range(1, epochs + 1)) + " | gaps at the end | verdict |",
        "|---|" + "---|" * epochs + "---|---|",
    ]
    for seed, values in zip(result["seeds"], accuracies, strict=True):
        gaps = f"{seed['smallest_gap_degrees']:.0f}°–{seed['largest_gap_degrees']:.0f}°"
        cells = " | ".join(f"{value:.2%}".rstrip("%") for value in values)
        rows.append(f"| {seed['seed']} | {cells} | {gaps} | {seed['verdict']} |")
    best = [max(values) for values in accuracies]
    last = [values[-1] for values in accuracies]
    rows.append("")
    rows.append(
        f"Test accuracy in % after each epoch, n = {len(best)}; the last {_mean(last)}, "
        f"the best of a run {_mean(best)}. {_made_by(result)}"
    )
    return "\n".join(rows)


def step_table(result: dict[str, Any]) -> str:
    contenders = [name for name in result["rows"][0] if name != "name"]
    peers = [name for name in contenders if name != "jaxnets"]
    columns = [
        "of",
        *(f"{_CALLED[name]}" for name in contenders),
        *(f"× {_CALLED[name]}'s rate" for name in peers),
        "compilation",
        *(f"memory, {_CALLED[name]}" for name in contenders if name != "torch.compile"),
    ]
    rows = ["| " + " | ".join(columns) + " |", "|---|" + "---|" * (len(columns) - 1)]
    for row in result["rows"]:
        seconds = {name: row[name]["median_seconds"] for name in contenders}
        cells = [
            row["name"],
            *(_duration(seconds[name]) for name in contenders),
            *(f"{seconds[name] / seconds['jaxnets']:.2f}" for name in peers),
            f"{row['jaxnets']['compile_seconds']:.1f} s",
            *(f"{row[name]['peak_bytes'] / 2**20:.0f} MiB" for name in contenders if name != "torch.compile"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    rows += ["", f"Contenders in turns, medians. {_made_by(result)}"]
    return "\n".join(rows)


def rates_table(result: dict[str, Any]) -> str:
    rates = {row["name"]: row["torch"]["median_seconds"] / row["jaxnets"]["median_seconds"] for row in result["rows"]}
    listed = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
    return f"With JAX {result['environment']['jax']}, as multiples of PyTorch's rate: {listed}. {_made_by(result)}"


def products_table(result: dict[str, Any]) -> str:
    products, step = result["products_seconds"], result["step_seconds"]
    gflop = sum(row["gflop"] for row in result["products"])
    return (
        f"The matrix products of a step of {result['name']}, {gflop:.1f} GFLOP, are {products / step:.0%} of it when "
        f"each is timed alone: {_duration(products)} of {_duration(step)}. {_made_by(result)}"
    )


def start_table(result: dict[str, Any]) -> str:
    none, kept = (row["median_seconds"] for row in result["rows"])
    return (
        f"From the command to its first training step: {none:.1f} s, and {kept:.1f} s from the second time on. "
        f"{_made_by(result)}"
    )


def epoch_table(result: dict[str, Any]) -> str:
    ratios = {row["way"]: row["ratio"] for row in result["rows"]}
    return (
        f"An epoch costs {ratios['train_epoch']:.3f} times the sum of its steps; as one jitted scan, "
        f"{ratios['one scan']:.3f} times. {_made_by(result)}"
    )


def epoch_of_pictures_table(result: dict[str, Any]) -> str:
    ratios = ", ".join(f"{row['way']} {row['ratio']:.3f}" for row in result["rows"][1:])
    return f"An epoch of Mynn on pictures, as a multiple of its steps alone: {ratios}. {_made_by(result)}"


def accuracy_table(result: dict[str, Any]) -> str:
    rows = ["| after epoch | jaxnets | PyTorch | loss, jaxnets | loss, PyTorch |", "|---|---|---|---|---|"]
    for epoch in sorted({row["epoch"] for row in result["rows"]}):
        seeds = [row for row in result["rows"] if row["epoch"] == epoch]
        accuracies, losses = (
            [[row[name][what] for row in seeds] for name in ("jaxnets", "torch")]
            for what in ("test_accuracy", "train_loss")
        )
        cells = [*(_mean(values).rstrip(" %") for values in accuracies), *(f"{statistics.mean(v):.4f}" for v in losses)]
        rows.append(f"| {epoch} | {' | '.join(cells)} |")
    many = f", means of n = {len(seeds)} seeds with their standard deviation" if len(seeds) > 1 else ""
    rows += ["", f"Test accuracy in %, and the epoch's mean training loss{many}. {_made_by(result)}"]
    return "\n".join(rows)


def classifiers_table(result: dict[str, Any]) -> str:
    """One line a run, in their own order: each is to be the one before with one thing changed."""
    rows = ["| network | recipe | epochs | last | best | MiB |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        config, accuracies = row["config"], row["test_accuracy"]
        recipe = [f"{config['optimizer']} {config['learning_rate']:g}", *_ingredients(config)]
        percents = (f"{value:.2%}".rstrip("%") for value in (accuracies[-1], max(accuracies)))
        cells = [config["variant"], ", ".join(recipe), str(len(accuracies)), *percents, f"{row['megabytes']:.2f}"]
        rows.append(f"| {' | '.join(cells)} |")
    first = result["rows"][0]
    size = "×".join(map(str, first["config"]["image_shape"][:2]))
    rows += [
        "",
        f"Test accuracy in %, pictures of {size}, seed {first['config']['seed']}; the first: {_made_by(first)}",
    ]
    return "\n".join(rows)


def _ingredients(config: dict[str, Any]) -> Iterator[str]:
    if config["augment"]:
        yield "augmented"
    if config["schedule"] != "constant":
        yield "cosine"
    if config["averaging"] is not None:
        yield f"averaging {config['averaging']}"


def head_table(result: dict[str, Any]) -> str:
    rows = [
        "| classes | rows | full logits | chunked | × the rate | temporary, full logits | temporary, chunked |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        full, chunked = row["reference"], row["chunked"]
        cells = [
            f"{row['classes']:,}",
            f"{row['batch']:,}",
            *(_duration(contender["both_seconds"]) for contender in (full, chunked)),
            f"{full['both_seconds'] / chunked['both_seconds']:.2f}",
            *(f"{contender['temporary_bytes'] / 2**20:.0f} MiB" for contender in (full, chunked)),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    rows += ["", f"Value and both gradients, each in a process of its own, medians. {_made_by(result)}"]
    return "\n".join(rows)


TABLES = {
    "default_run": default_run_table,
    "exact_gradient_run": default_run_table,
    "step_cpu": step_table,
    "step_cpu_amd": rates_table,
    "step_cpu_jax_0_10": rates_table,
    "step_cpu_amd_jax_0_10": rates_table,
    "mynn_step_cpu": step_table,
    "inference_cpu": step_table,
    "products_cpu": products_table,
    "start_cpu": start_table,
    "epoch_cpu": epoch_table,
    "mynn_epoch_cpu": epoch_of_pictures_table,
    "mynn_accuracy_cpu": accuracy_table,
    "accuracy_cpu": accuracy_table,
    "mynn_ingredients": classifiers_table,
    "head_cpu": head_table,
}


def with_tables(readme: str) -> str:
    """The README with each table between its marks made anew."""
    for name, table in TABLES.items():
        file = RESULTS / f"{name}.json"
        marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if file.exists():
            text = table(read_json(file)).replace("\\", r"\\")
            readme = re.sub(marks, rf"\g<1>{text}\n\g<2>", readme, flags=re.DOTALL)
    return readme


_CALLED = {"jaxnets": "jaxnets", "torch": "PyTorch", "torch.compile": "torch.compile"}


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values) * 100:.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values) * 100:.2f}{spread} %"


def _made_by(result: dict[str, Any]) -> str:
    commands = result["command"] if isinstance(result["command"], list) else [result["command"]]
    env = result["environment"]
    peer = f", PyTorch {env['torch']}" if env.get("torch") else ""
    return f"`{commands[0]}`; {env['cpu']}, {env['cpu_cores']} cores, Python {env['python']}, JAX {env['jax']}{peer}."


def command(argv: list[str]) -> None:
    ways = {"collect": collect, "compare": compare}
    if argv[:1] and argv[0] in ways and argv[2:]:
        write_json(RESULTS / f"{argv[1]}.json", ways[argv[0]]([Path(word) for word in argv[2:]]))
    elif argv:
        raise UserError("usage: python -m experiments.tables [collect|compare NAME RUN [RUN …]]")
    write_atomically(README, with_tables(README.read_text()))


if __name__ == "__main__":
    main(lambda: command(sys.argv[1:]))
