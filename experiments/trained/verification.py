"""A network's figures for a set of pairs, and their table."""

from pathlib import Path

import numpy as np

from experiments.run.bar import ProgressBar
from experiments.run.terminal import UserError, as_user_error
from experiments.trained.embeddings import embed
from experiments.trained.pictures import Encoded
from jaxnets.data import DataError
from jaxnets.data.pairs import load_bin
from jaxnets.export import Program
from jaxnets.naming import quoted
from jaxnets.recognition import Verification, verification
from jaxnets.recognition.report import aligned

FARS = (1e-1, 1e-2, 1e-3, 1e-4)


def verified(program: Program, path: Path, folds: int) -> Verification:
    """Of the pairs in a file, as `load_bin` has them, in folds of consecutive pairs.

    There are no intervals, since such a file does not tell which pairs are of the same identity.

    Raises:
      UserError: for a file that is no such set, a picture in it that cannot be read or embedded, fewer pairs than
        folds, and pairs of one kind alone.
    """
    with as_user_error(DataError):
        pictures, is_same = load_bin(path)
    if len(is_same) < folds:
        raise UserError(f"{quoted(path)} has {len(is_same)} pairs, too few for {folds} folds: --folds takes fewer")
    if is_same.all() or not is_same.any():
        kind = "one identity" if is_same[0] else "two identities"
        raise UserError(f"{quoted(path)} has pairs of {kind} alone: verification needs both kinds")
    first: dict[bytes, int] = {}  # by picture, since most are in several pairs
    for place, picture in enumerate(pictures):
        first.setdefault(picture, place)
    sources = [Encoded(picture, f"{path}, picture {place}") for picture, place in first.items()]
    done, parts = 0, []
    with ProgressBar(f"embedding {quoted(path.name)}", len(sources)) as bar:
        for batch in embed(program, sources):
            parts.append(batch.embeddings)
            done += len(batch.sources)
            bar.advance_to(done)
    row = {picture: row for row, picture in enumerate(first)}
    embeddings = np.concatenate(parts)[[row[picture] for picture in pictures]]
    pairs = np.arange(len(pictures)).reshape(-1, 2)
    labels = np.where(is_same[:, None], pairs[:, :1], pairs).ravel()
    return verification(embeddings, labels, pairs=pairs, folds=folds, fars=FARS, bootstrap=None)


def table(report: Verification) -> list[str]:
    """A line for each figure, with a note where there is one."""
    assert report.accuracy is not None and report.accuracy_std is not None and report.accuracy_of_folds is not None
    folds = f"mean ± standard deviation over {len(report.accuracy_of_folds)} folds"
    rows = [
        ("accuracy", f"{100 * report.accuracy:.2f} ± {100 * report.accuracy_std:.2f} %", folds),
        ("AUC", f"{100 * report.auc:.2f} %", ""),
        ("equal error rate", f"{100 * report.eer:.2f} %", ""),
    ]
    for far, tar in report.tar_at_far.items():
        note = report.not_stated.get(f"tar_at_far[{far:g}]") or f"cosine {report.threshold_at_far[far]:.4f} or more"
        rows.append((f"TAR at FAR {far:.0e}".replace("e-0", "e-"), "–" if tar is None else f"{100 * tar:.2f} %", note))
    return aligned(rows)
