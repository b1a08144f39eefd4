"""Programs as ONNX, converted from their StableHLO.

StableHLO's operations are few and stay compatible for years, unlike JAX's primitives: a network's arithmetic may be
rewritten freely. jax2onnx 0.17.1 cannot do this here: it requires orbax-checkpoint below 0.11.37, and while it traces,
it replaces functions of jax.numpy, so that `jnp.shape(x) != ()` of a traced array fails in our own checks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

from jaxnets.export.onnx.graph import Graph, Operation, Shape, Unsupported, Value, constant
from jaxnets.export.onnx.operators import OPERATORS
from jaxnets.export.program import Program

# The element types of StableHLO that ONNX's operators here take.
DTYPES = {
    **{f"i{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"ui{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "i1": np.dtype(bool),
    "bf16": jnp.dtype("bfloat16"),
}


def export_onnx(program: Program) -> bytes:
    """The program as an ONNX model, as `onnx.load_from_string` or an `onnxruntime.InferenceSession` takes it.

    Its input is `images`, uint8 [N, H, W, C] in 0 … 255, for any N; its output has the name of the program's. Numbers
    that depend on weights alone are computed here: BatchNorm's factor is one, class weights are of unit length.

    Raises:
      ImportError: without the package onnx, which the extra [onnx] installs.
      NotImplementedError: for an operation that no network of this project has, named; or for a model of 2 GiB or
        more.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError("ONNX needs the package onnx: pip install 'jaxnets[onnx]'", name="onnx") from error

    exported = program.lowered(("cpu",))
    [aval] = exported.out_avals
    graph = Graph()
    images = Value("images", (None, *program.image_shape))
    arguments = [constant(np.asarray(leaf)) for leaf in jax.tree.leaves(program.weights)]
    # Weights that the program does not use are no arguments of its StableHLO.
    arguments = [[*arguments, images][i] for i in exported.module_kept_var_idx]
    try:
        with ir.Context() as context:
            stablehlo.register_dialect(context)
            module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
            functions = {
                ir.StringAttr(function.attributes["sym_name"]).value: function for function in module.body.operations
            }
            [result] = _called(graph, functions, "main", arguments)
        shape = tuple(length if isinstance(length, int) else None for length in aval.shape)
        result = graph.whole(result, shape)
        return graph.model(program.image_shape, result, program.output, [str(length) for length in aval.shape])
    except Unsupported as unsupported:
        raise NotImplementedError(f"cannot export to ONNX: {unsupported} is not supported") from None


def _called(graph: Graph, functions: Mapping[str, Any], name: str, arguments: Sequence[Value]) -> list[Value]:
    """Adds the nodes of one of the module's functions, and returns its results."""
    [block] = functions[name].regions[0].blocks
    values = dict(zip(block.arguments, arguments, strict=True))
    for node in block.operations:
        inputs = [values[operand] for operand in node.operands]
        match node.operation.name:
            case "func.return":
                return inputs
            case "func.call":
                outputs = _called(graph, functions, ir.FlatSymbolRefAttr(node.attributes["callee"]).value, inputs)
            case "stablehlo.composite":  # a function that platforms may know better
                inner = ir.FlatSymbolRefAttr(node.attributes["decomposition"]).value
                outputs = _called(graph, functions, inner, inputs)
            case "stablehlo.constant":
                outputs = [_constant(node)]
            case "stablehlo.custom_call" if "shape_assertion" in str(node.attributes["call_target_name"]):
                outputs = []
            case _:
                outputs = [_converted(graph, node, inputs)]
        values.update(zip(node.results, outputs, strict=True))
    raise AssertionError(f"the function {name} returns nothing")


def _converted(graph: Graph, node: Any, inputs: Sequence[Value]) -> Value:
    name = node.operation.name.removeprefix("stablehlo.")
    if name not in OPERATORS or len(node.results) != 1:
        several = " of several results" if name in OPERATORS else ""
        raise Unsupported(f"StableHLO's operation {name}{several}")
    shapes, dtypes = zip(*(_type(operand) for operand in node.operands), strict=True) if inputs else ((), ())
    shape, dtype = _type(node.results[0])
    attributes = {key: _attribute(key, node.attributes[key]) for key in node.attributes}
    operation = Operation(name, attributes, shapes, dtypes, shape, dtype, _reduction(node))
    return OPERATORS[name](graph, operation, *inputs)


def _type(value: Any) -> tuple[Shape, np.dtype]:
    type_ = ir.RankedTensorType(value.type)
    if str(type_.element_type) not in DTYPES:
        raise Unsupported(f"an array of {type_.element_type}")
    shape = tuple(None if type_.is_dynamic_dim(axis) else type_.get_dim_size(axis) for axis in range(type_.rank))
    return shape, DTYPES[str(type_.element_type)]


def _constant(node: Any) -> Value:
    shape, dtype = _type(node.results[0])
    array = np.array(ir.DenseElementsAttr(node.attributes["value"]))
    return constant(array.astype(dtype, copy=False).reshape([int(length or 0) for length in shape]))


def _attribute(name: str, attribute: Any) -> Any:
    """Numbers, lists of numbers and words; of a convolution the order of axes in images, kernel and result."""
    match name:
        case "dimension_numbers":
            axes = stablehlo.ConvDimensionNumbers(attribute)
            return (
                [axes.input_batch_dimension, axes.input_feature_dimension, *axes.input_spatial_dimensions],
                [
                    axes.kernel_output_feature_dimension,
                    axes.kernel_input_feature_dimension,
                    *axes.kernel_spatial_dimensions,
                ],
                [axes.output_batch_dimension, axes.output_feature_dimension, *axes.output_spatial_dimensions],
            )
        case "dot_dimension_numbers":
            pairs = stablehlo.DotDimensionNumbers(attribute)
            return (
                pairs.lhs_contracting_dimensions,
                pairs.rhs_contracting_dimensions,
                pairs.lhs_batching_dimensions,
                pairs.rhs_batching_dimensions,
            )
        case "comparison_direction" | "compare_type":
            return str(attribute).removesuffix(">").rsplit(" ", 1)[-1]
        case "padding":
            return np.array(ir.DenseElementsAttr(attribute)).tolist()
    match attribute:
        case ir.DenseI64ArrayAttr():
            return list(attribute)
        case ir.IntegerAttr():
            return attribute.value
    return None


def _reduction(node: Any) -> str | None:
    """The one operation of a reduction's body, where that is all there is to it."""
    if not node.regions:
        return None
    body = [inner.operation.name.removeprefix("stablehlo.") for inner in node.regions[0].blocks[0].operations]
    return body[0] if body[1:] == ["return"] else None
