"""Inference as a program of its own: StableHLO for what runs JAX or XLA, ONNX for what does not.

>>> program = scores(create("v1_2_3"), variables, (28, 28, 1), class_weights)
>>> Path("v1_2_3.stablehlo").write_bytes(export_stablehlo(program))
>>> Path("v1_2_3.onnx").write_bytes(export_onnx(program))

Both take pixels as image files hold them, uint8 [N, H, W, C] in 0 … 255, for any N: ÷255 is in the program, where
nobody forgets it. Weights are in it too, in float32. On whichever platform it was exported, it is the same program.
"""

from jaxnets.export.onnx import export_onnx
from jaxnets.export.program import Program, embeddings, scores
from jaxnets.export.stablehlo import export_stablehlo, load_stablehlo

__all__ = ["Program", "embeddings", "export_onnx", "export_stablehlo", "load_stablehlo", "scores"]
