"""How well embeddings tell apart classes that training never saw.

`retrieval` ranks examples, `verification` decides on pairs, `identification` finds enrolled identities: functions of
embeddings, in any framework's arrays that NumPy can read, and of labels. `nearest` is the search they are made of.
"""

from jaxnets.recognition.identification import Identification, identification
from jaxnets.recognition.intervals import Bootstrap
from jaxnets.recognition.retrieval import Retrieval, retrieval
from jaxnets.recognition.roc import Roc
from jaxnets.recognition.search import nearest
from jaxnets.recognition.verification import Verification, verification

__all__ = [
    "Bootstrap",
    "Identification",
    "Retrieval",
    "Roc",
    "Verification",
    "identification",
    "nearest",
    "retrieval",
    "verification",
]
