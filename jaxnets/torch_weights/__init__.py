"""Weights that travel both ways between PyTorch and Flax, bit for bit, without PyTorch installed.

>>> import pathlib, tempfile, jax, jaxnets
>>> image = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
>>> variables = jaxnets.create("mynn").lazy_init(jax.random.key(0), image, train=False)
>>> path = pathlib.Path(tempfile.mkdtemp()) / "mynn.safetensors"  # or .pth, where PyTorch is installed
>>> save(path, "mynn", variables)
>>> read(path)["model1.0.weight"].shape
(32, 3, 5, 5)
>>> from_torch("mynn", path)["params"]["model1_0"]["kernel"].shape
(5, 5, 3, 32)

Names are torchvision's and insightface's for the networks they have, and the study's own for the rest. An array keeps
its stored dtype, float16, bfloat16 and float64 too, and is NumPy's: JAX makes float32 of float64 unless told otherwise.
"""

from jaxnets.torch_weights.files import read
from jaxnets.torch_weights.state_dict import from_torch, save, to_torch

__all__ = ["from_torch", "read", "save", "to_torch"]
