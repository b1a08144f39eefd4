import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxnets.data import DataError, threads
from jaxnets.data.decoded import look_through
from jaxnets.data.decoding import decode
from jaxnets.data.folder import find_class_folders
from jaxnets.data.streaming import LazyPictures, Share, Stream

N, CATS, SIZE, BATCH = 61, 30, 6, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures of one colour each, of differing sizes; the colour counts them in the files' own order."""
    root = tmp_path_factory.mktemp("pictures")
    values = itertools.count()
    for name, count in (("cat", CATS), ("dog", N - CATS)):
        for split in ("train", "test"):
            (root / split / name).mkdir(parents=True)
        Image.new("RGB", (5, 5)).save(root / "test" / name / "0.png")
        for number in range(count):
            value = next(values)
            colour = (value % 256, value // 256, 9)
            Image.new("RGB", (4 + value % 3, 7), colour).save(root / "train" / name / f"{number:03}.png")
    return find_class_folders(str(root)).train


def stream(files, **changes):
    return Stream(files, **{"size": SIZE, "batch_size": BATCH, "seed": 0} | changes)


def order(batches):
    """Which pictures the batches have, after a look at whether all of their pixels and labels are right."""
    numbers = []
    for batch in batches:
        assert batch.images.dtype == np.uint8 and batch.labels.dtype == np.int32
        assert batch.images.shape == (len(batch.labels), SIZE, SIZE, 3)
        first = batch.images[:, :1, :1].astype(int)
        np.testing.assert_array_equal(batch.images, np.broadcast_to(first, batch.images.shape))
        numbers += (first[..., 0] + 256 * first[..., 1]).ravel().tolist()
        np.testing.assert_array_equal(batch.labels, np.array(numbers[-len(batch.labels) :]) >= CATS)
    return numbers


def test_an_epoch_has_every_picture_once_and_a_short_last_batch(files):
    batches = list(stream(files))
    assert [len(batch.labels) for batch in batches] == [8] * 7 + [5]
    shuffled = order(batches)
    assert sorted(shuffled) == list(range(N)) and shuffled != sorted(shuffled)


def test_the_files_own_order_without_a_seed(files):
    own = stream(files, seed=None)
    assert order(own) == order(own) == list(range(N))


def test_each_epoch_and_each_seed_has_its_own_order_which_is_the_same_every_time(files):
    def epochs(seed):
        one = stream(files, seed=seed)
        orders = []
        for epoch in range(3):
            assert one.epoch == epoch
            orders.append(tuple(order(one)))
        return orders

    zero = epochs(0)
    assert zero == epochs(0) and len({*zero, *epochs(1)}) == 6
    assert all(sorted(each) == list(range(N)) for each in zero)


@pytest.mark.parametrize("taken", [0, 1, 7, 8, 11])
def test_a_restored_stream_goes_on_with_the_very_next_picture(files, taken):
    whole = stream(files)
    expected = order(whole) + order(whole) + order(whole)

    first = stream(files)
    batches = itertools.chain.from_iterable(itertools.repeat(first))  # epoch after epoch
    before = order(itertools.islice(batches, taken))
    saved = json.loads(json.dumps(first.state()))
    order(itertools.islice(batches, 4))  # what was done after the state was taken is done again

    for batch_size in (BATCH, 13):
        resumed = stream(files, batch_size=batch_size)
        resumed.restore(saved)
        after = []
        while len(before) + len(after) < 3 * N:
            assert resumed.epoch == (len(before) + len(after)) // N
            after += order(resumed)
        assert before + after == expected
    first.restore(saved)
    assert before + order(first) == expected[: N if len(before) < N else 2 * N]


def test_a_state_of_other_files_or_another_seed_is_refused(files):
    test = find_class_folders(str(files.root)).test
    for other in (stream(files, seed=1), stream(files, seed=None), stream(test)):
        with pytest.raises(DataError, match="the pictures or the seed differ from the state's"):
            stream(files).restore(other.state())


@pytest.mark.parametrize("position", [-1, 2.0, None, "1"])
def test_a_state_that_is_none_is_refused(files, position):
    one = stream(files)
    with pytest.raises(DataError, match="the state to be restored has the position"):
        one.restore(one.state() | {"position": position})


def test_pixels_are_those_of_the_decoder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).save(tmp_path / name)
    files = find_class_folders(str(tmp_path)).train
    [batch] = stream(files, seed=None)
    expected = [decode((tmp_path / name).read_bytes(), (SIZE, SIZE, 3), where=name) for name in files.names]
    np.testing.assert_array_equal(batch.images, np.stack(expected), strict=True)


@pytest.fixture
def with_broken(tmp_path):
    """Six pictures, of which the second and the last are none."""
    for number, name in enumerate(("cat/0", "cat/1", "cat/2", "dog/0", "dog/1", "dog/2")):
        for split in ("train", "test"):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 5), (number, len(split), 9)).save(tmp_path / split / f"{name}.png")
    for name in ("cat/1", "dog/2"):
        (tmp_path / "train" / f"{name}.png").write_bytes(b"none")
    return find_class_folders(str(tmp_path)).train


def test_an_unreadable_file_ends_the_stream_with_its_name(with_broken):
    batches = iter(stream(with_broken, seed=None, batch_size=1))
    assert next(batches).images[0, 0, 0, 0] == 0
    with pytest.raises(DataError, match=r"cat/1.png is no picture in any known format\. Remove or replace it"):
        next(batches)


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_pictures_are_looked_through_before_they_stream(with_broken, monkeypatch, skip_unreadable):
    found = find_class_folders(str(with_broken.root))
    if not skip_unreadable:
        with pytest.raises(DataError, match=r"2 of 12 pictures cannot be read: .*--skip-unreadable"):
            look_through(found, name="pets")
        return
    for _ in range(2):
        seen = look_through(found, name="pets", skip_unreadable=True)
        assert (len(seen.train), len(seen.test), seen.classes) == (4, 6, ("cat", "dog"))
        assert seen.notes[0].startswith("Left out, as 2 of 12 pictures cannot be read: ")
        two = stream(seen.train, seed=None, batch_size=3)
        assert [batch.images[:, 0, 0, 0].tolist() for batch in two] == [[0, 2, 3], [4]]
        assert [batch.labels.tolist() for batch in two] == [[0, 0, 1], [1]]
        assert LazyPictures(seen.test, SIZE)[np.arange(6)][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
        monkeypatch.setattr(threads, "decode", None)  # looked through again, it would be called


@pytest.mark.parametrize("change", [{"size": 0}, {"batch_size": 0}])
def test_a_size_below_one_is_refused(files, change):
    with pytest.raises(DataError, match="make no batch; each must be at least 1"):
        stream(files, **change)


def test_a_closed_stream_gives_no_more(files):
    closed = stream(files)
    next(iter(closed))
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        next(iter(closed))


MEASURED = """
import sys
from pathlib import Path
from jaxnets.data.folder import find_class_folders
from jaxnets.data.streaming import Stream

def peak():  # not getrusage's: that begins with the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20

files = find_class_folders(sys.argv[1]).train
examples, after_a_tenth = 0, 0
for batch in Stream(files, size=224, batch_size=64, seed=0):
    examples += len(batch.labels)
    if examples * 10 <= len(files):
        after_a_tenth = peak()
print(len(files), examples, after_a_tenth, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_pictures_take_no_more_memory_than_a_few(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "picture.jpg").write_bytes(b"")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "picture.jpg")
    content = (tmp_path / "picture.jpg").read_bytes()
    for split, count in (("train", 5_000), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / split / name / f"{number:04}.jpg").write_bytes(content)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    files, examples, after_a_tenth, peak = map(float, said)
    print(f"peak {peak:.2f} GiB, {after_a_tenth:.2f} GiB after a tenth")
    assert files == examples == 10_000
    assert peak < 2, "GiB"
    assert peak - after_a_tenth < 0.1, "decoded, all of them would be 1.4 GiB"


@pytest.mark.parametrize("devices", [(0, 1), (0, 0, 1), (0, 0, 1, 1), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("seed", [None, 3])
def test_several_processes_have_the_rows_of_one(files, devices, seed):
    """By the process of each device. Batches of 8, and the last one of 5, that no devices share are read by all."""

    def rows(process):
        before, here = sum(each < process for each in devices), devices.count(process)

        def of(size):
            each, rest = divmod(size, len(devices))
            return slice(0, size) if rest else slice(before * each, (before + here) * each)

        return of

    sizes = []
    shares = [Share(rows(process), lambda batch, size: sizes.append(size) or batch) for process in sorted({*devices})]
    alone, together = stream(files, seed=seed), [stream(files, seed=seed, share=share) for share in shares]
    for _ in range(2):
        for batch, *parts in zip(alone, *together, strict=True):
            size = len(batch.labels)
            assert [*sizes] == [size] * len(shares)
            sizes.clear()
            for process, part in enumerate(parts):
                np.testing.assert_array_equal(part.images, batch.images[rows(process)(size)])
                np.testing.assert_array_equal(part.labels, batch.labels[rows(process)(size)])
            assert all(each.state() == alone.state() for each in together)
    behind = {**alone.state(), "position": N + 2 * BATCH}
    for each in (alone, *together):
        each.restore(behind)
    goes_on = [next(iter(each)) for each in (alone, *together)]
    for process, part in enumerate(goes_on[1:]):
        np.testing.assert_array_equal(part.images, goes_on[0].images[rows(process)(BATCH)])
