"""The gender study's pictures: decoded once and kept, or streamed as they are stored."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from experiments.terminal import ProgressBar, said_by_a_library
from jaxnets import data
from jaxnets.data import Dataset, Split
from jaxnets.data.cache import Progress
from jaxnets.data.decoded import look_through
from jaxnets.data.folder import find_class_folders
from jaxnets.data.streaming import LazyPictures, Stream
from jaxnets.data.tfds import find_tfds

if TYPE_CHECKING:
    from experiments.mynn import Config


def load(config: "Config") -> Dataset:
    """The data that the command line names, with a progress bar where pictures have to be decoded first."""
    with said_by_a_library(ValueError), _bar(config.data, "decoding, once") as show:
        return data.load(config.data, size=config.size, skip_unreadable=config.skip_unreadable, on_progress=show)


@contextlib.contextmanager
def _bar(name: str, doing: str) -> Iterator[Progress]:
    """What shows progress, on a bar that is there from its first call on."""
    with contextlib.ExitStack() as stack:
        bar: ProgressBar | None = None

        def show(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(ProgressBar(name, total))
                bar.describe(doing)
            bar.advance_to(done)

        yield show


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Pictures that stay as they are stored until they are needed; one stream serves one network after the other."""

    train: Stream
    test: Split
    classes: tuple[str, ...]
    name: str
    key: str
    notes: tuple[str, ...]

    def fingerprint(self) -> str:
        return self.key


def open_stream(config: "Config") -> Streamed:
    """The data that the command line names, a folder or a set of TensorFlow Datasets, of which nothing is kept.

    Its pictures are looked through once, or one that cannot be read would end a training that is well under way.
    """
    scheme, _, rest = config.data.partition(":")
    with said_by_a_library(ValueError):
        found = find_class_folders(rest) if scheme == "folder" else find_tfds(rest)
        train, test = found.train, found.test
        with _bar(config.data, "looking through, once") as show:
            notes = look_through(train, test, name=config.data, on_progress=show)
        stream = Stream(train, size=config.size, batch_size=config.batch_size, seed=config.seed)
        images = LazyPictures(test, config.size)
        split = Split(images, test.labels)  # type: ignore[arg-type]  # indexed on the host alone
    return Streamed(stream, split, found.classes, config.data, f"{train.key} {test.key}", notes)
