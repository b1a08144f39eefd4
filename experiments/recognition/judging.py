"""How good embeddings are for identities that training never saw: all figures, of one set of pictures."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from experiments.run.terminal import UserError, as_user_error
from jaxnets.data.dataset import GivenPairs, Sources
from jaxnets.recognition import Bootstrap, Identification, Retrieval, Verification, identification, retrieval
from jaxnets.recognition import verification as verify

ENROLLED = 0.75  # of the identities; pictures of the others are probes without a mate
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Roles(NamedTuple):
    """For identification: the one picture that enrols each identity, and all other pictures, the probes."""

    gallery: Int[np.ndarray, "G"]
    probes: Int[np.ndarray, "P"]

    @classmethod
    def of(cls, labels: Int32[np.ndarray, "N"], sources: Sources | None = None) -> "Roles":
        """The same for the same labels, whatever the run's seed; identities of one picture are not enrolled.

        Raises:
          UserError: where fewer than two identities have two pictures, of which one may enrol.
        """
        may_enrol = np.ones(len(labels), bool) if sources is None else sources.enrols[sources.of_test]
        present, counts = np.unique(labels, return_counts=True)
        repeated = np.intersect1d(present[counts > 1], labels[may_enrol])
        if len(repeated) < 2:
            which = "two pictures" if may_enrol.all() else "a picture in the gallery, and another"
            raise UserError(f"fewer than two identities of the test have {which}: there is nothing to compare")
        rng = np.random.RandomState(0)  # the one generator whose numbers NumPy promises never to change
        enrolled = rng.permutation(repeated)[: max(2, round(ENROLLED * len(repeated)))]
        order = rng.permutation(len(labels))
        order = order[may_enrol[order]]
        _, first = np.unique(labels[order], return_index=True)
        gallery = np.sort(order[first[np.isin(labels[order[first]], enrolled)]])
        return cls(gallery, np.setdiff1d(np.arange(len(labels)), gallery))


@dataclasses.dataclass(frozen=True)
class BySource:
    """Of each source that has probes with a mate, the share whose own identity is nearest, and how many they are."""

    rank_1: dict[str, float]
    num_with_mate: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Judgement(NamedTuple):
    """Reports; `pairs` is the verification of given pairs, if there are any, and `by_source` needs sources."""

    retrieval: Retrieval
    verification: Verification
    identification: Identification
    pairs: Verification | None
    by_source: BySource | None

    def as_dict(self) -> dict[str, Any]:
        """Every figure with its interval, as JSON can hold it."""
        return {kind: report.as_dict() for kind, report in self._asdict().items() if report is not None}


def judge(
    embeddings: Float[np.ndarray, "N D"],
    labels: Int32[np.ndarray, "N"],
    bootstrap: Bootstrap | None,
    pairs: GivenPairs | None = None,
    sources: Sources | None = None,
) -> Judgement:
    """Leave-one-out retrieval, verification of all pairs and of given ones, and identification by `Roles`.

    Raises:
      UserError: for embeddings without a direction.
    """
    roles = Roles.of(labels, sources)
    with as_user_error(ValueError):
        return Judgement(
            retrieval(embeddings, labels, bootstrap=bootstrap),
            verify(embeddings, labels, fars=FARS, bootstrap=bootstrap),
            identification(
                embeddings[roles.probes],
                labels[roles.probes],
                embeddings[roles.gallery],
                labels[roles.gallery],
                bootstrap=bootstrap,
            ),
            None
            if pairs is None
            else verify(embeddings, labels, pairs=pairs.indices, folds=pairs.folds, fars=FARS, bootstrap=bootstrap),
            None if sources is None else _by_source(embeddings, labels, roles, sources),
        )


def _by_source(
    embeddings: Float[np.ndarray, "N D"], labels: Int32[np.ndarray, "N"], roles: Roles, sources: Sources
) -> BySource:
    with_mate = roles.probes[np.isin(labels[roles.probes], labels[roles.gallery])]
    gallery = embeddings[roles.gallery], labels[roles.gallery]
    rank_1, num_with_mate = {}, {}
    for number, name in enumerate(sources.names):
        probes = with_mate[sources.of_test[with_mate] == number]
        if len(probes):
            found = identification(embeddings[probes], labels[probes], *gallery, ranks=(1,), bootstrap=None)
            rank_1[name], num_with_mate[name] = float(found.cmc[0]), len(probes)
    return BySource(rank_1, num_with_mate)
