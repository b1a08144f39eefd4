"""Runs with several margins, compared."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import page
from experiments.recognition.drawings import TOLD
from experiments.run.folder import Folder
from experiments.run.records import write_json
from jaxnets import figures
from jaxnets.files import write_atomically
from jaxnets.recognition import verification
from jaxnets.recognition.report import ERRORS

COLUMNS = ("precision@1", "MAP@R", "TAR at FAR 1e-3", "rank-1")  # of the table, of those told


def compare(stem: Path, folders: Mapping[str, Path], data: str) -> str:
    """The margins that came to an end, the best first, as a table.

    Beside it are written `stem`.json, .html, and .png with their ROC.
    """
    done = {name: folder for name, path in folders.items() if (folder := Folder(path)).summary().get("last")}
    lasts = {name: folder.summary()["last"] for name, folder in done.items()}
    names = sorted(done, key=lambda name: -lasts[name]["map_at_r"])
    if not names:
        return "no margin came to an end"
    configs = {name: done[name].begun()["config"] for name in names}
    write_json(
        stem.with_suffix(".json"),
        {"data": data, "margins": [{"config": configs[name], "last": lasts[name]} for name in names]},
    )
    curves, smallest = {}, 0.0
    for name in names:
        arrays = done[name].arrays(lasts[name]["epoch"])
        verified = verification(arrays["embeddings"], arrays["labels"], bootstrap=None)
        curves[name], smallest = (verified.roc.far, verified.roc.tar), ERRORS / verified.num_impostor
    retrieved = lasts[names[0]]["recognition"]["retrieval"]
    subtitle = f"{data} · {retrieved['num_identities']:,} identities that training never saw"
    sheet = figures.roc(curves, smallest_far=min(smallest, 0.1), title="margins compared", subtitle=subtitle)
    write_atomically(stem.with_suffix(".png"), figures.to_png(sheet))
    told = [each for each in TOLD if each[0] in COLUMNS]
    content = page.margins_page(
        [
            {
                "name": name,
                "scale": configs[name]["scale"],
                "curve": [line["map_at_r"] for line in done[name].lines()],
                "href": os.path.relpath(done[name].path / "index.html", stem.parent),
                **{words: lasts[name]["recognition"][kind].get(key) for words, kind, key in told},
            }
            for name in names
        ],
        [words for words, *_ in told],
        title="margins compared",
        note=subtitle,
    )
    write_atomically(stem.with_suffix(".html"), content)
    rows = [("margin", *(words for words, *_ in told))]
    for name in names:
        reports = [lasts[name]["recognition"][kind] for _, kind, _ in told]
        rows.append((name, *(_with_ends(report, key) for report, (*_, key) in zip(reports, told, strict=True))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    scales = ", ".join(f"{name} {configs[name]['scale']:.4g}" for name in names)
    return "\n".join(
        (
            *lines,
            f"in %, with {retrieved['confidence']:.0%} intervals over identities; the same network, pictures and steps "
            f"for all, each loss with its default numbers, trained once (seed {configs[names[0]]['seed']}), and "
            "nothing tuned: where intervals overlap, another seed may have another order",
            f"scales at the start: {scales}",
            f"look into it: {stem.with_suffix('.html')}",
            f"see {stem.with_suffix('.png')} and {stem.with_suffix('.json')}",
        )
    )


def _with_ends(report: Mapping[str, Any], name: str) -> str:
    value, (low, high) = report.get(name), report["intervals"].get(name, (None, None))
    ends = "" if low is None or high is None else f" ({100 * low:.1f}–{100 * high:.1f})"
    return "–" if value is None else f"{100 * value:.1f}{ends}"
