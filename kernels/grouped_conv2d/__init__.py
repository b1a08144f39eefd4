"""Two-dimensional convolution in groups of channels, with a lowering that makes it fast on a CPU."""

from kernels.grouped_conv2d.api import Implementation as Implementation
from kernels.grouped_conv2d.api import grouped_conv2d as grouped_conv2d
