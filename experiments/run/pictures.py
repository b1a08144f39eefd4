"""The images that a command line names: decoded once and kept, or streamed as they are stored."""

import contextlib
import dataclasses
from collections.abc import Iterator

from experiments.run.bar import ProgressBar
from experiments.run.processes import by_first
from experiments.run.terminal import UserError, as_user_error
from jaxnets import data
from jaxnets.data import DataError, Dataset, Split
from jaxnets.data.decoded import look_through
from jaxnets.data.pictures import ReadableSplits
from jaxnets.data.streaming import LazyPictures, Share, Stream
from jaxnets.data.threads import Progress
from jaxnets.naming import quoted


def load(name: str, *, size: int | None, skip_unreadable: bool = False, open_set: bool = False) -> Dataset:
    """The data that the command line names, with a progress bar where pictures have to be decoded first.

    Raises:
      UserError: for data that cannot be used, and a set of the other kind: `open_set` asks about classes never seen.
    """

    def read() -> Dataset:
        with as_user_error(DataError), _bar(name, "decoding, once") as show:
            return data.load(name, size=size, skip_unreadable=skip_unreadable, on_progress=show)

    found = by_first(read) or read()  # other processes of a machine find what the first one kept
    if open_set and not found.open_set:
        raise UserError(
            f"{quoted(name)} has the same classes in its test as in training, and this command asks about classes that "
            "training never saw; take another set, such as glyphs"
        )
    if found.open_set and not open_set:
        raise UserError(
            f"{quoted(name)} has other classes in its test than in training, and this command asks how well "
            "it tells the classes of training apart; take another set"
        )
    return found


@contextlib.contextmanager
def _bar(name: str, doing: str) -> Iterator[Progress]:
    """A function that shows progress on a bar; the bar appears with its first call."""
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


def open_stream(
    name: str, *, size: int, batch_size: int, seed: int, skip_unreadable: bool = False, share: Share | None = None
) -> Streamed:
    """The pictures that the command line names, of which nothing is kept (see `jaxnets.data.find`).

    Its pictures are looked through once, or one that cannot be read would end a training that is well under way.
    """

    def look() -> ReadableSplits:
        with _bar(name, "looking through, once") as show:
            return look_through(data.find(name), name=name, skip_unreadable=skip_unreadable, on_progress=show)

    with as_user_error(DataError):
        seen = by_first(look) or look()
        stream = Stream(seen.train, size=size, batch_size=batch_size, seed=seed, share=share)
        images = LazyPictures(seen.test, size)
        split = Split(images, seen.test.labels)  # indexed on the host alone
    return Streamed(stream, split, seen.classes, name, f"{seen.train.key} {seen.test.key}", seen.notes)
