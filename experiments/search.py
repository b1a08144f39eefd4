"""The nearest pictures of a file of embeddings, printed and drawn.

python -m experiments.search photographs.npz portrait.jpg --top 5
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.run.session import prepare
from experiments.run.terminal import UserError, as_user_error, main, parse

PROG = "python -m experiments.search"
EXAMPLES = ("photographs.npz portrait.jpg", "faces.safetensors queries/*.jpg --top 10 --picture found.png")
DRAWN = 40  # queries on the picture, at most


@dataclasses.dataclass(frozen=True)
class Config:
    """Find the pictures of a file of experiments.embed that are nearest to each of yours, by the same network."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """an .npz or .safetensors that experiments.embed wrote"""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="")]
    """pictures of any size, or folders of them"""
    top: int = 5
    """number of pictures to find for each"""
    picture: Path = Path("search.png")
    """the picture to draw, of the queries and their nearest"""
    invert: bool = False
    """make dark light and light dark in your pictures"""


def command(config: Config) -> None:
    if not config.images:
        raise UserError(f"name the pictures to search for after the file; see {PROG} --help")
    if config.top < 1:
        raise UserError(f"--top must be 1 or more, not {config.top}")
    prepare()
    import numpy as np  # JAX is imported from here on, not for --help

    from experiments.trained import embedding_file, network, pictures
    from experiments.trained.embeddings import digest_of, embed, found_in
    from experiments.trained.predictions import print_table
    from jaxnets import figures
    from jaxnets.files import write_atomically
    from jaxnets.naming import quoted
    from jaxnets.recognition import nearest

    gallery = embedding_file.read(config.file)
    about = gallery.about
    trained = network.load(Path(about.source), about.model, about.inputs)
    program = trained.program("embeddings")
    if digest_of(program) != about.weights:
        raise UserError(
            f"{quoted(about.source)} has other weights than {quoted(config.file)} was made with: make it anew with "
            "experiments.embed"
        )
    paths = [*found_in(config.images)]
    if not paths:
        raise UserError(f"there is no picture in {', '.join(map(quoted, config.images))}")
    queries = np.concatenate([batch.embeddings for batch in embed(program, iter(paths), invert=config.invert)])
    top = min(config.top, len(gallery.embeddings))
    with as_user_error(ValueError):
        cosines, rows = nearest(queries, gallery.embeddings, top)
    names = [[gallery.name(row) for row in of_query] for of_query in rows.tolist()]
    print_table(
        f"by {trained.name} from {trained.origin}",
        ["image", "rank", "nearest", "cosine"],
        [
            [quoted(path), str(rank), quoted(name), f"{cosine:.4f}"]
            for path, found, scores in zip(paths, names, cosines.tolist(), strict=True)
            for rank, (name, cosine) in enumerate(zip(found, scores, strict=True), 1)
        ],
    )

    def shown(path: Path) -> "np.ndarray | None":
        """A picture as the network has it; None where it is no longer there."""
        try:
            return pictures.read(path, trained.image_shape)
        except (UserError, OSError):
            return None

    found = [
        figures.Found(
            query=pictures.read(path, trained.image_shape),
            name=quoted(path.stem),
            pictures=[shown(Path(about.folder) / name) for name in of_query],
            names=[quoted(Path(name).stem) for name in of_query],
            cosines=scores,
        )
        for path, of_query, scores in zip(paths[:DRAWN], names, cosines, strict=False)
    ]
    more = f"; the first {DRAWN} of {len(paths)} queries" if len(paths) > DRAWN else ""
    sheet = figures.nearest_sheet(
        found,
        columns=1 if top > 5 else 2,
        title=f"the nearest in {quoted(config.file.name)}",
        subtitle=trained.name + more,
    )
    write_atomically(config.picture, figures.to_png(sheet))
    print(f"see {quoted(config.picture)}")


if __name__ == "__main__":
    main(lambda: command(parse(Config, PROG, examples=EXAMPLES)))
