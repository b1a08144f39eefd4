"""The visible separation of a two-dimensional scatter of embeddings, as numbers.

An angular-margin classifier reads only directions, so an embedding x becomes u = x/‖x‖, a point on the unit circle,
and a class weight becomes a ray. Everything below is unchanged by a rotation of the plane and by any positive
scaling of single vectors. Arithmetic is NumPy's, in float64, whatever the dtype of the inputs.

Two dimensions only: on a circle each class has two neighbours and a best possible gap to them, 360°/C. A sphere has
neither, and would need another kind of verdict.
"""

import dataclasses
import math
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Complex, Float, Integer, Real
from numpy.typing import ArrayLike

Verdict: TypeAlias = Literal["separated", "overlapping", "collapsed", "diverged"]

# Class weights closer than this share of the ideal gap count as one direction (9° for ten classes). In trial runs, good
# ones kept every gap above 28° and middling ones above 11°; collapsed ones had gaps of 0°.
MERGED_GAP = 0.25
# A direction is in use if it is the nearest one for at least this share of N/C points, the mean size of a class.
IN_USE = 0.25
# With k of C directions in use the accuracy is at most k/C. A half lies between trial runs that collapsed (10-40 %) and
# trial runs that only started slowly (45 % after one epoch, 77 % after two).
COLLAPSED_DIRECTIONS = 0.5
# The three tests of "separated". Good trial runs: accuracy 97-98 %, gaps 28°-42°. Two classes that share a petal cost
# at most a tenth of the points, and fewer if one class is rare: accuracy alone would pass such a picture, the overlap
# of the worst class does not.
SEPARATED_ACCURACY = 0.95
SEPARATED_OVERLAP = 0.1
SEPARATED_GAP = 0.5
# The spread of a class is this percentile of its points' angles: the petal, without its stray digits.
SPREAD_PERCENTILE = 90.0
# Below this, a resultant or a difference of cosines is rounding.
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Separability:
    """How well C classes are told apart by direction; angles in degrees, shares between 0 and 1.

    When the verdict is "diverged", shares, angles and ratio are NaN and `directions_in_use` is 0.

    Attributes:
        verdict: "diverged": some number is not finite. "collapsed": at most half as many directions are in use as
            classes are present. "separated": accuracy of 95 % or more, no class with more than a tenth of its points
            overlapping, and no gap below half the ideal. "overlapping": anything else, untrained networks too.
        accuracy: share of points whose nearest class weight, by cosine and without margin, is their own. The first
            class wins a tie. Chance is 1/C.
        smallest_gap_degrees, largest_gap_degrees: between neighbouring class weights around the circle; ideally both
            360/C. A class weight of zero has no direction, and makes the smallest gap 0.
        directions_in_use: groups of class weights at least a quarter of the ideal gap apart that are nearest for at
            least 1/(4C) of the points.
        spread_degrees: per class, the 90th percentile of the angle between a point and the class's mean direction,
            arg Σu. A point at the origin is 180° off, and so is every point of a class whose Σu vanishes. NaN where
            a class has no points; 0 where it has one.
        mean_spread_degrees, largest_spread_degrees: over the classes present.
        overlap: share of points at least as near in angle to another class's mean direction as to their own.
        largest_overlap: the same share within the class that has most of it.
        fisher_ratio: Σ_c n_c‖m_c − m‖² / Σ_i ‖u_i − m_{y_i}‖², with m_c the mean of the u of class c, and m of all:
            chordal dispersion between classes over dispersion within classes. 0 if all points coincide, infinite if
            each class is one point and they differ.
        num_points, num_classes: N and C.
    """

    verdict: Verdict
    accuracy: float
    smallest_gap_degrees: float
    largest_gap_degrees: float
    directions_in_use: int
    spread_degrees: tuple[float, ...]
    mean_spread_degrees: float
    largest_spread_degrees: float
    overlap: float
    largest_overlap: float
    fisher_ratio: float
    num_points: int
    num_classes: int

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them: lists for tuples, None for numbers that are NaN or infinite."""

        def plain(value: object) -> object:
            if isinstance(value, tuple):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def separability(embeddings: ArrayLike, class_weights: ArrayLike, labels: ArrayLike) -> Separability:
    """Measures embeddings [N, 2] against class_weights [C, 2] (one row a class) and labels [N] in 0..C−1.

    >>> found = separability([[9, 0], [0, 5]], [[1, 0], [0, 1]], [0, 1])
    >>> found.accuracy, found.smallest_gap_degrees
    (1.0, 90.0)

    Raises:
        ValueError: the shapes disagree, the vectors are not two-dimensional, N is 0, C is below 2, or a label is out
            of range.
    """
    embeddings = np.asarray(embeddings, np.float64)
    class_weights = np.asarray(class_weights, np.float64)
    labels = np.asarray(labels)
    _check_shapes(embeddings, class_weights, labels)
    num_points, num_classes = len(embeddings), len(class_weights)
    if not (np.isfinite(embeddings).all() and np.isfinite(class_weights).all()):
        nan = math.nan
        none = (nan,) * num_classes
        return Separability("diverged", nan, nan, nan, 0, none, nan, nan, nan, nan, nan, num_points, num_classes)

    points, rays = directions(embeddings), directions(class_weights)
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0

    cosines = _cosines(points, rays)
    nearest = cosines.argmax(axis=1)
    decided = (points != 0) & np.isfinite(cosines.max(axis=1))
    accuracy = float(np.mean(decided & (nearest == labels)))
    gaps = neighbour_gaps(rays)
    in_use = _directions_in_use(rays, nearest[decided], num_points)

    means = _class_means(points, labels, counts)
    mean_rays = np.where(np.abs(means) > ROUNDING, means / np.maximum(np.abs(means), ROUNDING), 0)
    spread = _spreads(points, mean_rays, labels)
    overlapping = _nearer_to_another(points, mean_rays, labels)
    overlaps = np.bincount(labels, weights=overlapping, minlength=num_classes)[present] / counts[present]

    ideal = 2 * math.pi / num_classes
    separated = (
        accuracy >= SEPARATED_ACCURACY and np.max(overlaps) <= SEPARATED_OVERLAP and gaps.min() >= SEPARATED_GAP * ideal
    )
    verdict: Verdict = "separated" if separated else "overlapping"
    if in_use <= COLLAPSED_DIRECTIONS * present.sum():
        verdict = "collapsed"
    return Separability(
        verdict=verdict,
        accuracy=accuracy,
        smallest_gap_degrees=math.degrees(gaps.min()),
        largest_gap_degrees=math.degrees(gaps.max()),
        directions_in_use=in_use,
        spread_degrees=tuple(np.degrees(spread).tolist()),
        mean_spread_degrees=math.degrees(spread[present].mean()),
        largest_spread_degrees=math.degrees(spread[present].max()),
        overlap=float(overlapping.mean()),
        largest_overlap=float(np.max(overlaps)),
        fisher_ratio=_fisher_ratio(points, means, labels, counts),
        num_points=num_points,
        num_classes=num_classes,
    )


def directions(vectors: Real[np.ndarray, "N 2"]) -> Complex[np.ndarray, "N"]:
    """The unit complex number x/‖x‖ of each finite vector; 0 for a zero vector."""
    vectors = np.asarray(vectors, np.float64)
    # Divided by the largest coordinate first: the norms of an exploding run would overflow when squared.
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    vectors = vectors / np.where(largest > 0, largest, 1)
    numbers = vectors[:, 0] + 1j * vectors[:, 1]
    norms = np.abs(numbers)
    return numbers / np.where(norms > 0, norms, 1)


def neighbour_gaps(rays: Complex[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
    """Angles in radians from each ray to the next, counter-clockwise; they sum to 2π. A zero ray adds a gap of 0."""
    angles = np.sort(np.angle(rays[rays != 0]))
    gaps = np.diff(angles, append=angles[:1] + 2 * math.pi) if len(angles) else np.array([2 * math.pi])
    missing = len(rays) - len(gaps)
    return np.concatenate([gaps, np.zeros(missing)])


def _check_shapes(embeddings: np.ndarray, class_weights: np.ndarray, labels: np.ndarray) -> None:
    for name, array in (("embeddings", embeddings), ("class_weights", class_weights)):
        if array.ndim != 2 or array.shape[1] != 2:
            raise ValueError(f"separability is measured on a plane: {name} must be [_, 2], not {list(array.shape)}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"{len(embeddings)} embeddings need as many labels, not {list(labels.shape)}")
    if not len(labels):
        raise ValueError("there are no points to measure")
    if len(class_weights) < 2:
        raise ValueError(f"there must be two classes or more, not {len(class_weights)}")
    if labels.min() < 0 or labels.max() >= len(class_weights):
        raise ValueError(f"labels must lie in 0..{len(class_weights) - 1}; got {labels.min()}..{labels.max()}")


def _cosines(points: Complex[np.ndarray, "N"], rays: Complex[np.ndarray, "C"]) -> Float[np.ndarray, "N C"]:
    """cos of the angle between each point and each ray; −∞ for a ray without direction, so that it is never nearest."""
    return np.where(rays == 0, -np.inf, np.real(points[:, None] * np.conj(rays)))


def _directions_in_use(rays: Complex[np.ndarray, "C"], nearest: Integer[np.ndarray, "M"], num_points: int) -> int:
    kept = np.flatnonzero(rays)
    if not len(kept):
        return 0
    order = kept[np.argsort(np.angle(rays[kept]), kind="stable")]
    breaks = neighbour_gaps(rays[order]) >= MERGED_GAP * 2 * math.pi / len(rays)
    # The last ray is the neighbour of the first: without a break between them their groups are one.
    group = np.zeros(len(rays), np.int64)
    group[order] = np.concatenate([[0], np.cumsum(breaks[:-1])]) % max(breaks.sum(), 1)
    won = np.bincount(group[nearest], minlength=1)
    return int((won >= IN_USE * num_points / len(rays)).sum())


def _class_means(
    points: Complex[np.ndarray, "N"], labels: Integer[np.ndarray, "N"], counts: Integer[np.ndarray, "C"]
) -> Complex[np.ndarray, "C"]:
    real, imaginary = (np.bincount(labels, weights=part, minlength=len(counts)) for part in (points.real, points.imag))
    return (real + 1j * imaginary) / np.maximum(counts, 1)


def _spreads(
    points: Complex[np.ndarray, "N"], mean_rays: Complex[np.ndarray, "C"], labels: Integer[np.ndarray, "N"]
) -> Float[np.ndarray, "C"]:
    turned = points * np.conj(mean_rays[labels])
    angles = np.where(turned == 0, math.pi, np.abs(np.angle(turned)))
    own = [angles[labels == c] for c in range(len(mean_rays))]
    return np.array([np.percentile(a, SPREAD_PERCENTILE) if len(a) else math.nan for a in own])


def _nearer_to_another(
    points: Complex[np.ndarray, "N"], mean_rays: Complex[np.ndarray, "C"], labels: Integer[np.ndarray, "N"]
) -> Bool[np.ndarray, "N"]:
    """Whether each point is at least as near to the mean direction of another class as to its own."""
    cosines = _cosines(points, mean_rays)
    rows = np.arange(len(points))
    own = cosines[rows, labels]
    cosines[rows, labels] = -np.inf
    return cosines.max(axis=1) >= own - ROUNDING


def _fisher_ratio(
    points: Complex[np.ndarray, "N"],
    means: Complex[np.ndarray, "C"],
    labels: Integer[np.ndarray, "N"],
    counts: Integer[np.ndarray, "C"],
) -> float:
    between = float(np.sum(counts * np.abs(means - points.mean()) ** 2))
    within = float(np.sum(np.abs(points - means[labels]) ** 2))
    rounding = ROUNDING * len(points)
    if within > rounding:
        return between / within
    return math.inf if between > rounding else 0.0
