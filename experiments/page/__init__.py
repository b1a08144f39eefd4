"""Pages to look into: each one HTML file that is opened from the disk, arrays in, bytes out."""

from experiments.page.classifiers import Network, classifier_page, networks_page
from experiments.page.embeddings import Frame, Run, run_page, spread, variants_page

__all__ = ["Frame", "Network", "Run", "classifier_page", "networks_page", "run_page", "spread", "variants_page"]
