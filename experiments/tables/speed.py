"""Tables of speed and memory, of the results of `python -m experiments.bench`."""

import itertools
import statistics
from typing import Any

from experiments.bench import recognition, sharded_head
from experiments.tables.cells import CALLED, duration, head, made_by, mean, row


def step_table(result: dict[str, Any]) -> str:
    contenders = [name for name in result["rows"][0] if name != "name"]
    peers = [name for name in contenders if name != "jaxnets"]
    columns = [
        "of",
        *(CALLED[name] for name in contenders),
        *(f"× {CALLED[name]}'s rate" for name in peers),
        "compilation",
        *(f"memory, {CALLED[name]}" for name in contenders if name != "torch.compile"),
    ]
    rows = head(columns)
    for each in result["rows"]:
        seconds = {name: each[name]["median_seconds"] for name in contenders}
        cells = [
            each["name"],
            *(duration(seconds[name]) for name in contenders),
            *(f"{seconds[name] / seconds['jaxnets']:.2f}" for name in peers),
            f"{each['jaxnets']['compile_seconds']:.1f} s",
            *(f"{each[name]['peak_bytes'] / 2**20:.0f} MiB" for name in contenders if name != "torch.compile"),
        ]
        rows.append(row(cells))
    rows += ["", f"Contenders in turns, medians. {made_by(result)}"]
    return "\n".join(rows)


def rates_table(result: dict[str, Any]) -> str:
    rates = {
        each["name"]: each["torch"]["median_seconds"] / each["jaxnets"]["median_seconds"] for each in result["rows"]
    }
    listed = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
    return f"With JAX {result['environment']['jax']}, as multiples of PyTorch's rate: {listed}. {made_by(result)}"


def products_table(result: dict[str, Any]) -> str:
    products, step = result["products_seconds"], result["step_seconds"]
    gflop = sum(each["gflop"] for each in result["products"])
    return (
        f"The matrix products of a step of {result['name']}, {gflop:.1f} GFLOP, are {products / step:.0%} of it when "
        f"each is timed alone: {duration(products)} of {duration(step)}. {made_by(result)}"
    )


def start_table(result: dict[str, Any]) -> str:
    none, kept = (each["median_seconds"] for each in result["rows"])
    return (
        f"From the command to its first training step: {none:.1f} s, and {kept:.1f} s from the second time on. "
        f"{made_by(result)}"
    )


def epoch_table(result: dict[str, Any]) -> str:
    ratios = {each["way"]: each["ratio"] for each in result["rows"]}
    return (
        f"An epoch costs {ratios['train_epoch']:.3f} times the sum of its steps; as one jitted scan, "
        f"{ratios['one scan']:.3f} times. {made_by(result)}"
    )


def epoch_of_pictures_table(result: dict[str, Any]) -> str:
    ratios = ", ".join(f"{each['way']} {each['ratio']:.3f}" for each in result["rows"][1:])
    return f"An epoch of Mynn on pictures, as a multiple of its steps alone: {ratios}. {made_by(result)}"


def head_table(result: dict[str, Any]) -> str:
    columns = ("classes", "rows", "full logits", "chunked", "× the rate")
    rows = head([*columns, "temporary, full logits", "temporary, chunked"])
    for each in result["rows"]:
        full, chunked = each["reference"], each["chunked"]
        cells = [
            f"{each['classes']:,}",
            f"{each['batch']:,}",
            *(duration(contender["both_seconds"]) for contender in (full, chunked)),
            f"{full['both_seconds'] / chunked['both_seconds']:.2f}",
            *(f"{contender['temporary_bytes'] / 2**20:.0f} MiB" for contender in (full, chunked)),
        ]
        rows.append(row(cells))
    rows += ["", f"Value and both gradients, each in a process of its own, medians. {made_by(result)}"]
    return "\n".join(rows)


def search_table(result: dict[str, Any]) -> str:
    (each,) = result["rows"]
    names = [name for name in each if name != "name"]
    rows = head(("", "seconds", "× jaxnets' time", "memory beyond its inputs"))
    for name in names:
        seconds, memory = each[name]["median_seconds"], each[name]["peak_bytes"] / 2**20
        of_ours = seconds / each["jaxnets"]["median_seconds"]
        called = f"faiss {result['faiss']}, IndexFlatIP" if name == "faiss" else CALLED[name]
        rows.append(row([called, f"{seconds:.1f}", f"{of_ours:.2f}", f"{memory:,.0f} MiB"]))
    sizes = (
        f"{result['queries']:,} queries against {result['gallery']:,} embeddings of {result['dimensions']} dimensions"
    )
    rows += ["", f"The {result['k']} nearest of {sizes}, exactly; in turns, medians. {made_by(result)}"]
    return "\n".join(rows)


def pairs_line(result: dict[str, Any]) -> str:
    (each,) = result["rows"]
    number, ours = result["embeddings"], each["jaxnets"]
    pairs = number * (number - 1) // 2
    return (
        f"Verification of all {pairs:,} pairs of {number:,} embeddings of {result['dimensions']} dimensions, with "
        f"intervals: {ours['median_seconds']:.0f} s, {ours['peak_bytes'] / 2**20:,.0f} MiB beyond its inputs. "
        f"{made_by(result)}"
    )


def sharded_head_table(result: dict[str, Any]) -> str:
    columns = ("state", "model", "temporary", "of it the gradient, model", "sent", "model")
    rows = head(("classes", "compared with", *columns))
    for each in result["rows"]:
        compared = "all" if each["sample"] is None else f"{each['sample']:.0%}"
        sizes = (f"{size / 2**20:,.1f} MiB" for size in sharded_head.figures(each))
        rows.append(row([f"{each['classes']:,}", compared, *sizes]))
    batches = " or ".join(sorted({f"{each['batch']:,}" for each in result["rows"]}))
    rows += [
        "",
        f"Of each of {result['devices']} devices, as the compiled program has it; {batches} rows in all, D = "
        f"{result['dimensions']} in float32, SGD with momentum. {made_by(result)}",
    ]
    return "\n".join(rows)


def stream_table(result: dict[str, Any]) -> str:
    """How fast a stream of records is, beside the decoding of them alone."""
    rates = {each["name"]: each["pictures_per_second"] for each in result["rows"]}
    rows = head(("", "pictures a second", "the stream's rate, as a multiple"))
    rows += [row([name, f"{rate:,.0f}", f"{rates['the stream'] / rate:.2f}"]) for name, rate in rates.items()]
    size = f"{result['pictures']:,} pictures of {result['size']}×{result['size']}"
    rows += ["", f"{size}, {result['bytes_per_picture']:,.0f} bytes each; in turns, medians. {made_by(result)}"]
    return "\n".join(rows)


def head_estimate_table(result: dict[str, Any]) -> str:
    """Of steps too large for any machine here; the model's bytes were counted by the measurement."""
    sample = next(each["sample"] for each in result["rows"] if each["sample"])
    of_sample = (f"{part} of {sample:.0%}" for part in ("products", "update"))
    columns = ("products", "update", *of_sample, "talk", "the longest, and the way out")
    rows = head(("classes", "devices", "a device holds", *columns))
    for classes, devices in itertools.product((10**6, 10**7, 10**8), (8, 64, 512)):
        each = sharded_head.estimate(classes, devices, sample)
        parts = (each.products, each.update, each.sampled_products, each.sampled_update, each.talk)
        times = (f"{1e3 * part:.3g} ms" for part in parts)
        rows.append(row([f"{classes:,}", str(devices), f"{each.held / 1e9:.2g} GB", *times, each.limit]))
    rows += [
        "",
        f"An estimate, not a measurement: {sharded_head.ROWS} rows a device, D = {sharded_head.DIMENSIONS}, in "
        "bfloat16; class weights, momentum and gradient in float32. "
        f"{sharded_head.PRODUCTS / 1e12:.0f} TFLOP/s, {sharded_head.MEMORY / 1e12:.1f} TB/s of memory, "
        f"{sharded_head.NODE / 1e9:.0f} GB/s between the {sharded_head.DEVICES_OF_NODE} devices of a node, "
        f"{sharded_head.BEYOND / 1e9:.0f} GB/s a device beyond it.",
    ]
    return "\n".join(rows)


def recognition_beside_table(result: dict[str, Any]) -> str:
    """Figures of the same recipe here and in PyTorch, on identities that training never saw."""
    rows = head(("trained with", *recognition.NAMES.values()))
    for name in ("jaxnets", "torch"):
        found = [each[name] for each in result["rows"]]
        called = CALLED[name] + (" and pytorch-metric-learning" if name == "torch" else "")
        shares = ([each[key] for each in found] for key in recognition.NAMES)
        cells = ("–" if None in values else mean(values) for values in shares)
        rows.append(row([called, *cells]))
    rows += [
        "",
        f"In %, of {result['name']} after {result['epochs']} epochs, from the same weights and on the same batches; "
        f"mean ± standard deviation, n = {len(result['rows'])} seeds. {made_by(result)}",
    ]
    return "\n".join(rows)


def accuracy_table(result: dict[str, Any]) -> str:
    rows = head(("after epoch", "jaxnets", "PyTorch", "loss, jaxnets", "loss, PyTorch"))
    for epoch in sorted({each["epoch"] for each in result["rows"]}):
        seeds = [each for each in result["rows"] if each["epoch"] == epoch]
        accuracies, losses = (
            [[each[name][measure] for each in seeds] for name in ("jaxnets", "torch")]
            for measure in ("test_accuracy", "train_loss")
        )
        rows.append(row([str(epoch), *map(mean, accuracies), *(f"{statistics.mean(values):.4f}" for values in losses)]))
    many = f", means of n = {len(seeds)} seeds with their standard deviation" if len(seeds) > 1 else ""
    rows += ["", f"Test accuracy in %, and the epoch's mean training loss{many}. {made_by(result)}"]
    return "\n".join(rows)
