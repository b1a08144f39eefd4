"""Pictures embedded into a file, and found in it, by a small network that was never trained."""

import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from experiments import embed, search
from experiments.run import terminal
from experiments.trained import embedding_file, embeddings, network, predictions
from jaxnets import create
from jaxnets.torch_weights import save

SIZE, DIMENSIONS = 16, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and a folder of ten pictures: some in a folder within, and files that are none."""
    folder = tmp_path_factory.mktemp("embedding")
    shape = np.zeros((1, SIZE, SIZE, 1), np.float32)
    variables = jax.jit(create("mynn_relu", DIMENSIONS).init)(jax.random.key(0), shape)
    save(folder / "weights.safetensors", "mynn_relu", variables)
    rng = np.random.default_rng(0)
    (folder / "pictures" / "within" / "a folder").mkdir(parents=True)
    for i, place in enumerate(["pictures"] * 6 + ["pictures/within"] * 3 + ["pictures/within/a folder"]):
        pixels = (rng.random((SIZE, SIZE)) * (1 if i else 256)).astype(np.uint8) if i % 5 == 0 else None
        pixels = rng.integers(0, 128, (SIZE, SIZE), np.uint8) if pixels is None else pixels
        pixels[4:12, 4:12] |= 128
        Image.fromarray(pixels).save(folder / place / f"größe {i}.png")
    (folder / "pictures" / "read.me").write_text("no picture")
    (folder / "pictures" / ".hidden.png").write_text("no picture")
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(predictions, "BATCH", 4)


def run(command, capsys, *argv):
    """The exit code, the output and the complaints of a command line."""
    code = 0
    try:
        terminal.main(lambda: command.command(terminal.parse(command.Config, "prog", [str(word) for word in argv])))
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def made(capsys, out, *more):
    arguments = ("weights.safetensors", "pictures", "--model", "mynn_relu", "--out", out, *more)
    code, said, complaint = run(embed, capsys, *arguments)
    assert code == 0, complaint
    return said, complaint


def expected(names):
    """Unit embeddings in float64, of the network itself."""
    pixels = np.stack([np.asarray(Image.open(name))[:, :, None] for name in names]).astype(np.float32) / 255
    variables = network.load(embed.Path("weights.safetensors"), "mynn_relu").variables
    outputs = np.asarray(jax.jit(create("mynn_relu", DIMENSIONS).apply)(variables, pixels), np.float64)
    return outputs / np.linalg.norm(outputs, axis=1, keepdims=True)


def test_both_kinds_of_file_hold_names_and_unit_embeddings(tmp_path, capsys):
    said, complaint = made(capsys, tmp_path / "e.npz")
    assert "10 embeddings of 5 dimensions by mynn_relu from weights.safetensors" in said and not complaint
    with np.load(tmp_path / "e.npz") as kept:
        names, vectors = kept["names"].tolist(), kept["embeddings"]
    assert sorted(names) == sorted(str(path) for path in embed.Path("pictures").rglob("größe*.png"))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(names), atol=1e-5)
    made(capsys, tmp_path / "e.safetensors")
    tensors = load_file(tmp_path / "e.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], vectors)
    assert [row.tobytes().rstrip(b"\0").decode() for row in tensors["names"]] == names
    for ending in ("npz", "safetensors"):
        opened = embedding_file.read(tmp_path / f"e.{ending}")
        np.testing.assert_array_equal(opened.embeddings, vectors)
        assert [*map(opened.name, range(10))] == names and isinstance(opened.embeddings, np.memmap)


def test_the_nearest_are_those_of_all_cosines(tmp_path, capsys):
    made(capsys, tmp_path / "e.npz")
    queries = ["pictures/größe 1.png", "pictures/within/größe 7.png"]
    names = sorted(str(path) for path in embed.Path("pictures").rglob("größe*.png"))
    cosines = expected(queries) @ expected(names).T
    code, out, complaint = run(
        search, capsys, tmp_path / "e.npz", *queries, "--top", 3, "--picture", tmp_path / "s.png"
    )
    assert code == 0, complaint
    head, *rows, last = out.splitlines()
    assert head == "image\trank\tnearest\tcosine" and last == f"see {tmp_path / 's.png'}"
    for query, of_query, found in zip(queries, cosines, (rows[:3], rows[3:]), strict=True):
        order = np.argsort(-of_query)[:3]
        for rank, (best, row) in enumerate(zip(order, found, strict=True), 1):
            path, place, nearest, cosine = row.split("\t")
            assert (path, place, nearest) == (query, str(rank), names[best])
            assert float(cosine) == pytest.approx(of_query[best], abs=1e-4)
        assert found[0].split("\t")[2] == query
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 500 and len(picture.convert("L").getcolors()) > 20


def test_inverted_pictures_are_embedded_as_such_and_suspected(tmp_path, capsys):
    shutil.copytree("pictures", tmp_path / "pictures")
    for path in (tmp_path / "pictures").rglob("größe*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    arguments = ("weights.safetensors", tmp_path / "pictures", "--model", "mynn_relu", "--out")
    _, _, complaint = run(embed, capsys, *arguments, tmp_path / "dark.npz")
    assert "10 of 10 pictures look dark on light" in complaint and "with --invert" in complaint
    _, _, complaint = run(embed, capsys, *arguments, tmp_path / "light.npz", "--invert")
    assert not complaint
    made(capsys, tmp_path / "e.npz")
    original, inverted = (embedding_file.read(tmp_path / f"{name}.npz") for name in ("e", "light"))
    by_name = {original.name(i): original.embeddings[i] for i in range(10)}
    for i in range(10):
        np.testing.assert_array_equal(inverted.embeddings[i], by_name[os.path.relpath(inverted.name(i), tmp_path)])


def test_no_more_pictures_are_open_than_a_batch_has():
    program = network.load(embed.Path("weights.safetensors"), "mynn_relu").program("embeddings")
    taken = 0

    def paths():
        nonlocal taken
        while True:
            taken += 1
            yield embed.Path("pictures/größe 1.png")

    batches = embeddings.embed(program, paths(), invert=False)
    assert len(next(batches).sources) == 4 and taken == 4
    assert len(next(batches).sources) == 4 and taken == 8


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("weights.safetensors", "--out", "e.npz"), "name the pictures, or folders of them"),
        (("weights.safetensors", "pictures"), "--out must name the file to write"),
        (("weights.safetensors", "pictures", "--out", "e.csv"), "e.csv ends in neither .npz nor .safetensors"),
        (("weights.safetensors", "none.png", "--out", "e.npz"), "none.png: there is no such picture or folder"),
        (("weights.safetensors", "empty", "--out", "e.npz"), "there is no picture in empty"),
        (("weights.safetensors", "pictures/read.me", "--out", "e.npz"), "read.me"),
        (("none", "pictures", "--out", "e.npz"), "none: there is no such run's folder or weights file"),
    ],
)
def test_what_cannot_be_embedded_is_refused_in_a_sentence(argv, words, folder, capsys):
    (folder / "empty").mkdir(exist_ok=True)
    code, _, complaint = run(embed, capsys, *argv, "--model", "mynn_relu")
    assert code == 2 and words in complaint and complaint.count("\n") == 1
    assert not (folder / "e.npz").exists()


def test_pictures_that_come_or_go_meanwhile_are_noticed(tmp_path, capsys, monkeypatch):
    write = embedding_file.write

    def later(path, count, *arguments):
        Image.new("L", (8, 8)).save("pictures/late.png")
        write(path, count, *arguments)

    monkeypatch.setattr(embedding_file, "write", later)
    try:
        code, _, complaint = run(
            embed, capsys, "weights.safetensors", "pictures", "--model", "mynn_relu", "--out", tmp_path / "e.npz"
        )
    finally:
        os.unlink("pictures/late.png")
    assert code == 2 and "pictures came or went while they were read" in complaint
    assert not (tmp_path / "e.npz").exists()


def test_a_search_by_other_weights_is_refused(tmp_path, capsys):
    made(capsys, tmp_path / "e.npz")
    kept = (tmp_path / "kept.safetensors").write_bytes(embed.Path("weights.safetensors").read_bytes())
    shape = np.zeros((1, SIZE, SIZE, 1), np.float32)
    try:
        other = jax.jit(create("mynn_relu", DIMENSIONS).init)(jax.random.key(1), shape)
        save("weights.safetensors", "mynn_relu", other)
        code, _, complaint = run(search, capsys, tmp_path / "e.npz", "pictures/größe 1.png")
    finally:
        shutil.copy(tmp_path / "kept.safetensors", "weights.safetensors")
    assert kept and code == 2 and "has other weights than" in complaint


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_damaged_files_are_refused_in_a_sentence(ending, tmp_path, capsys):
    made(capsys, tmp_path / f"e.{ending}")
    content = (tmp_path / f"e.{ending}").read_bytes()
    broken = tmp_path / f"broken.{ending}"
    for cut in range(0, len(content), max(1, len(content) // 60)):
        broken.write_bytes(content[:cut])
        with pytest.raises(terminal.UserError, match=r"is no file of experiments\.embed, or damaged"):
            embedding_file.read(broken)
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            changed[place] = rng.integers(256)
        broken.write_bytes(changed)
        try:
            opened = embedding_file.read(broken)
            assert opened.embeddings.dtype == np.float32 and len(opened.name(9))
        except terminal.UserError:
            pass
