import json
import os
import zlib

import numpy as np
import pytest

from jaxnets.data import DataError, load, threads

SIZE = 8


def test_the_second_load_never_decodes(pets, broken_decoder):
    seen = []
    first = load(pets.make(), size=SIZE, on_progress=lambda *done: seen.append(done))
    assert seen == [(done, 12) for done in range(1, 13)]
    broken_decoder()
    second = load(f"folder:{pets.root}", size=SIZE, on_progress=lambda *done: seen.append(done))
    assert len(seen) == 12 and second.fingerprint() == first.fingerprint() and second.notes == ()
    assert isinstance(second.train.images.base, np.memmap) and not second.train.images.flags.writeable
    with pytest.raises(AssertionError, match="decoded again"):
        load(f"folder:{pets.root}", size=SIZE + 1)


def overwrite(pets):
    pets.write("train/cat/0.png", 99)


def add(pets):
    pets.write("train/cat/00.png", 99)


def rename(pets):
    os.rename(pets.root / "train" / "cat" / "0.png", pets.root / "train" / "cat" / "9.png")


def relabel(pets):
    os.rename(pets.root / "train" / "cat" / "0.png", pets.root / "train" / "dog" / "3.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (overwrite, [99, 1, 2, 3, 4, 5]),
        (add, [0, 99, 1, 2, 3, 4, 5]),
        (rename, [1, 2, 0, 3, 4, 5]),
        (relabel, [1, 2, 3, 4, 5, 0]),
    ],
)
def test_a_changed_folder_is_decoded_anew_in_the_place_of_the_old(pets, cache_home, change, expected):
    name = pets.make()
    load(name, size=SIZE)
    change(pets)
    changed = load(name, size=SIZE)
    assert pets.values(changed.train) == expected and changed.notes == ()
    assert sorted(file.suffix for file in cache_home.iterdir()) == [".facts", ".pixels"]


def flip(place):
    def damage(content):
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return damage


DAMAGES = {
    "empty": lambda content: b"",
    "short": lambda content: content[:-9],
    "long": lambda content: content + b"9",
    "list": lambda content: b"[]",
    "deep": lambda content: b"%08x\n" % zlib.crc32(b"[" * 10**5) + b"[" * 10**5,
    "digits": lambda content: b"%08x\n" % zlib.crc32(b"9" * 10**4) + b"9" * 10**4,
    "other facts": lambda content: b"%08x\n{}" % zlib.crc32(b"{}"),
    "first bit": flip(0),
    "a bit within": flip(-100),
    "last bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}


@pytest.mark.parametrize("suffix", [".pixels", ".facts"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_made_anew_with_a_note(pets, cache_home, broken_decoder, suffix, damage):
    name = pets.make()
    (pets.root / "train" / "cat" / "copy.png").write_bytes((pets.root / "train" / "dog" / "0.png").read_bytes())
    first = load(name, size=SIZE)
    [file] = cache_home.glob(f"*{suffix}")
    content = file.read_bytes()
    file.unlink()  # `first` has it mapped, and may not lose it
    file.write_bytes(damage(content))
    anew = load(name, size=SIZE)
    assert anew.fingerprint() == first.fingerprint() and anew.notes[1:] == first.notes
    assert anew.notes[0].startswith("The pictures were decoded anew, as ") and anew.notes[0].isprintable()
    broken_decoder()
    kept = load(name, size=SIZE)
    assert kept.fingerprint() == first.fingerprint() and kept.notes == first.notes


@pytest.mark.parametrize("fact", ["labels", "unreadable", "repeated", "key", "format", "pixels"])
def test_every_fact_lies_under_the_checksum(pets, cache_home, fact):
    name = pets.make()
    first = load(name, size=SIZE)
    [file] = cache_home.glob("*.facts")
    checksum, body = file.read_bytes().split(b"\n", 1)
    facts = json.loads(body)
    other = {"labels": facts["labels"][::-1], "unreadable": {"0": "no"}, "repeated": [[0, 6]], "key": "x"}.get(fact, 1)
    file.write_bytes(checksum + b"\n" + json.dumps(facts | {fact: other}).encode())
    anew = load(name, size=SIZE)
    assert anew.fingerprint() == first.fingerprint() and len(anew.notes) == 1


def test_a_cache_whose_images_are_missing_is_made_anew(pets, cache_home):
    first = load(pets.make(), size=SIZE)
    next(cache_home.glob("*.pixels")).unlink()
    assert load(f"folder:{pets.root}", size=SIZE).fingerprint() == first.fingerprint()


def test_a_load_that_is_stopped_leaves_nothing_behind(pets, cache_home):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(pets.make(), size=SIZE, on_progress=stop)
    assert not list(cache_home.iterdir())


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(pets, cache_home):
    cache_home.mkdir(parents=True)
    for name, age in ((".old.partial", 7200), (".new.partial", 60)):
        (cache_home / name).write_bytes(b"part")
        written = (cache_home / name).stat().st_mtime - age
        os.utime(cache_home / name, (written, written))
    load(pets.make(), size=SIZE)
    assert [file.name for file in cache_home.glob(".*")] == [".new.partial"]


def test_a_cache_that_cannot_be_written_says_where_and_what_to_do(pets, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=f"{tmp_path}/file/.*: decoded pictures cannot be kept there .*XDG_CACHE_HOME"):
        load(pets.make(), size=SIZE)


def test_a_set_that_does_not_fit_on_the_disk_says_how_much_it_takes(pets):
    with pytest.raises(DataError, match=r"12 pictures of 200000×200000 take 1341\.1 GiB, and .* GiB left; free some"):
        load(pets.make(), size=200_000)


def test_a_fault_that_passes_is_forgotten_unless_it_was_accepted(pets, monkeypatch):
    def failing(*args, **options):
        raise DataError("the network drive sleeps.")

    with monkeypatch.context() as patch:
        patch.setattr(threads, "decode", failing)
        with pytest.raises(DataError, match="12 of 12 pictures cannot be read: the network drive sleeps"):
            load(pets.make(), size=SIZE)
    assert pets.values(load(f"folder:{pets.root}", size=SIZE).train) == [0, 1, 2, 3, 4, 5]
