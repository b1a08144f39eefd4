"""Softmax cross-entropy over scaled cosines, with a margin on the target class."""

from kernels.margin_softmax.api import Implementation as Implementation
from kernels.margin_softmax.api import MarginGrad as MarginGrad
from kernels.margin_softmax.api import margin_softmax as margin_softmax
from kernels.margin_softmax.reference import HardNegatives as HardNegatives
