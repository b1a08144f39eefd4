"""Programs as ONNX."""

from jaxnets.export.onnx.model import export_onnx as export_onnx
