"""Checkpoints: what is restored is what was saved, on any devices, or one sentence says why not."""

import gc
import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnets import checkpoint, parallel


class Moments(NamedTuple):
    first: dict


def tree(value=1.0, rows=4):
    weights = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) * value
    return {
        "params": {"net": {"kernel": jnp.full((2, 5), float(value))}, "head": {"class_weights": jnp.asarray(weights)}},
        "opt_state": (Moments({"head": {"class_weights": jnp.asarray(weights) + 1}}), ()),
        "half": jnp.full(3, value, jnp.bfloat16),
        "key": jax.random.key(7),
        "step": jnp.int32(value),
        "seconds": np.array(2.5),
    }


def data_of(tree):
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves = jax.tree.leaves(tree)
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in leaves]


def assert_same(got, want):
    for a, b in zip(data_of(got), data_of(want), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with checkpoints 9 and 10; read only."""
    directory = tmp_path_factory.mktemp("saved")
    for number in (8, 9, 10):
        checkpoint.save(directory, number, tree(number), keep=2)
    return directory


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copied")


def test_the_newest_is_restored_with_its_structure_and_its_places(saved):
    mesh = parallel.data_mesh(2)
    like = tree(0)
    split = NamedSharding(mesh, P("data"))
    like["params"]["net"]["kernel"] = jax.device_put(like["params"]["net"]["kernel"], split)
    like["key"] = parallel.replicate(like["key"], mesh)
    number, got = checkpoint.restore(saved, like)
    assert number == 10 and checkpoint.numbers(saved) == [10, 9]
    assert jax.tree.structure(got) == jax.tree.structure(like)
    assert_same(got, tree(10))
    assert got["params"]["net"]["kernel"].sharding == split and got["key"].sharding.is_equivalent_to(
        like["key"].sharding, 0
    )
    assert isinstance(got["seconds"], np.ndarray) and got["key"].dtype == like["key"].dtype


def test_without_a_tree_to_fill_it_is_of_numpy_arrays(saved):
    _, got = checkpoint.restore(saved)
    assert got["opt_state"][0]["first"]["head"]["class_weights"].dtype == np.float32
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(got))
    np.testing.assert_array_equal(got["params"]["net"]["kernel"], np.full((2, 5), 10))


def test_an_abstract_tree_is_filled(saved):
    abstract = jax.eval_shape(lambda: {name: leaf for name, leaf in tree(0).items() if name != "seconds"})
    abstract["seconds"] = np.array(0.0)
    _, got = checkpoint.restore(saved, abstract)
    assert_same(got, tree(10))


def test_reading_changes_nothing_and_nothing_is_none(saved, tmp_path):
    before = sorted(saved.rglob("*"))
    checkpoint.restore(saved, tree(0))
    assert sorted(saved.rglob("*")) == before
    assert checkpoint.restore(tmp_path / "nowhere") is None and checkpoint.restore(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_cannot_be_saved_are_refused(tmp_path):
    for number, keep, message in (
        (-1, 1, "number must be an integer of 0 or more"),
        (1, 0, "keep must be an integer of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            checkpoint.save(tmp_path, number, tree(), keep=keep)
    assert list(tmp_path.iterdir()) == []


def test_a_number_can_be_saved_again(copied):
    checkpoint.save(copied, 10, tree(3), keep=2)
    assert_same(checkpoint.restore(copied, tree(0))[1], tree(3))


def test_what_a_kill_left_half_deleted_or_half_written_is_swept(copied):
    (copied / "unfinished" / "7.deleted" / "default").mkdir(parents=True)
    shutil.copytree(copied / "9", copied / "unfinished" / "12")
    assert checkpoint.numbers(copied) == [10, 9]
    checkpoint.save(copied, 12, tree(12), keep=2)
    assert sorted(path.name for path in copied.iterdir()) == ["10", "12"]


def flip(file, bit):
    contents = bytearray(file.read_bytes())
    contents[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(contents)


def test_no_flipped_bit_restores_other_weights(copied, capfd, caplog):
    """In any file, at any place: the right numbers, or a sentence that names the checkpoint."""
    rng, outcomes = np.random.default_rng(0), []
    shutil.rmtree(copied / "9")
    files = [file for file in sorted((copied / "10").rglob("*")) if file.is_file() and file.stat().st_size]
    contents = {file: file.read_bytes() for file in files}
    for _ in range(120):
        file = files[rng.integers(len(files))]
        flip(file, rng.integers(8 * len(contents[file])))
        try:
            assert_same(checkpoint.restore(copied, tree(0))[1], tree(10))
            outcomes.append("right")  # where the bit is of a number's letter case, say
        except checkpoint.DamagedError as error:
            assert str(error).startswith(f"checkpoint 10 in {copied} is damaged: ") and "\n" not in str(error)
            outcomes.append("refused")
        file.write_bytes(contents[file])
    for file in files:
        file.unlink()
        with pytest.raises(checkpoint.DamagedError, match="is missing or not what was written"):
            checkpoint.restore(copied)
        file.write_bytes(contents[file])
    assert outcomes.count("refused") > 100
    gc.collect()
    assert capfd.readouterr() == ("", "") and not [each for each in caplog.records if each.levelname != "INFO"]
    assert_same(checkpoint.restore(copied, tree(0))[1], tree(10))


def test_other_arrays_than_those_saved_are_seen(copied):
    """Where files and their digests agree, and the arrays do not."""
    record = copied / "10" / "digests.json"
    contents = json.loads(record.read_text())
    contents["arrays"]["step"] = contents["arrays"]["step"][:-1] + "g"
    record.write_text(json.dumps(contents))
    with pytest.raises(checkpoint.DamagedError, match="its arrays are not those that were saved"):
        checkpoint.restore(copied)


def damage(checkpoint_folder):
    largest = max((f for f in checkpoint_folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_the_one_before_a_damaged_one_is_taken_and_said_or_it_is_refused(copied):
    damage(copied / "10")
    notes = []
    number, got = checkpoint.restore(copied, tree(0), on_damage=notes.append)
    assert number == 9
    assert_same(got, tree(9))
    assert len(notes) == 1 and notes[0].startswith(f"checkpoint 10 in {copied} is damaged: ")
    assert notes[0].endswith("; checkpoint 9 is used instead")
    with pytest.raises(checkpoint.DamagedError, match=r"10 in .* is damaged: .*; delete .*/10 to use checkpoint 9"):
        checkpoint.restore(copied)
    damage(copied / "9")
    with pytest.raises(checkpoint.DamagedError, match=r"checkpoint 9 in .* is damaged"):
        checkpoint.restore(copied, tree(0), on_damage=notes.append)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda like: like["params"]["net"].update(kernel=jnp.zeros((3, 5))),
            r"params/net/kernel is float32\[2, 5\] there, and float32\[3, 5\] was asked for",
        ),
        (
            lambda like: like.update(step=jnp.float32(0)),
            r"step is int32\[\] there, and float32\[\] was asked for",
        ),
        (lambda like: like.update(more=jnp.zeros(1)), r"it has no more"),
        (lambda like: like.pop("half"), r"its half has no place"),
    ],
)
def test_what_does_not_fit_is_said_as_such(saved, change, message):
    like, notes = tree(0), []
    change(like)
    with pytest.raises(checkpoint.CheckpointError, match=rf"^checkpoint 10 in .* does not fit: {message}$") as caught:
        checkpoint.restore(saved, like, on_damage=notes.append)
    assert not isinstance(caught.value, checkpoint.DamagedError) and notes == []


def test_padded_class_weights_are_saved_alike_from_any_number_of_devices(tmp_path):
    """Of 10 classes, 16 rows on 8 devices and 12 on 3; the momentum's rows too."""
    checkpoint.save(tmp_path, 1, tree(2, rows=16), keep=1, num_classes=10)
    np.testing.assert_array_equal(
        checkpoint.restore(tmp_path)[1]["params"]["head"]["class_weights"],
        np.arange(30, dtype=np.float32).reshape(10, 3) * 2,
    )
    _, got = checkpoint.restore(tmp_path, tree(0, rows=12), num_classes=10)
    for padded, added in ((got["params"], 0), (got["opt_state"][0].first, 1)):
        rows = padded["head"]["class_weights"]
        np.testing.assert_array_equal(rows[:10], np.arange(30).reshape(10, 3) * 2 + added)
        np.testing.assert_array_equal(rows[10:], np.zeros((2, 3)))
    with pytest.raises(checkpoint.CheckpointError, match=r"is float32\[10, 3\] there, and float32\[11, 3\] was"):
        checkpoint.restore(tmp_path, tree(0, rows=12), num_classes=11)


def test_a_checkpoint_of_an_earlier_version_is_read_without_digests(tmp_path):
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()
    with ocp.CheckpointManager(tmp_path, options=options, item_handlers=handler) as manager:
        manager.save(5, args=ocp.args.StandardSave(tree(5)))
    assert_same(checkpoint.restore(tmp_path, tree(0))[1], tree(5))
    for file in (tmp_path / "5" / "default" / "_METADATA", tmp_path / "5" / "_CHECKPOINT_METADATA"):
        whole = file.read_bytes()
        for content in (b"", b"[]", b"7", b"{", b"[" * 10**5, b'{"tree_metadata": [], "item_handlers": 3}'):
            file.write_bytes(content)
            try:  # without digests, a record that is not needed may say anything
                assert_same(checkpoint.restore(tmp_path, tree(0))[1], tree(5))
            except checkpoint.DamagedError as error:
                assert str(error).startswith(f"checkpoint 5 in {tmp_path} is damaged: ") and str(error).isprintable()
            else:
                assert file.name == "_CHECKPOINT_METADATA"
        file.write_bytes(whole)
