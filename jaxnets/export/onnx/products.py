"""StableHLO's products and reductions in ONNX's terms, one function each: (graph, operation, inputs) -> output."""

import math
import string
from collections.abc import Sequence

import numpy as np

from jaxnets.export.onnx import shapes
from jaxnets.export.onnx.graph import Graph, Operation, Unsupported, Value, constant

# Each with the number that it starts from.
REDUCTIONS = {
    "add": ("ReduceSum", 0.0),
    "multiply": ("ReduceProd", 1.0),
    "maximum": ("ReduceMax", -math.inf),
    "minimum": ("ReduceMin", math.inf),
}


def reduce(graph: Graph, operation: Operation, x: Value, *more: Value) -> Value:
    if operation.reduction not in REDUCTIONS or len(more) != 1 or not np.issubdtype(operation.dtype, np.floating):
        raise Unsupported("a reduction other than sum, product, maximum and minimum of floating-point numbers")
    operator, neutral = REDUCTIONS[operation.reduction]
    _check_start(more[0], neutral)
    x, axes = graph.whole(x, operation.shapes[0]), operation.attributes["dimensions"]
    if operator == "ReduceSum":  # whose axes are an input in this version of ONNX
        return graph.add(operator, x, constant(np.array(axes, np.int64)), shape=operation.shape, keepdims=0)
    return graph.add(operator, x, shape=operation.shape, axes=list(axes), keepdims=0)


def _check_start(start: Value, neutral: float) -> None:
    if not isinstance(start.content, np.ndarray) or start.content.item() != neutral:
        raise Unsupported("a reduction that starts from an element of its own")


def dot(graph: Graph, operation: Operation, x: Value, y: Value) -> Value:
    x, y = graph.whole(x, operation.shapes[0]), graph.whole(y, operation.shapes[1])
    of_x, of_y, batch_of_x, batch_of_y = operation.attributes["dot_dimension_numbers"]
    if len(x.shape) == len(y.shape) == 2 and len(of_x) == 1:
        x = shapes.transposed(graph, x, (0, 1) if of_x[0] == 1 else (1, 0))
        y = shapes.transposed(graph, y, (0, 1) if of_y[0] == 0 else (1, 0))
        return graph.add("MatMul", x, y, shape=operation.shape)
    letters = iter(string.ascii_lowercase)
    names_of_x, names_of_y = [next(letters) for _ in x.shape], [next(letters) for _ in y.shape]
    for axis_of_x, axis_of_y in zip((*of_x, *batch_of_x), (*of_y, *batch_of_y), strict=True):
        names_of_y[axis_of_y] = names_of_x[axis_of_x]
    free_of_x = [name for i, name in enumerate(names_of_x) if i not in (*of_x, *batch_of_x)]
    free_of_y = [name for i, name in enumerate(names_of_y) if i not in (*of_y, *batch_of_y)]
    result = [*(names_of_x[i] for i in batch_of_x), *free_of_x, *free_of_y]
    formula = f"{''.join(names_of_x)},{''.join(names_of_y)}->{''.join(result)}"
    return graph.add("Einsum", x, y, shape=operation.shape, equation=formula)


def convolution(graph: Graph, operation: Operation, x: Value, kernel: Value) -> Value:
    attributes = operation.attributes
    dilated = any(number != 1 for number in attributes.get("lhs_dilation", ()))
    if attributes["batch_group_count"] != 1 or dilated:
        raise Unsupported("a convolution in groups of images, or a transposed one")
    of_images, of_kernel, of_result = attributes["dimension_numbers"]
    axes = range(len(of_images) - 2)
    y = graph.add(
        "Conv",
        shapes.transposed(graph, graph.whole(x, operation.shapes[0]), of_images),
        shapes.transposed(graph, graph.whole(kernel, operation.shapes[1]), of_kernel),
        shape=tuple(operation.shape[axis] for axis in of_result),
        strides=list(attributes.get("window_strides", [1 for _ in axes])),
        pads=_pads(attributes.get("padding", [(0, 0) for _ in axes])),
        dilations=list(attributes.get("rhs_dilation", [1 for _ in axes])),
        group=attributes["feature_group_count"],
    )
    return shapes.transposed(graph, y, np.argsort(of_result).tolist())


def max_pool(graph: Graph, operation: Operation, x: Value, start: Value) -> Value:
    window = operation.attributes["window_dimensions"]
    strides = operation.attributes.get("window_strides", [1] * len(window))
    padding = operation.attributes.get("padding", [(0, 0)] * len(window))
    dilations = {*operation.attributes.get("base_dilations", ()), *operation.attributes.get("window_dilations", ())}
    pooled = [axis for axis, length in enumerate(window) if length > 1]
    others = [axis for axis in range(len(window)) if axis not in pooled]
    plain = len(others) == 2 and dilations <= {1} and all((strides[i], *padding[i]) == (1, 0, 0) for i in others)
    if operation.reduction != "maximum" or not plain:
        raise Unsupported("a reduction over windows other than max-pooling of images")
    _check_start(start, -math.inf)
    order = [*others, *pooled]
    y = graph.add(
        "MaxPool",
        shapes.transposed(graph, graph.whole(x, operation.shapes[0]), order),
        shape=tuple(operation.shape[axis] for axis in order),
        kernel_shape=[window[axis] for axis in pooled],
        strides=[strides[axis] for axis in pooled],
        pads=_pads([padding[axis] for axis in pooled]),
    )
    return shapes.transposed(graph, y, np.argsort(order).tolist())


def _pads(padding: Sequence[Sequence[int]]) -> list[int]:
    """The paddings before each axis, and then those after each."""
    return [before for before, _ in padding] + [after for _, after in padding]
