"""Inference as a program of its own: StableHLO for JAX and XLA, ONNX for other runtimes.

>>> import jax, jaxnets
>>> model, image = jaxnets.create("mynn"), jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
>>> program = scores(model, model.lazy_init(jax.random.key(0), image), (8, 8, 3))
>>> onnx = export_onnx(program)
>>> run = load_stablehlo(export_stablehlo(program))
>>> run(jax.numpy.zeros((5, 8, 8, 3), "uint8")).shape
(5, 2)

Both take pixels as image files hold them, uint8 [N, H, W, C] in 0 … 255, for any N: the program divides by 255, so that
nobody forgets to. It has the weights, in float32, and is the same whichever platform exports it.
"""

from jaxnets.export.onnx import export_onnx
from jaxnets.export.program import Program, embeddings, scores
from jaxnets.export.stablehlo import export_stablehlo, load_stablehlo

__all__ = ["Program", "embeddings", "export_onnx", "export_stablehlo", "load_stablehlo", "scores"]
