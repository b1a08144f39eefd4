"""Weights that travel both ways between PyTorch and Flax, bit for bit, without PyTorch installed.

>>> variables = from_torch("v1_2_3", "v1_2_3.pth")  # or a .safetensors file, or a state dict
>>> embeddings = jaxnets.create("v1_2_3").apply(variables, images, train=False)
>>> save("v1_2_3.safetensors", "v1_2_3", variables)  # or .pth, where PyTorch is installed

Names are torchvision's for the networks it has and the study's own for the rest. An array keeps the dtype that it is
stored in, float16, bfloat16 and float64 too, and is NumPy's: JAX makes float32 of a float64 one unless told otherwise.
"""

from jaxnets.torch_weights.files import read
from jaxnets.torch_weights.state_dict import from_torch, save, to_torch

__all__ = ["from_torch", "read", "save", "to_torch"]
