"""How good embeddings are for identities that training never saw: all figures, of one set of pictures."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from experiments.run.terminal import UserError, as_user_error
from jaxnets.data.dataset import GivenPairs
from jaxnets.recognition import Bootstrap, Identification, Retrieval, Verification, identification, retrieval
from jaxnets.recognition import verification as verify

ENROLLED = 0.75  # of the identities; pictures of the others are probes without a mate
FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


class Roles(NamedTuple):
    """For identification: the one picture that enrols each identity, and all other pictures, the probes."""

    gallery: Int[np.ndarray, "G"]
    probes: Int[np.ndarray, "P"]

    @classmethod
    def of(cls, labels: Int32[np.ndarray, "N"]) -> "Roles":
        """The same for the same labels, whatever the run's seed; identities of one picture are not enrolled.

        Raises:
          UserError: where fewer than two identities have two pictures.
        """
        present, counts = np.unique(labels, return_counts=True)
        repeated = present[counts > 1]
        if len(repeated) < 2:
            raise UserError("fewer than two identities of the test have two pictures: there is nothing to compare")
        rng = np.random.RandomState(0)  # the one generator whose numbers NumPy promises never to change
        enrolled = rng.permutation(repeated)[: max(2, round(ENROLLED * len(repeated)))]
        order = rng.permutation(len(labels))
        _, first = np.unique(labels[order], return_index=True)
        gallery = np.sort(order[first[np.isin(labels[order[first]], enrolled)]])
        return cls(gallery, np.setdiff1d(np.arange(len(labels)), gallery))


class Judgement(NamedTuple):
    """Reports; `pairs` is the verification of given pairs, if there are any."""

    retrieval: Retrieval
    verification: Verification
    identification: Identification
    pairs: Verification | None

    def as_dict(self) -> dict[str, Any]:
        """Every figure with its interval, as JSON can hold it."""
        return {kind: report.as_dict() for kind, report in self._asdict().items() if report is not None}


def judge(
    embeddings: Float[np.ndarray, "N D"],
    labels: Int32[np.ndarray, "N"],
    bootstrap: Bootstrap | None,
    pairs: GivenPairs | None = None,
) -> Judgement:
    """Leave-one-out retrieval, verification of all pairs and of given ones, and identification by `Roles`.

    Raises:
      UserError: for embeddings without a direction.
    """
    roles = Roles.of(labels)
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
        )
