"""Pages to look into: each one HTML file that is opened from the disk, arrays in, bytes out."""

from experiments.page.classifiers import Network, classifier_page, networks_page
from experiments.page.embeddings import Frame, Run, run_page, spread, variants_page
from experiments.page.recognition import Figure, Judged, margins_page, recognition_page

__all__ = [
    "Figure",
    "Frame",
    "Judged",
    "Network",
    "Run",
    "classifier_page",
    "margins_page",
    "networks_page",
    "recognition_page",
    "run_page",
    "spread",
    "variants_page",
]
