"""Recognition in this process, on the characters of five small fonts: what a run leaves, and what it refuses."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.recognition import drawings, study
from experiments.recognition.__main__ import command
from experiments.recognition.comparison import compare
from experiments.recognition.config import Config
from experiments.recognition.judging import Roles, judge
from experiments.run import terminal
from experiments.run.experiment import Experiment
from experiments.run.folder import Folder
from experiments.trained import network
from jaxnets import load
from jaxnets.data.dataset import GivenPairs, Sources
from jaxnets.distort import Distortion, distort
from jaxnets.recognition import Bootstrap, retrieval
from tests.experiments.page.packed import data_of, numbers

SIZE = 16


def config(fonts, out, **changes):
    small = {"model": "mynn_relu", "embedding": 12, "embedding_norm": True, "size": SIZE, "epochs": 2, "batch_size": 64}
    return Config(**{"data": f"glyphs:{fonts}", "out": out} | small | changes)


def train(config):
    command(config)


@pytest.fixture(scope="module")
def trained(fonts, tmp_path_factory):
    """Two epochs, stopped after the second of the second one's five steps and gone on with, and what was printed."""
    out, said = tmp_path_factory.mktemp("out"), []
    calls, steps = Experiment.calls, 0

    def told(self, *position):
        nonlocal steps
        for so_far in calls(self, *position):
            steps += 1
            if steps == 7:
                signal.raise_signal(signal.SIGINT)
            yield so_far

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        patch.setattr(Experiment, "calls", told)
        with pytest.raises(terminal.Interrupted, match="after 1 epoch and 2 steps"):
            train(config(fonts, out))
        train(config(fonts, out))
    return Folder(out / "recognition" / "mynn_relu" / "arcface" / "seed0"), "\n".join(said)


@pytest.fixture
def glyphs(fonts):
    return load(f"glyphs:{fonts}", size=SIZE)


def said(capsys, *argv):
    """The exit code and what was said of a command line."""
    with pytest.raises(SystemExit) as stop:
        terminal.main(lambda: command(terminal.parse(Config, "recognition", [str(word) for word in argv])))
    return stop.value.code, capsys.readouterr().err


def test_each_epoch_has_every_figure_on_unseen_identities(trained, glyphs):
    folder, _ = trained
    lines = folder.lines()
    assert [line["epoch"] for line in lines] == [1, 2] and "test_accuracy" not in lines[0]
    for line in lines:
        embeddings = folder.arrays(line["epoch"])["embeddings"]
        assert embeddings.shape == (len(glyphs.test.labels), 12)
        expected = retrieval(embeddings, glyphs.test.labels, bootstrap=None)
        reports = line["recognition"]
        assert line["map_at_r"] == reports["retrieval"]["map_at_r"] == expected.map_at_r
        low, high = reports["retrieval"]["intervals"]["map_at_r"]
        assert low < line["map_at_r"] < high
        assert 0.5 < reports["verification"]["auc"] < 1 and 0 < reports["identification"]["rank_at[1]"] < 1
    recorded = folder.begun()["config"]
    assert recorded["classes"] == [*glyphs.classes[: glyphs.train.labels.max() + 1]]
    assert "SHA-256" in recorded["data_notes"][-1]
    best = max(lines, key=lambda line: line["map_at_r"])
    assert folder.summary()["best"] == {"epoch": best["epoch"], "map_at_r": best["map_at_r"]}


def test_the_last_epoch_is_told_in_a_table(trained):
    folder, told = trained
    last = folder.lines()[-1]["recognition"]
    rows = {line[:18].strip(): line[18:].split() for line in told.splitlines() if line.startswith("  ")}
    assert rows["MAP@R"][0] == f"{100 * last['retrieval']['map_at_r']:.2f}"
    low, high = last["verification"]["intervals"]["eer"]
    assert rows["equal error rate"][2:] == [f"{100 * low:.2f}", "–", f"{100 * high:.2f}"]
    assert " ".join(rows["TAR at FAR 1e-4"]).startswith("– not stated: of ")
    assert "31 unseen identities, 62 pictures, after 2 epochs" in told
    assert "SHA-256" not in told and "going on after 1 epoch and 2 steps" in told


def test_a_run_leaves_its_figures(trained):
    folder, _ = trained
    for name in ("roc", "cosines", "cmc", "nearest", "mistakes", "curves", "sources"):
        with Image.open(folder.path / f"{name}.png") as picture:
            assert (
                min(picture.size) > (300 if name != "sources" else 150) and len(picture.convert("L").getcolors()) > 20
            )


def test_a_run_leaves_a_page_of_its_queries(trained):
    """Each picture's neighbours are others; the surest mistakes have a wrong one first."""
    folder, _ = trained
    data = data_of((folder.path / "index.html").read_bytes())
    assert [line["epoch"] for line in data["lines"]] == [1, 2]
    last = folder.summary()["last"]["recognition"]
    told = {figure["name"]: figure["value"] for figure in data["figures"][-1]}
    assert told["MAP@R"] == last["retrieval"]["map_at_r"] and told["TAR at FAR 1e-4"] is None
    assert {f"rank-1 of {name}": share for name, share in last["by_source"]["rank_1"].items()}.items() <= told.items()
    drawn, surest = (group["size"] for group in data["groups"])
    queries, identities = numbers(data["queries"]), numbers(data["identities"])
    assert (
        drawn == drawings.QUERIES and len(queries) == drawn + surest and len(set(identities[queries[:drawn]])) == drawn
    )
    found = numbers(data["found"][-1]).reshape(len(queries), drawings.SHOWN)
    assert not (found == queries[:, None]).any()
    assert (identities[found[drawn:, 0]] != identities[queries[drawn:]]).all() and surest > 0


def test_the_network_of_a_run_makes_the_embeddings_that_were_judged(trained, glyphs):
    """With the BatchNorm after the embeddings as a part of its last layer."""
    folder, _ = trained
    program = network.load(folder.path, None).program("embeddings")
    best = folder.summary()["best"]["epoch"]
    found = np.asarray(jax.jit(program.apply)(program.weights, glyphs.test.images))
    np.testing.assert_allclose(found, folder.arrays(best)["embeddings"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_was_never_stopped_has_the_same_bits(trained, fonts, tmp_path):
    train(config(fonts, tmp_path))
    parts, whole = trained[0], Folder(tmp_path / "recognition" / "mynn_relu" / "arcface" / "seed0")
    for epoch in (1, 2):
        jax.tree.map(np.testing.assert_array_equal, parts.arrays(epoch), whole.arrays(epoch))
    assert [line["recognition"] for line in parts.lines()] == [line["recognition"] for line in whole.lines()]


def test_other_options_are_another_run(trained, fonts, capsys):
    folder, _ = trained
    out = folder.path.parents[3]
    with pytest.raises(terminal.UserError, match=r"another configuration \(weight_decay: 0.0005 → 0.001\)"):
        train(config(fonts, out, weight_decay=1e-3))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--data", "mnist"), "mnist has the same classes in its test as in training"),
        (("--model", "resnet"), "there is no network 'resnet'; did you mean 'resnet"),
        (("--margin", "arcfac"), "there is no margin 'arcfac'; did you mean 'arcface'?"),
        (("--margin", "cosface", "--m1", "2"), "--margin cosface takes no --m1; it takes --m"),
        (("--model", "v1_1_3"), "v1_1_3 makes 512 numbers of images of 32×32, and not 128"),
        (("--margin", "all", "--l-m", "0.2"), "--l-m is a number of one margin: give that with --margin, not all"),
        (
            ("--margin", "magface", "--m", "1"),
            "--margin magface takes no --m; it takes --l-a, --l-m, --u-a, --u-m",
        ),
        (("--margin", "magface", "--u-m", "45"), "MagFace's u_m must be in [0, π/2] radians, not 45.0; 45 degrees are"),
        (("--margin", "uniface", "--balance", "0"), "UniFace's balance must be in (0, ∞), not 0.0"),
        (("--margin", "adacos", "--s", "9"), "--margin adacos has a scale that follows the training: leave out --s"),
        (("--embedding", "0"), "--embedding must be 1 or more, not 0"),
        (("--warmup", "20"), "--warmup must be 0 epochs or more and less than --epochs, not 20.0"),
        (("--weight-decay", "-1"), "--weight-decay must be a finite number of 0 or more, not -1.0"),
        (("--elastic", "0.1"), "--elastic is a part of the augmentation: give --augment too"),
        (("--augment", "--elastic", "2"), "--elastic is a share of the side, in [0, 1], not 2.0"),
        (("--averaging", "1"), "--averaging is the share of an average that a step keeps: in [0, 1), not 1.0"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(argv, words, fonts, tmp_path, capsys):
    data = () if "--data" in argv else ("--data", f"glyphs:{fonts}")
    code, complaint = said(capsys, *argv, *data, "--out", tmp_path)
    assert code == 2 and words in complaint and complaint.count("\n") == 1


def test_margins_are_compared_with_the_best_first(trained, tmp_path):
    """The run, and a copy of it that claims to be better; a third came to no end."""
    folder, _ = trained
    better, unfinished = Folder(tmp_path / "better"), tmp_path / "unfinished"
    shutil.copytree(folder.path, better.path)
    summary = better.summary()
    summary["last"]["map_at_r"] = summary["last"]["recognition"]["retrieval"]["map_at_r"] = 0.99
    (better.path / "summary.json").write_text(json.dumps(summary))
    told = compare(tmp_path / "m", {"a": folder.path, "b": better.path, "c": unfinished}, "glyphs").splitlines()
    last = folder.summary()["last"]["recognition"]["retrieval"]
    low, high = last["intervals"]["map_at_r"]
    assert [row.split()[0] for row in told[:3]] == ["margin", "b", "a"] and told[1].split()[3] == "99.0"
    assert f"{100 * last['map_at_r']:.1f} ({100 * low:.1f}–{100 * high:.1f})" in told[2]
    assert "same network, pictures and steps for all, each loss with its default numbers, trained once" in told[3]
    assert told[4].startswith("scales at the start: b ") and ", a " in told[4]
    written = json.loads((tmp_path / "m.json").read_text())
    assert [each["last"]["map_at_r"] for each in written["margins"]] == [0.99, last["map_at_r"]]
    assert (tmp_path / "m.png").stat().st_size > 10_000
    rows = data_of((tmp_path / "m.html").read_bytes())["rows"]
    assert [(row["name"], row["MAP@R"], len(row["curve"])) for row in rows] == [
        ("b", 0.99, 2),
        ("a", last["map_at_r"], 2),
    ]


def test_an_identity_is_enrolled_by_one_picture():
    """Ten identities with three pictures, and one with a single one, which cannot be found again."""
    labels = np.array([*np.repeat(np.arange(10), 3), 10], np.int32)
    gallery, probes = Roles.of(labels)
    assert len(gallery) == len(np.unique(labels[gallery])) == 8 and 10 not in labels[gallery]
    assert sorted([*gallery, *probes]) == [*range(31)]
    with pytest.raises(terminal.UserError, match="fewer than two identities of the test have two pictures"):
        Roles.of(np.array([0, 0, 1, 2], np.int32))


def test_one_source_enrols_and_each_is_judged_alone():
    """Four identities on a circle: the gallery has them at 0°, 90°, 180° and 270°. A careful hand is 10° off, another
    one 50°, and so nearer to the next one."""
    offsets = np.array([0, 10, -10, 50])
    at = np.deg2rad((90 * np.arange(4)[:, None] + offsets).reshape(-1))
    embeddings = np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)
    labels, of_test = np.repeat(np.arange(4), 4).astype(np.int32), np.tile(np.array([0, 1, 1, 2], np.int32), 4)
    sources = Sources(of_test, ("passport", "careful", "careless"), np.array([True, False, False]))
    gallery, _ = Roles.of(labels, sources)
    assert len(gallery) == 3 and set(of_test[gallery]) == {0}
    reports = judge(embeddings, labels, Bootstrap(), sources=sources).as_dict()
    # Of one identity the next one is not enrolled: there the careless hand is nearest to its own.
    assert reports["by_source"] == {
        "rank_1": {"careful": 1.0, "careless": pytest.approx(1 / 3)},
        "num_with_mate": {"careful": 6, "careless": 3},
    }
    assert reports["identification"]["rank_at[1]"] == pytest.approx(7 / 9)
    assert [row.split() for row in drawings.table(reports)[-2:]] == [
        ["rank-1", "of", "careful", "100.00", "%", "of", "6", "probes"],
        ["rank-1", "of", "careless", "33.33", "%", "of", "3", "probes"],
    ]
    alone = sources._replace(of_test=np.where(np.arange(16) > 3, 1, of_test).astype(np.int32))
    with pytest.raises(
        terminal.UserError, match="two identities of the test have a picture in the gallery, and another"
    ):
        Roles.of(labels, alone)


def test_given_pairs_are_verified_in_their_folds():
    """Two folds of a pair of either kind: the threshold that is best for one decides a pair of the other wrong."""
    at = np.deg2rad([0, 10, 90, 130])  # identities 0, 0, 1, 1
    embeddings = np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32)
    labels = np.array([0, 0, 1, 1], np.int32)
    pairs = GivenPairs(np.array([[0, 1], [1, 2], [2, 3], [0, 3]]), np.array([0, 0, 1, 1]))
    reports = judge(embeddings, labels, Bootstrap(), pairs).as_dict()
    assert reports["pairs"]["accuracy"] == 0.75 and reports["pairs"]["accuracy_std"] == 0.25
    assert reports["pairs"]["num_impostor"] == 2 and reports["verification"]["num_impostor"] == 4
    (row,) = (row for row in drawings.table(reports) if "given pairs right" in row)
    assert " 75.00 % " in row and row.endswith("; ± 25.00 over folds")


def test_a_study_records_its_recipe(fonts, tmp_path):
    asked = config(fonts, tmp_path, dtype="bfloat16", averaging=0.9, margin="cosface", epochs=3, augment=True)
    experiment = study.build(asked, load(f"glyphs:{fonts}", size=SIZE))
    recorded = json.loads(json.dumps(experiment.config))
    assert recorded["margin"] == {"name": "cosface", "m": 0.35} and recorded["averaging"] == 0.9
    assert recorded["augment"]["stroke"] == 0.8 and "elastic" not in recorded["augment"]
    bent = study.build(dataclasses.replace(asked, elastic=0.03), load(f"glyphs:{fonts}", size=SIZE))
    assert bent.config["augment"] == recorded["augment"] | {"elastic": 0.03, "smoothness": 0.12}
    for built, elastic in ((experiment, 0.0), (bent, 0.03)):
        assert built.state.augment.func is distort
        assert built.state.augment.keywords == {"distortion": Distortion(elastic=elastic)}
    assert recorded["schedule"] == "1 epochs of warm-up, cosine to zero after 3"
    assert experiment.directory == tmp_path / "recognition" / "mynn_relu" / "cosface" / "seed0"
    assert set(np.asarray(experiment.test.labels)) == {-1}
    assert "gallery" not in recorded
    glyphs = load(f"glyphs:{fonts}", size=SIZE)
    first = np.arange(len(glyphs.sources.names)) == 0
    of_one = dataclasses.replace(glyphs, sources=glyphs.sources._replace(enrols=first))
    assert study.build(asked, of_one).config["gallery"] == [glyphs.sources.names[0]]
