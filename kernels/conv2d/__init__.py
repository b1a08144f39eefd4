"""Two-dimensional convolution, with lowerings that make it fast on a CPU."""

from kernels.conv2d.api import Implementation as Implementation
from kernels.conv2d.api import Layout as Layout
from kernels.conv2d.api import conv2d as conv2d
