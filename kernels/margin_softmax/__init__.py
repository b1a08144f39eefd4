"""Softmax cross-entropy over scaled cosines, with a margin on the target class."""

from kernels.margin_softmax.api import margin_softmax as margin_softmax
from kernels.margin_softmax.checks import Implementation as Implementation
from kernels.margin_softmax.checks import MarginGrad as MarginGrad
from kernels.margin_softmax.nearest import nearest_classes as nearest_classes
from kernels.margin_softmax.negative_sampling import Drawn as Drawn
from kernels.margin_softmax.reference import HardNegatives as HardNegatives
from kernels.margin_softmax.sharded import sharded_margin_softmax as sharded_margin_softmax
from kernels.margin_softmax.shares import draw_classes as draw_classes
from kernels.margin_softmax.shares import gather_rows as gather_rows
from kernels.margin_softmax.shares import num_classes_here as num_classes_here
from kernels.margin_softmax.shares import own_labels as own_labels
from kernels.margin_softmax.shares import own_rows as own_rows
from kernels.margin_softmax.shares import sharded_nearest_classes as sharded_nearest_classes
from kernels.varying import Axes as Axes
