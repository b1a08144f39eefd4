"""A run's own small files, damaged: what they held, or one sentence."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from experiments.run.folder import Folder
from experiments.run.records import Damaged, commit_of, environment
from experiments.run.stored import NUMBERS, check_network
from experiments.run.terminal import UserError

CONFIG = {"variant": "v0", "image_shape": [28, 28, 1], "classes": ["0", "1"], "seed": 0}
ARRAYS = {"embeddings": np.arange(12, dtype=np.float32).reshape(6, 2), "step_losses": np.ones(3)}


def line(epoch):
    gaps = {"smallest_gap_degrees": 12.5, "largest_gap_degrees": None}
    return {"epoch": epoch, **dict.fromkeys(NUMBERS, 0.5), "verdict": "separated", "separability": gaps}


def test_the_commit_is_that_of_the_program(tmp_path, folder):
    """Of a file that a commit holds: an installed copy may lie in somebody else's checkout."""

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    held, installed = tmp_path / "held.py", tmp_path / "installed.py"
    held.touch()
    installed.touch()
    git("init", "--quiet")
    assert commit_of(held) is None
    git("add", "held.py")
    git("commit", "--quiet", "--message", "Hold it")
    assert commit_of(held) == git("rev-parse", "HEAD") and len(commit_of(held)) == 40
    assert commit_of(installed) is None
    assert folder.begun()["environment"]["commit"] == environment()["commit"]


@pytest.fixture
def folder(tmp_path):
    """A run of two epochs."""
    folder = Folder(tmp_path)
    folder.claim(CONFIG, "python -m experiments.arcloss", fresh=False)
    for epochs in (1, 2):
        folder.keep([line(i + 1) for i in range(epochs)], ARRAYS)
    (tmp_path / "summary.json").write_text(json.dumps({"epochs": 2, "last": line(2), "verdict": "separated"}))
    return folder


def read(folder):
    begun = folder.begun()
    check_network(begun["config"], folder.path / "config.json", ("v0", "v1"))
    arrays = folder.arrays(1)
    return begun, folder.lines(epochs=2), folder.summary(), {name: array.tolist() for name, array in arrays.items()}


FILES = ("config.json", "metrics.jsonl", "summary.json", "epochs/0001.npz")
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (file, content)
        for file in FILES
        for content in ("", "[]", "[]\n", "{", "\0\xff", "1" * 5000, DEEP, '{"a":' * 10**5)
    ]
    + [
        ("metrics.jsonl", json.dumps(line(2)) + "\n"),
        ("metrics.jsonl", json.dumps(line(1)) + "\n"),
        ("metrics.jsonl", json.dumps(line(1)) + "\n" + json.dumps(line(2))[:-20]),
        ("metrics.jsonl", "".join(json.dumps(line(i) | {"train_loss": "low"}) + "\n" for i in (1, 2))),
        ("metrics.jsonl", "".join(json.dumps(line(i) | {"test_accuracy": 2}) + "\n" for i in (1, 2))),
        ("metrics.jsonl", "".join(json.dumps(line(i) | {"separability": None}) + "\n" for i in (1, 2))),
        ("config.json", json.dumps({"config": CONFIG | {"variant": ["v0"]}})),
        ("config.json", json.dumps({"config": CONFIG | {"image_shape": [28, 28]}})),
        ("config.json", json.dumps({"config": CONFIG | {"image_shape": [28, True, 1]}})),
        ("config.json", json.dumps({"config": CONFIG | {"classes": {"0": 1}}})),
        ("config.json", json.dumps({"config": CONFIG, "command": 3})),
        ("summary.json", json.dumps({"epochs": "two"})),
    ],
    ids=lambda value: value[:20],
)
def test_files_of_other_contents_are_said_to_be_damaged(folder, file, content):
    (folder.path / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(Damaged) as error:
        read(folder)
    words = str(error.value)
    assert words.startswith(f"{folder.path / file} is damaged (") and "\n" not in words and len(words) < 600


def test_metrics_that_are_gone_are_missed(folder):
    (folder.path / "metrics.jsonl").unlink()
    with pytest.raises(Damaged, match="it has 0 of the 2 epochs that the checkpoint says have ended"):
        read(folder)


def test_mutated_files_give_what_they_held_or_a_sentence(folder):
    """Bytes flipped, cut out and put in, at random: what is not noticed in JSON is a value of the right type."""
    whole, moments = read(folder), random.Random(0)
    for file in FILES:
        original = (folder.path / file).read_bytes()
        for _ in range(150):
            content = bytearray(original)
            at = moments.randrange(len(content))
            match moments.randrange(3):
                case 0:
                    content[at] ^= 1 << moments.randrange(8)
                case 1:
                    del content[at : at + moments.randrange(1, 50)]
                case 2:
                    content[at:at] = moments.randbytes(moments.randrange(1, 20))
            (folder.path / file).write_bytes(content)
            try:
                found = read(folder)
            except UserError as error:
                assert "\n" not in str(error)
                continue
            if file.endswith(".npz"):
                assert found == whole
        (folder.path / file).write_bytes(original)
    assert read(folder) == whole


def test_arrays_are_those_that_numpy_reads(folder):
    with np.load(folder.path / "epochs" / "0002.npz") as expected:
        found = folder.arrays(2)
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)


def test_a_folder_is_of_one_process_at_a_time(tmp_path):
    """Until that has ended, however: the other one here is killed."""
    code = (
        "import sys, time; from pathlib import Path; from experiments.run.folder import Folder\n"
        "with Folder(Path(sys.argv[1])).locked('a command'): print('held', flush=True); time.sleep(600)"
    )
    folder = Folder(tmp_path / "my\nrun")
    with subprocess.Popen([sys.executable, "-c", code, folder.path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        words = rf"/my\\nrun is in use by process {other.pid} on .*, a command: wait for it to end, or give another --"
        with pytest.raises(UserError, match=words), folder.locked("another"):
            pass
        other.kill()
    with folder.locked("another"):
        folder.claim(CONFIG, "another", fresh=True)  # keeps the lock
        with pytest.raises(UserError, match="is in use by process"), folder.locked("a third"):
            pass
    with folder.locked("another"):
        pass
