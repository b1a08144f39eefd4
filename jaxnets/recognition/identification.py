"""Identification: which of N enrolled identities an embedding is of, if of any."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxnets.naming import quoted
from jaxnets.recognition.blocks.nearest import neighbours
from jaxnets.recognition.inputs import (
    Labels,
    Matrix,
    checked_embeddings,
    checked_gallery,
    checked_labels,
    checked_ranks,
)
from jaxnets.recognition.intervals import BOOTSTRAP, Bootstrap, Interval
from jaxnets.recognition.open_set import OpenSet
from jaxnets.recognition.report import Report, checked_rates, why_unstated
from jaxnets.recognition.templates import mean_templates
from jaxnets.recognition.ties import scores_of

FPIRS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10)
LONGEST_CMC = 50


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Identification(Report):
    """How well probes find their identity's template; a probe has a mate if its label is enrolled.

    Attributes:
      num_templates: enrolled identities.
      num_with_mate, num_without_mate: probes.
      rank_at: by k, the share of probes with a mate whose own template is among the k nearest.
      tpir_at_fpir: open-set, by false positive identification rate: at the threshold that only this share of the
        probes without a mate, at most, have a template above, the share of probes with a mate whose nearest template
        is their own and above it (ISO/IEC 19795-1; 1 − FNIR at rank 1). None where that would be fewer than ten
        false identifications (`not_stated`).
      threshold_at_fpir: that threshold; None likewise. An identification takes a score above it.
      cmc: cumulative match characteristic: rank_at of 1, 2, 3 and so on, to the fiftieth rank at most.
    """

    num_templates: int
    num_with_mate: int
    num_without_mate: int
    rank_at: Mapping[int, float | None]
    tpir_at_fpir: Mapping[float, float | None]
    threshold_at_fpir: Mapping[float, float | None]
    cmc: tuple[float, ...] = dataclasses.field(repr=False)

    def title(self) -> str:
        return (
            f"Identification: {self.num_with_mate:,} probes with a mate and {self.num_without_mate:,} without, among "
            f"{self.num_templates:,} templates"
        )


def identification(
    probes: Matrix,
    probe_labels: Labels,
    gallery: Matrix,
    gallery_labels: Labels,
    *,
    ranks: Sequence[int] | None = None,
    fpirs: Sequence[float] = FPIRS,
    bootstrap: Bootstrap | None = BOOTSTRAP,
    mesh: Mesh | None = None,
) -> Identification:
    """Compares each probe with a template of each enrolled identity: the mean of its unit embeddings.

    Ties are never in one's favour (`jaxnets.recognition.ties`): at one score other templates come before the own, and
    a probe must score above a probe without a mate to be told from it.

    Args:
      probes: [N, D], of any length.
      probe_labels: [N] integers or strings.
      gallery: [M, D], one example or more of each enrolled identity.
      gallery_labels: [M].
      ranks: the k of rank_at; None: 1, 5 and 10, up to the number of templates.
      fpirs: false positive identification rates.
      bootstrap: how intervals are made: of probes by their identities, with or without a mate; the gallery stays. None
        makes none.
      mesh: devices to share the probes.

    Raises:
      ValueError: the input does not fit, has numbers that are not finite, vectors of zeros, or an identity whose mean
        is zero; only one identity is enrolled; no probe has a mate; a rank is larger than the number of templates.
    """
    rows = checked_embeddings("probes", probes)
    enrolled = checked_gallery("gallery", gallery, rows, "probes")
    named = ("probe_labels", probe_labels, len(rows)), ("gallery_labels", gallery_labels, len(enrolled))
    (codes, gallery_codes), distinct = checked_labels(*named)
    present, template_of_example = np.unique(gallery_codes, return_inverse=True)
    if len(present) < 2:
        raise ValueError("only one identity is enrolled: whatever is nearest is it, and identification says nothing")
    checked_rates("false positive identification rates", fpirs)
    templates, vanishing = mean_templates(enrolled, template_of_example.astype(np.int32), len(present))
    if vanishing is not None:
        name = quoted(distinct[present[vanishing]])
        raise ValueError(f"gallery: the unit embeddings of label {name} have a mean of zero, and so no direction")
    ranks = checked_ranks("ranks", ranks, RANKS, len(present))
    has_mate = np.isin(codes, present)
    if not has_mate.any():
        raise ValueError("no probe has a mate: none of probe_labels is among gallery_labels")

    longest = max(min(LONGEST_CMC, len(present)), *ranks)
    found = list(neighbours(rows, templates, longest, labels=(codes, present.astype(np.int32)), mesh=mesh))
    hits = np.concatenate([present[part.indices] for part in found]) == codes[:, None]
    nearest = scores_of(np.concatenate([part.keys[:, 0] for part in found]))

    within = np.cumsum(hits[has_mate], axis=1)
    cmc = within.mean(axis=0)
    num_without = int((~has_mate).sum())
    reasons = {fpir: why_unstated(fpir, num_without, "probes without a mate") for fpir in fpirs}
    stated = [fpir for fpir in fpirs if not reasons[fpir]]
    open_set = OpenSet(hits[:, 0], nearest, has_mate, np.unique(codes, return_inverse=True)[1])
    tpirs, thresholds = open_set.figures(stated)
    tpir = dict(zip(stated, tpirs.tolist(), strict=True))
    threshold = dict(zip(stated, thresholds.tolist(), strict=True))
    intervals: dict[str, Interval] = {}
    if bootstrap is not None:
        mated, of_mated = np.unique(codes[has_mate], return_inverse=True)
        sums = np.stack([np.bincount(of_mated, within[:, k - 1], len(mated)) for k in ranks], axis=1)
        at_ranks = bootstrap.means(sums, np.bincount(of_mated).astype(np.float64))
        intervals |= {f"rank_at[{k}]": ends for k, ends in zip(ranks, at_ranks, strict=True)}
        if stated:
            at_fpirs = open_set.intervals(stated, bootstrap)
            intervals |= {f"tpir_at_fpir[{fpir:g}]": ends for fpir, ends in zip(stated, at_fpirs, strict=True)}
    return Identification(
        num_templates=len(present),
        num_with_mate=int(has_mate.sum()),
        num_without_mate=num_without,
        rank_at={k: float(cmc[k - 1]) for k in ranks},
        tpir_at_fpir={fpir: tpir.get(fpir) for fpir in fpirs},
        threshold_at_fpir={fpir: threshold.get(fpir) for fpir in fpirs},
        cmc=tuple(cmc.tolist()),
        intervals=intervals,
        not_stated={f"tpir_at_fpir[{fpir:g}]": reason for fpir, reason in reasons.items() if reason},
        confidence=bootstrap.confidence if bootstrap is not None else None,
    )
