import concurrent.futures
import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.patches import Polygon
from PIL import Image

from jaxnets import figures
from jaxnets.figures.palette import TEN
from jaxnets.figures.plane import EDGE, spread_apart
from jaxnets.figures.unit_circle import angular_densities

DIGITS = [str(digit) for digit in range(10)]


def petals(num_points=300, num_classes=10):
    noise = np.random.default_rng(0)
    labels = np.arange(num_points) % num_classes
    angles = 2 * np.pi * labels / num_classes + noise.normal(0, 0.08, num_points)
    embeddings = noise.uniform(5, 50, num_points) * np.exp(1j * angles)
    rays = np.exp(2j * np.pi * np.arange(num_classes) / num_classes)
    as_plane = lambda numbers: np.stack([numbers.real, numbers.imag], axis=1).astype(np.float32)  # noqa: E731
    return as_plane(embeddings), labels, as_plane(rays)


def panels(count):
    return [figures.Panel("v", *petals(), 0.9, "overlapping", "clearly separated") for _ in range(count)]


def one_of_each():
    embeddings, labels, class_weights = petals()
    for draw in (figures.scatter, figures.circle):
        yield draw(embeddings, labels, class_weights, classes=DIGITS, title="t", subtitle="s")
    yield figures.curves([{"epoch": 1, "train_loss": 1.0, "test_accuracy": 0.9}], title="t")
    yield figures.angle_histograms(embeddings, class_weights, labels, margin=0.3)
    yield figures.confusion(labels, labels[::-1], classes=DIGITS)
    yield figures.sheet(panels(3), classes=DIGITS, title="t")


def marked(axes, gid):
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def test_every_figure_is_the_same_png_twice():
    for first, second in zip(one_of_each(), one_of_each(), strict=True):
        drawn = figures.to_png(first)
        assert drawn == figures.to_png(second)
        with Image.open(io.BytesIO(drawn)) as image:
            assert image.format == "PNG"
            assert tuple(image.size) == tuple((first.get_size_inches() * 100 + 1e-6).astype(int))


def test_pixels_are_those_of_the_png():
    figure = figures.scatter(*petals(), classes=DIGITS)
    with Image.open(io.BytesIO(figures.to_png(figure))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), figures.to_pixels(figure))


def test_a_background_thread_draws_the_same():
    arrays, drawn = petals(), []
    draw = lambda: drawn.append(figures.to_png(figures.scatter(*arrays, classes=DIGITS)))  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        background.submit(draw).result()
    draw()
    assert drawn[0] == drawn[1]


def test_pyplot_stays_out():
    program = "import jaxnets.figures, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_scatter_draws_each_point_in_its_class_colour_and_each_ray_with_its_name():
    embeddings, labels, class_weights = petals()
    axes = figures.scatter(embeddings, labels, class_weights, classes=DIGITS).axes[0]
    assert len(axes.collections[0].get_offsets()) == len(embeddings)
    colours = {tuple(np.round(colour, 6)) for colour in axes.collections[0].get_facecolors()[:, :3]}
    assert colours == {tuple(np.round(colour, 6)) for colour in figures.class_colours(10)}
    rays = [np.array(line.get_xydata()[1]) for line in marked(axes, "ray")]
    directions = [ray / np.linalg.norm(ray) for ray in rays]
    assert min(map(np.linalg.norm, rays)) > np.linalg.norm(embeddings, axis=1).max(), "rays end beyond the points"
    np.testing.assert_allclose(directions, class_weights, atol=1e-6)
    names = marked(axes, "name")
    assert [name.get_text() for name in names] == DIGITS
    places = np.array([name.get_position() for name in names])
    np.testing.assert_allclose(places / np.linalg.norm(places, axis=1, keepdims=True), class_weights, atol=1e-6)


def test_an_outlier_does_not_shrink_the_scatter():
    embeddings, labels, class_weights = petals(1000)
    before = figures.scatter(embeddings, labels, class_weights, classes=DIGITS).axes[0].get_xlim()
    embeddings[:3] *= 1000
    figure = figures.scatter(embeddings, labels, class_weights, classes=DIGITS)
    assert figure.axes[0].get_xlim()[1] == pytest.approx(before[1], rel=0.1)
    assert "3 of 1,000 points lie further out and are not shown" in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(("radius", "said"), [(20, "10 and 20"), (35, "10, 20 and 30"), (0.011, "0.005 and 0.01")])
def test_rings_are_two_or_more_and_their_norms_are_said(radius, said):
    figure = figures.scatter(*petals(), classes=DIGITS, radius=radius)
    assert f"rings at norm {said}" in [text.get_text() for text in figure.texts]
    rings = [patch.get_radius() for patch in figure.axes[0].patches]
    assert f"{rings[-1]:g}" == said.split(" and ")[1] and len(rings) >= 2


def test_no_point_lies_where_names_are():
    embeddings, labels, class_weights = petals(1000)
    axes = figures.scatter(embeddings, labels, class_weights, classes=DIGITS, radius=40).axes[0]
    shown = np.linalg.norm(axes.collections[0].get_offsets(), axis=1)
    names = np.array([name.get_position() for name in marked(axes, "name")])
    assert 40 < shown.max() <= 1.02 * 40 < np.linalg.norm(names, axis=1).min()
    assert len(shown) == (np.linalg.norm(embeddings, axis=1) <= 1.02 * 40).sum()


def test_the_radius_sets_the_limits_and_is_one_for_nothing():
    axes = figures.scatter(*petals(), classes=DIGITS, radius=80).axes[0]
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-80 * EDGE, 80 * EDGE))
    norms = np.array([[1.0, 0]] * 100 + [[1.05, 0]])
    assert figures.scatter_radius(norms) == 1.05, "the largest, which is no outlier"
    assert figures.scatter_radius(np.zeros((3, 2))) == figures.scatter_radius(np.full((3, 2), np.nan)) == 1


def test_circle_writes_the_gaps_and_reddens_the_narrow_one():
    embeddings, labels, class_weights = petals()
    class_weights[1] = np.cos(np.radians(12)), np.sin(np.radians(12))
    axes = figures.circle(embeddings, labels, class_weights, classes=DIGITS).axes[0]
    gaps = {text.get_text(): text.get_color() for text in marked(axes, "gap")}
    assert sorted(gaps) == ["12°", "36°", "60°"]
    assert gaps["12°"] != gaps["36°"] == gaps["60°"]
    assert len(axes.collections[0].get_offsets()) == len(embeddings)
    assert len(marked(axes, "ray")) == len(marked(axes, "name")) == 10
    peaks = []  # of the densities: the corner furthest out
    for patch in axes.patches:
        if isinstance(patch, Polygon):
            corners = patch.get_xy()
            peaks.append(np.degrees(np.arctan2(*corners[np.linalg.norm(corners, axis=1).argmax()][::-1])) % 360)
    np.testing.assert_allclose(sorted(peaks), 36 * np.arange(10), atol=8)  # within what 30 points leave open


def test_densities_count_the_points_and_peak_where_they_lie():
    points = np.exp(1j * np.radians([90.25] * 30 + [359.75] * 12))
    density = angular_densities(points, np.array([0] * 30 + [1] * 12), 2)
    np.testing.assert_allclose(density.sum(axis=1), [30, 12], rtol=1e-6)
    assert density.argmax(axis=1).tolist() == [180, 719]
    np.testing.assert_allclose(density[1, 0], density[1, 718], rtol=1e-6)  # smoothed across the seam
    # A normal of 1.5°, three bins, has a peak of 1/(3·√(2π)), and at three bins from it e^(−½) of that.
    np.testing.assert_allclose(density[0, [180, 183]], 30 / 3 / np.sqrt(2 * np.pi) * np.exp([0, -0.5]), rtol=1e-3)


@pytest.mark.parametrize("spoil", ["nan", "huge", "zero", "coinciding", "none"])
def test_ruined_runs_are_drawn_too(spoil):
    embeddings, labels, class_weights = petals(60)
    embeddings, class_weights = embeddings.astype(np.float64), class_weights.astype(np.float64)
    if spoil == "nan":
        embeddings[:], class_weights[:] = np.nan, np.inf
    elif spoil == "huge":
        embeddings *= 1e36
    elif spoil == "zero":
        embeddings[:], class_weights[:] = 0, 0
    elif spoil == "coinciding":
        class_weights[:] = class_weights[0]
    else:
        embeddings, labels = embeddings[:0], labels[:0]
    figures.to_png(figures.scatter(embeddings, labels, class_weights, classes=DIGITS))
    figures.to_png(figures.circle(embeddings, labels, class_weights, classes=DIGITS))
    figures.to_png(figures.angle_histograms(embeddings, class_weights, labels, margin=0.2))
    figures.to_png(
        figures.sheet([figures.Panel("v", embeddings, labels, class_weights, np.nan, "diverged")], classes=DIGITS)
    )


@pytest.mark.parametrize("num_classes", [2, 10, 20, 40])
def test_every_class_has_a_colour_of_its_own(num_classes):
    colours = figures.class_colours(num_classes)
    assert colours.shape == (num_classes, 3)
    assert colours.min() >= 0 and colours.max() <= 1
    assert len(np.unique(np.round(colours * 255), axis=0)) == num_classes
    classes = [f"a long class name {c}" for c in range(num_classes)]
    embeddings, labels, class_weights = petals(200, num_classes)
    for draw in (figures.scatter, figures.circle):
        figure = draw(embeddings, labels, class_weights, classes=classes)
        names = marked(figure.axes[0], "name")
        assert len(names) == num_classes
        for name in names:
            box = name.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, f"{name.get_text()} leaves the page"


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def oklab(linear):
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_ten_colours_stay_apart_to_colour_blind_eyes(deficiency):
    colours = figures.class_colours(len(TEN))
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = oklab((linear @ np.transpose(DEFICIENCIES[deficiency])).clip(0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[~np.eye(len(seen), dtype=bool)]
    assert apart.min() > (0.2 if deficiency == "none" else 0.125)


def test_names_move_apart_but_keep_their_order():
    angles = np.radians([179, 180, -179.5, 10, 11])
    placed = spread_apart(angles, np.radians(10))
    in_order = np.sort(placed % (2 * np.pi))
    gaps = np.diff(in_order, append=in_order[0] + 2 * np.pi)
    assert np.degrees(gaps.min()) > 9.9
    np.testing.assert_array_equal(np.argsort(placed[:3] % (2 * np.pi)), [0, 1, 2])
    np.testing.assert_allclose(np.degrees(placed[3:]), [5.5, 15.5], atol=0.02)


def test_a_long_verdict_keeps_to_its_own_picture_and_lines():
    verdict = "classes never fully split; mid-training the picture explodes"
    long = dataclasses.replace(panels(1)[0], author_verdict=verdict)
    figure = figures.sheet([long, long], classes=DIGITS)
    figures.to_png(figure)
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert all(box.x1 < figure.bbox.x1 for box in boxes) and len(boxes) == 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (3, (1, 3)), (12, (3, 4))])
def test_sheet_is_four_wide_and_says_both_verdicts(count, shape):
    figure = figures.sheet(panels(count), classes=DIGITS, title="all")
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == count
    assert all(len(axes.collections[0].get_offsets()) == 300 for axes in figure.axes), "all points of so few"
    assert (len({round(box.y0, 6) for box in boxes}), len({round(box.x0, 6) for box in boxes})) == shape
    texts = [text.get_text() for text in figure.texts]
    for words in ("overlapping", "author: clearly separated", "90.00 %"):
        assert texts.count(words) == count


def test_animation_holds_its_last_frame_and_keeps_white_and_colours():
    embeddings, labels, class_weights = petals(1000)
    drawn = [
        figures.scatter(scale * embeddings, labels, class_weights, classes=DIGITS, title=f"epoch {scale}", radius=150)
        for scale in (1, 2, 3)
    ]
    frames = [figures.to_png(drawn[0]), *(figures.to_pixels(figure) for figure in drawn[1:])]
    movie = figures.animate(frames)
    assert movie == figures.animate(frames)
    with Image.open(io.BytesIO(movie)) as image:
        assert image.n_frames == 3
        assert image.info["loop"] == 0
        for index in range(3):
            image.seek(index)
            assert image.info["duration"] == (2500 if index == 2 else 500)
            shown = np.asarray(image.convert("RGB")).astype(int)
            wanted = figures.to_pixels(drawn[index]).astype(int)
            assert (shown[(wanted == 255).all(axis=2)] == 255).all()
            assert np.abs(shown - wanted).mean() < 1


def test_animation_refuses_nothing_and_unequal_sizes():
    with pytest.raises(ValueError, match="one frame or more"):
        figures.animate(iter([]))
    with pytest.raises(ValueError, match="differ in size"):
        figures.animate([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
