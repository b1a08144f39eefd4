"""Files that promise or unpack to far more than they hold: refused in a sentence, and in little memory.

A process of its own reads them, and its peak is what the system counted. Nothing else here could tell a reader that
fills the memory, and then refuses, from one that looks first.
"""

import gzip
import json
import struct
import subprocess
import sys
import zipfile
import zlib

import pytest

from tests.jaxnets.torch_weights import pickling

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


MEASURED = """
import json
import sys
import warnings
from pathlib import Path

from jaxnets.data import load
from jaxnets.data.decoding import decode
from jaxnets.torch_weights import read

def peak():  # not getrusage's: that begins with the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

warnings.simplefilter("ignore")
readers = {
    "idx": lambda path: load(f"idx:{path}"),
    "folder": lambda path: load(f"folder:{path}", size=8),
    "pth": read,
    "picture": lambda path: decode(path.read_bytes(), (9, 9, 3), where=path.name),
}
said, before = {}, peak()
for kind, name in json.loads(sys.argv[1]):
    try:
        readers[kind](Path(name))
        said[name] = ["", 0]
    except ValueError as error:
        said[name] = [str(error), peak() - before]
print(json.dumps(said))
"""
SMALL = 128  # MiB beyond what the process takes before: a fraction of what each file would fill
ZEROS = bytes(2**24)


def deflated(times, more=b""):
    """So many times 16 MiB of zeros as one deflated stream, without a beginning or a checksum."""
    once, end = zlib.compressobj(1, wbits=-15), zlib.compressobj(1, wbits=-15)
    return (once.compress(ZEROS) + once.flush(zlib.Z_FULL_FLUSH)) * times + end.compress(more) + end.flush()


def repeated(path):
    """A tensor of 2³⁴ elements, all of them the first of a storage of six."""
    body = pickling.mapping(x=pickling.tensor(pickling.storage("0", 6), 0, (2**32, 4), (0, 0)))
    pickling.write(path, "zip", body, {"0": pickling.SIX})


def lying(path, size):
    """A record that inflates to 2.2 GiB, and of which the zip directory tells the size."""
    body = pickling.mapping(x=pickling.tensor(pickling.storage("0", 6)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("net/data/0", deflated(141))
    content = bytearray(path.read_bytes())
    for signature, method, sizes in ((b"PK\x03\x04", 8, 18), (b"PK\x01\x02", 10, 20)):
        start = content.rindex(signature)
        struct.pack_into("<H", content, start + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, start + sizes + 4, size)
    path.write_bytes(content)


def idx_of_zeros(folder, sizes):
    """A folder whose images unpack to 4 GiB."""
    folder.mkdir()
    for split in ("train", "t10k"):
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes(5))
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 5, 4, 3) + bytes(60))
    (folder / "train-images-idx3-ubyte").unlink()
    header = gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, *sizes), mtime=0)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(header + gzip.compress(ZEROS, 1, mtime=0) * 256)


def png(path, side, depth, colour):
    """A PNG of zeros, which lacks the stream's checksum at its end: what matters happens before."""
    row = side * depth * (4 if colour == 6 else 1) // 8 + 1
    pixels = b"\x78\x01" + deflated(-(-row * side // len(ZEROS)))
    chunks = (b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def endless(folder):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (folder / name / f"{number}.png").symlink_to("/dev/zero")


def test_files_that_would_fill_the_memory(tmp_path):
    tasks = (
        ("pth", "repeated.pth", repeated, "a tensor of 17179869184 elements repeats a storage of 6"),
        ("pth", "large.pth", lambda path: lying(path, 141 * len(ZEROS)), "its records are compressed"),
        ("pth", "lying.pth", lambda path: lying(path, 24), "its records are compressed"),
        ("idx", "counted", lambda path: idx_of_zeros(path, (2**12, 2**10, 2**10)), "claims 4,294,967,312 bytes"),
        ("idx", "uncounted", lambda path: idx_of_zeros(path, (5, 4, 3)), "has more than the 76 bytes"),
        ("picture", "rgba.png", lambda path: png(path, 13_000, 8, 6), "claims 13000×13000 pixels, of which at most"),
        ("picture", "grey16.png", lambda path: png(path, 13_000, 16, 0), "claims 13000×13000 pixels, of which at most"),
        ("folder", "endless", endless, "it is no regular file"),
    )
    for _, name, make, _ in tasks:
        make(tmp_path / name)
    names = json.dumps([(kind, str(tmp_path / name)) for kind, name, _, _ in tasks])
    done = subprocess.run([sys.executable, "-c", MEASURED, names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for _, name, _, words in tasks:
        sentence, grown = said[str(tmp_path / name)]
        assert words in sentence and grown < SMALL, (name, sentence, grown)
