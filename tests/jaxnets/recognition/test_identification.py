import numpy as np
import pytest

from jaxnets.recognition import Bootstrap, identification
from jaxnets.recognition.blocks import nearest as blocks

PROBES, ENROLLED, STRANGERS = 400, 20, 10


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_PRODUCTS", 128 * 96)
        yield


def problem(seed, dim=4):
    """Three examples of each enrolled identity, and probes of them and of others."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(ENROLLED + STRANGERS, dim))
    gallery_labels = np.tile(np.arange(ENROLLED), 3)
    labels = np.arange(PROBES) % (ENROLLED + STRANGERS)
    gallery, probes = (centres[y] + 0.5 * rng.normal(size=(len(y), dim)) for y in (gallery_labels, labels))
    return probes, labels, gallery, gallery_labels


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rounded_scores(probes, gallery, gallery_labels):
    templates = unit(np.stack([unit(gallery[gallery_labels == c]).mean(axis=0) for c in range(ENROLLED)]))
    return np.round(unit(probes) @ templates.T * 2**20) / 2**20


def test_figures_are_their_definitions():
    probes, labels, gallery, gallery_labels = problem(0)
    measured = identification(probes, labels, gallery, gallery_labels, fpirs=[1e-1, 1e-2], bootstrap=Bootstrap(50))
    scores = rounded_scores(probes, gallery, gallery_labels)
    mated = labels < ENROLLED
    own = scores[mated, labels[mated]]
    others = scores[mated].copy()
    others[np.arange(mated.sum()), labels[mated]] = -np.inf
    rank = 1 + (others >= own[:, None]).sum(axis=1)
    assert (measured.num_templates, measured.num_with_mate) == (ENROLLED, mated.sum())
    assert measured.num_without_mate == (~mated).sum() == 130
    assert measured.cmc == pytest.approx([(rank <= k).mean() for k in range(1, ENROLLED + 1)])
    assert measured.rank_at == {k: pytest.approx((rank <= k).mean()) for k in (1, 5, 10)}
    # Of 130 strangers thirteen may be taken for someone.
    strangers = np.sort(scores[~mated].max(axis=1))[::-1]
    assert measured.threshold_at_fpir[1e-1] == strangers[13]
    assert measured.tpir_at_fpir[1e-1] == pytest.approx(((rank == 1) & (own > strangers[13])).mean())
    assert measured.tpir_at_fpir[1e-2] is None
    assert "130 probes without a mate it is 1.3, and 10 are needed" in measured.not_stated["tpir_at_fpir[0.01]"]
    for name in ("rank_at[1]", "tpir_at_fpir[0.1]"):
        low, high = measured.intervals[name]
        assert low < measured.figures()[name] < high
    assert "130 without, among 20 templates" in str(measured)


def test_one_embedding_for_everything_finds_nobody():
    _, labels, _, gallery_labels = problem(1)
    one = np.random.default_rng(1).normal(size=(1, 4))
    probes, gallery = np.tile(one, (PROBES, 1)), np.tile(one, (len(gallery_labels), 1))
    measured = identification(probes, labels, gallery, gallery_labels, ranks=[1, 5], fpirs=[1e-1])
    assert measured.cmc == (0,) * (ENROLLED - 1) + (1,)
    assert measured.tpir_at_fpir == {1e-1: 0}
    assert measured.intervals["rank_at[5]"] == measured.intervals["tpir_at_fpir[0.1]"] == (0, 0)


def test_strangers_who_score_as_mates_do_are_not_told_from_them():
    # Each probe has a template's direction, the strangers' too.
    _, _, gallery, gallery_labels = problem(3)
    gallery = gallery[:ENROLLED][gallery_labels]
    labels = np.arange(PROBES) % (2 * ENROLLED)
    probes = gallery[labels % ENROLLED]
    measured = identification(probes, labels, gallery, gallery_labels, fpirs=[1e-1, 0.5], bootstrap=None)
    assert measured.rank_at[1] == 1
    assert measured.tpir_at_fpir == {1e-1: 0, 0.5: 0}
    assert measured.threshold_at_fpir[0.5] == 1
    labels[labels >= ENROLLED] -= ENROLLED  # all are mates now
    measured = identification(probes, labels, gallery, gallery_labels, bootstrap=None)
    assert measured.num_without_mate == 0
    assert measured.tpir_at_fpir[1e-1] is None


def test_templates_weigh_directions_alike():
    # Two orthogonal examples of label 0, one a hundred times as long: the template lies between them.
    gallery_labels = np.concatenate([[0, 0], np.arange(58) % 19 + 1])
    gallery = np.tile([0.0, 0, 0, 1], (60, 1))
    gallery[:2] = [[1, 0, 0, 0], [0, 100, 0, 0]]
    probes = np.tile([1.0, 0, 0, 0], (PROBES, 1))
    probes[0] = [2, 1.9, 0, 0]
    labels = np.full(PROBES, 99)
    labels[0] = 0
    measured = identification(probes, labels, gallery, gallery_labels, bootstrap=None)
    assert measured.rank_at[1] == 1
    assert measured.threshold_at_fpir[1e-1] == pytest.approx(np.sqrt(1 / 2), abs=1e-6)
    assert measured.tpir_at_fpir[1e-1] == 1


def test_intervals_draw_strangers_again_too():
    probes, labels, gallery, gallery_labels = problem(2)
    measured = identification(probes, labels, gallery, gallery_labels, fpirs=[1e-1], bootstrap=Bootstrap(1000))
    scores = rounded_scores(probes, gallery, gallery_labels)
    mated, nearest = labels < ENROLLED, scores.max(axis=1)
    is_own = scores.argmax(axis=1) == labels
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(500):
        weight = np.bincount(rng.integers(0, 30, 30), minlength=30)
        copies = np.repeat(np.arange(PROBES), weight[labels])
        strangers = np.sort(nearest[copies[~mated[copies]]])[::-1]
        threshold = strangers[int(0.1 * len(strangers))]
        drawn.append((is_own & (nearest > threshold))[copies[mated[copies]]].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    ours = measured.intervals["tpir_at_fpir[0.1]"]
    assert ours == (pytest.approx(low, abs=0.12 * (high - low)), pytest.approx(high, abs=0.12 * (high - low)))
