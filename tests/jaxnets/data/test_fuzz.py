"""Damaged files of every kind that this package reads: what comes of each is right, or one clear sentence.

The damage is drawn from a seed. A few hundred cases run by default, and thousands with --all.
"""

import gzip
import io
import itertools
import math
import random
import shutil
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from jaxnets.data import DataError, load, tars
from jaxnets.data.decoding import decode
from jaxnets.data.recordio import Reader

QUICK, SLOW = range(300), range(1000, 2500)


def damaged(rng, content, others):
    """The content after one to three mutations, at least one of which changes it."""
    result = content
    while result == content:
        for _ in range(rng.randint(1, 3)):
            result = mutated(rng, result, others)
    return result


def mutated(rng, content, others):
    at = rng.randrange(len(content) + 1)
    end = min(at + rng.choice((1, 1, 1, 2, 4, 8, 64)), len(content))
    match rng.randrange(8):
        case 0 if at < end:
            new = bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 : end]
        case 1:
            new = rng.randbytes(end - at)
        case 2:
            new = rng.choice((b"\0", b"\xff")) * (end - at)
        case 3:
            new = struct.pack(rng.choice(("<I", ">I")), rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
        case 4:
            new = content[at:end] * 2
        case 5:
            new = rng.choice(others)[at : at + 64]
        case 6:
            new, end = b"", len(content) if rng.random() < 0.5 else end
        case _:
            new = content[at:end][::-1]
    return content[:at] + new + content[end:]


def clear(error):
    said = str(error)
    return said.isprintable() and len(said) < 2500 and said.endswith((".", "?"))


def pictures():
    """One in each format, mode and way of storing it."""
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "PNG": (("1", {}), ("L", {}), ("LA", {}), ("P", {"transparency": 3}), ("RGB", {"exif": exif}), ("I;16", {})),
        "JPEG": (("L", {}), ("RGB", {"exif": exif}), ("CMYK", {}), ("RGB", {"progressive": True})),
        "TIFF": (("RGBA", {}), ("L", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"}), ("I;16", {})),
        "WEBP": (("RGBA", {"lossless": True}), ("RGB", {"exif": exif})),
        "GIF": (("P", {"transparency": 3}), ("L", {"save_all": True, "append_images": [rgba.convert("L")]})),
        "BMP": (("P", {}), ("RGBA", {})),
        "TGA": (("RGBA", {"compression": "tga_rle"}),),
        "PPM": (("RGB", {}),),
        "JPEG2000": (("RGB", {}),),
        **({"AVIF": (("RGBA", {}),)} if features.check("avif") else {}),
    }
    for kind, ways in kinds.items():
        for mode, options in ways:
            file = io.BytesIO()
            image = rgba.convert("L").convert("I;16") if mode == "I;16" else rgba.convert("RGB").convert(mode)
            image.save(file, kind, **options)
            yield file.getvalue()


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is odd in a file
@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_damaged_pictures(cases):
    whole = [*pictures()]
    decoded = 0
    for number, case in enumerate(cases):
        rng = random.Random(case)
        content = damaged(rng, whole[number % len(whole)], whole)
        height, width = rng.choice(((9, 12), (None, None), (3, 2)))
        try:
            pixels = decode(content, (height, width, rng.choice((1, 3))), where="x.png")
        except DataError as error:
            assert clear(error) and str(error).startswith("x.png "), (case, error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.size, case
            assert height is None or pixels.shape[:2] == (height, width), case
            decoded += 1
    assert 0.1 < decoded / len(cases) < 0.9, "of these mutations, some leave a picture that can be read"


def idx_array(content):
    """The array of an IDX file by its format's description, or None."""
    rank = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or rank not in (1, 3) or len(content) < 4 + 4 * rank:
        return None
    sizes = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    if len(content) != 4 + 4 * rank + math.prod(sizes) or 0 in sizes:
        return None
    return np.frombuffer(content[4 + 4 * rank :], np.uint8).reshape(sizes)


def unpacked(content):
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return b""


@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_damaged_idx_files(cases, tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8), np.uint8([0, 1, 2, 0, 1, 2])
    whole = {}
    for part, array in itertools.product(("train", "t10k"), (images, labels)):
        kind = "images" if array.ndim == 3 else "labels"
        content = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        whole[f"{part}-{kind}-idx{array.ndim}-ubyte"] = content
    for name, content in whole.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    for number, case in enumerate(cases):
        rng = random.Random(case)
        name = [*whole][number % 4]
        is_packed = rng.random() < 0.5
        content = damaged(rng, gzip.compress(whole[name], mtime=0) if is_packed else whole[name], [*whole.values()])
        file = tmp_path / (f"{name}.gz" if is_packed else name)  # a plain one is taken before one with .gz
        before = file.read_bytes() if is_packed else None
        file.write_bytes(content)
        expected = {each: idx_array(whole[each]) for each in whole}
        expected[name] = idx_array(unpacked(content) if is_packed else content)
        try:
            dataset = load(f"idx:{tmp_path}")
        except DataError as error:
            assert clear(error), (case, error)
        else:
            for part, split in (("train", dataset.train), ("t10k", dataset.test)):
                names = np.array([int(each) for each in dataset.classes], np.uint8)
                kept = np.isin(expected[f"{part}-labels-idx1-ubyte"], names)
                np.testing.assert_array_equal(split.images[..., 0], expected[f"{part}-images-idx3-ubyte"][kept])
                np.testing.assert_array_equal(names[split.labels], expected[f"{part}-labels-idx1-ubyte"][kept])
        file.write_bytes(before) if before is not None else file.unlink()


@pytest.mark.parametrize("cases", [QUICK[:50], pytest.param(SLOW[:300], marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_a_damaged_cache_gives_the_set_that_it_was_made_of(cases, pets, cache_home):
    name = pets.make()
    first = load(name, size=8).fingerprint()
    whole = {file: file.read_bytes() for file in cache_home.iterdir()}
    for number, case in enumerate(cases):
        file = [*whole][number % 2]
        content = damaged(random.Random(case), whole[file], [*whole.values()])
        file.unlink()
        file.write_bytes(content)
        dataset = load(name, size=8)
        assert dataset.fingerprint() == first and len(dataset.notes) == 1 and clear(dataset.notes[0]), case
        assert load(name, size=8).notes == (), case


@pytest.mark.parametrize("cases", [QUICK[:60], pytest.param(SLOW[:300], marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_a_damaged_prepared_set(cases, shapes, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    whole = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    expected = load("tfds:shapes", data_dir=prepared)
    for number, case in enumerate(cases):
        file = [*whole][number % len(whole)]
        file.write_bytes(damaged(random.Random(case), whole[file], [*whole.values()]))
        try:
            dataset = load("tfds:shapes", data_dir=tmp_path)
        except DataError as error:
            assert clear(error), (case, error)
        else:
            for split, other in ((dataset.train, expected.train), (dataset.test, expected.test)):
                np.testing.assert_array_equal(split.images, other.images)
                np.testing.assert_array_equal(split.labels, other.labels)
            assert dataset.classes == expected.classes or file.name == "label.labels.txt", case
        file.write_bytes(whole[file])


def stored_record(content, place):
    """The bytes of the record at a place, by the format's description, or None."""
    magic, joined, flags = struct.pack("<I", 0xCED7230A), b"", (0, 1)
    while content[place : place + 4] == magic and len(content) >= place + 8:
        flag, length = divmod(struct.unpack_from("<I", content, place + 4)[0], 2**29)
        part = content[place + 8 : place + 8 + length]
        if flag not in flags or len(part) < length:
            return None
        joined += part
        if flag in (0, 3):
            return joined
        joined, place, flags = joined + magic, place + 8 + length + -length % 4, (2, 3)
    return None


@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_damaged_recordio(cases, tmp_path):
    fixture = Path(__file__).parents[2] / "fixtures" / "recordio" / "glyphs"
    rec, idx = (fixture.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx"))
    rec, lines = rec[:12000], idx.splitlines(keepends=True)[:4]
    places = dict(map(int, line.split()) for line in lines)
    for number, case in enumerate(cases):
        rng = random.Random(case)
        is_rec = number % 3 > 0
        near = rng.choice([*places.values()])  # half of the damage is where a record begins
        start, end = (near, near + 40) if rng.random() < 0.5 else (0, len(rec))
        content = rec[:start] + damaged(rng, rec[start:end], [rec, idx]) + rec[end:] if is_rec else rec
        (tmp_path / "train.rec").write_bytes(content)
        (tmp_path / "train.idx").write_bytes(b"".join(lines) if is_rec else damaged(rng, b"".join(lines), [rec, idx]))
        try:
            with Reader(tmp_path / "train.rec") as reader:
                for key in reader.keys.tolist():
                    try:
                        read, label = reader[key], reader.label(key)
                    except DataError as error:
                        assert clear(error), (case, error)
                        read = None
                    if is_rec:
                        expected = stored_record(content, places[key])
                        count = struct.unpack_from("<I", expected)[0] if expected and len(expected) >= 24 else 2**32
                        if expected is None or len(expected) < 24 + 4 * count:
                            assert read is None, case
                        else:
                            assert read is not None and read.payload == expected[24 + 4 * count :], case
                            values = struct.unpack_from(f"<{count}f", expected, 24) if count else expected[4:8]
                            of = np.array(values, np.float32) if count else np.frombuffer(values, "<f4")[0]
                            np.testing.assert_array_equal(read.label, of)
                            np.testing.assert_array_equal(label, of)
        except DataError as error:
            assert not is_rec and clear(error), (case, error)


@pytest.mark.parametrize("cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_damaged_tar(cases, tmp_path):
    """Places against Python's tarfile, which stops without a word at a header of which it understands no field."""
    path, whole = tmp_path / "a.tar", []
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(path, "w", format=kind) as tar:
            for name, size in (("a.jpg", 700), ("n" * 150 + ".jpg", 3), ("a.cls", 1)):
                member = tarfile.TarInfo(name)
                member.size = size
                tar.addfile(member, io.BytesIO(random.Random(size).randbytes(size)))
        whole.append(path.read_bytes()[:6000])
    for case in cases:
        rng = random.Random(case)
        content = whole[case % 2]
        start = rng.randrange(0, len(content), 512) if rng.random() < 0.7 else 0
        path.write_bytes(content[:start] + damaged(rng, content[start : start + 512], whole) + content[start + 512 :])
        try:
            found = [*tars.members(path)]
        except DataError as error:
            assert clear(error), (case, error)
            continue
        for member in found:
            assert len(tars.read(path, member.start, member.size)) == member.size, case
        try:
            with tarfile.open(path, "r:") as tar:
                expected = [(each.offset_data, each.size) for each in tar if each.isreg()]
        except tarfile.TarError:
            continue
        assert [each[1:] for each in found][: len(expected)] == expected, case
