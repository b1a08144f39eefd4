"""JAX's operations in ONNX's terms, one function each: (graph, operation, inputs) -> output.

Where JAX broadcasts by an operation of its own, ONNX does it in passing. So a value may be smaller than JAX has it: a
length of 1 stands for any other, until an operation needs the value whole.
"""

import dataclasses
import string
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from jaxnets.export.onnx_graph import Graph

Shape: TypeAlias = tuple[int | str, ...]  # a string, "N" above all, for a length that the number of images decides


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A node's output."""

    name: str
    shape: Shape


Value: TypeAlias = Tensor | np.ndarray


@dataclasses.dataclass(frozen=True)
class Operation:
    """One of JAX's: its parameters, the shapes and dtypes of what it takes, and the shape of what it gives."""

    params: Mapping[str, Any]
    shapes: Sequence[Shape]
    dtypes: Sequence[np.dtype]
    shape: Shape


def lengths(shape: Sequence[Any]) -> Shape:
    """A shape as JAX has it, with a string for each symbol."""
    return tuple(length if isinstance(length, int) else str(length) for length in shape)


def is_known(shape: Sequence[Any]) -> bool:
    return all(isinstance(length, int) for length in shape)


def whole(graph: "Graph", value: Value, shape: Shape) -> Value:
    """The value in the shape that JAX gives it.

    Raises:
      NotImplementedError: where it would have to be repeated for each image.
    """
    if value.shape == shape:
        return value
    if not is_known(shape):
        raise NotImplementedError("ONNX is given no value that is repeated for each image")
    if isinstance(value, np.ndarray):
        return np.broadcast_to(value, [int(length) for length in shape])
    return graph.add("Expand", value, np.array(shape), shape=shape)


def _elementwise(operator: str) -> Callable[..., Value]:
    return lambda graph, operation, *inputs: graph.add(operator, *inputs, shape=_broadcast(*inputs))


def _broadcast(*values: Value) -> Shape:
    rank = max(len(value.shape) for value in values)
    shapes = [(1,) * (rank - len(value.shape)) + tuple(value.shape) for value in values]
    return tuple(next((length for length in of_axis if length != 1), 1) for of_axis in zip(*shapes, strict=True))


def _select(graph: "Graph", operation: Operation, which: Value, if_false: Value, if_true: Value) -> Value:
    if operation.dtypes[0] != np.dtype(bool):
        raise NotImplementedError("ONNX is given no choice by number")
    return graph.add("Where", which, if_true, if_false, shape=_broadcast(which, if_true, if_false))


def _power(graph: "Graph", operation: Operation, x: Value) -> Value:
    return graph.add("Pow", x, np.array(operation.params["y"], operation.dtypes[0]), shape=x.shape)


def _cast(graph: "Graph", operation: Operation, x: Value) -> Value:
    from onnx import helper

    dtype = np.dtype(operation.params["new_dtype"])
    if operation.dtypes[0] == dtype:
        return x
    return graph.add("Cast", x, shape=x.shape, to=helper.np_dtype_to_tensor_dtype(dtype))


def _broadcast_in_dim(graph: "Graph", operation: Operation, x: Value) -> Value:
    shape: list[int | str] = [1] * len(operation.shape)
    for axis, length in zip(operation.params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = length
    return _reshaped(graph, x, tuple(shape))


def _reshape(graph: "Graph", operation: Operation, x: Value) -> Value:
    return _reshaped(graph, whole(graph, x, operation.shapes[0]), operation.shape)


def _reshaped(graph: "Graph", x: Value, shape: Shape) -> Value:
    if x.shape == shape:
        return x
    sizes = [length if isinstance(length, int) else -1 for length in shape]
    if sizes.count(-1) > 1:
        raise NotImplementedError("ONNX is given no shape in which the number of images is found twice")
    return x.reshape(sizes) if isinstance(x, np.ndarray) else graph.add("Reshape", x, np.array(sizes), shape=shape)


def _transpose(graph: "Graph", operation: Operation, x: Value) -> Value:
    return _transposed(graph, x, operation.params["permutation"])


def _transposed(graph: "Graph", x: Value, order: Sequence[int]) -> Value:
    if list(order) == sorted(order):
        return x
    if isinstance(x, np.ndarray):
        return x.transpose(order)
    return graph.add("Transpose", x, shape=[x.shape[axis] for axis in order], perm=list(order))


def _slice(graph: "Graph", operation: Operation, x: Value) -> Value:
    [shape] = operation.shapes
    starts, limits = lengths(operation.params["start_indices"]), lengths(operation.params["limit_indices"])
    strides = operation.params["strides"] or (1,) * len(shape)
    cut = [i for i, n in enumerate(shape) if (starts[i], limits[i], strides[i]) != (0, n, 1)]
    begins, ends, steps = (np.array([numbers[i] for i in cut]) for numbers in (starts, limits, strides))
    return graph.add("Slice", whole(graph, x, shape), begins, ends, np.array(cut), steps, shape=operation.shape)


def _sum(graph: "Graph", operation: Operation, x: Value) -> Value:
    axes = np.array(operation.params["axes"])
    return graph.add("ReduceSum", whole(graph, x, operation.shapes[0]), axes, shape=operation.shape, keepdims=0)


def _maximum(graph: "Graph", operation: Operation, x: Value) -> Value:
    axes = list(operation.params["axes"])  # which are no input in this version of ONNX, as those of a sum are
    return graph.add("ReduceMax", whole(graph, x, operation.shapes[0]), shape=operation.shape, axes=axes, keepdims=0)


def _dot(graph: "Graph", operation: Operation, x: Value, y: Value) -> Value:
    x, y = whole(graph, x, operation.shapes[0]), whole(graph, y, operation.shapes[1])
    (of_x, of_y), (batch_of_x, batch_of_y) = operation.params["dimension_numbers"]
    if len(x.shape) == len(y.shape) == 2 and len(of_x) == 1:
        x = _transposed(graph, x, (0, 1) if of_x[0] == 1 else (1, 0))
        y = _transposed(graph, y, (0, 1) if of_y[0] == 0 else (1, 0))
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


def _convolution(graph: "Graph", operation: Operation, x: Value, kernel: Value) -> Value:
    params = operation.params
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise NotImplementedError("ONNX is given no convolution in groups of images, nor a transposed one")
    of_images, of_kernel, of_result = params["dimension_numbers"]
    y = graph.add(
        "Conv",
        _transposed(graph, whole(graph, x, operation.shapes[0]), of_images),
        _transposed(graph, whole(graph, kernel, operation.shapes[1]), of_kernel),
        shape=[operation.shape[axis] for axis in of_result],
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return _transposed(graph, y, np.argsort(of_result).tolist())


def _max_pool(graph: "Graph", operation: Operation, x: Value) -> Value:
    window, strides, padding = (operation.params[name] for name in ("window_dimensions", "window_strides", "padding"))
    pooled = [axis for axis, length in enumerate(window) if length > 1]
    others = [axis for axis in range(len(window)) if axis not in pooled]
    dilations = {*operation.params["base_dilation"], *operation.params["window_dilation"]}
    if len(others) != 2 or dilations != {1} or any((strides[i], *padding[i]) != (1, 0, 0) for i in others):
        raise NotImplementedError("ONNX is given no maximum over windows other than those of images")
    order = [*others, *pooled]
    y = graph.add(
        "MaxPool",
        _transposed(graph, whole(graph, x, operation.shapes[0]), order),
        shape=[operation.shape[axis] for axis in order],
        kernel_shape=[window[axis] for axis in pooled],
        strides=[strides[axis] for axis in pooled],
        pads=_pads([padding[axis] for axis in pooled]),
    )
    return _transposed(graph, y, np.argsort(order).tolist())


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """What comes before each axis, and then what comes after each."""
    return [before for before, _ in padding] + [after for _, after in padding]


OPERATORS: dict[str, Callable[..., Value]] = {
    "add": _elementwise("Add"),
    "sub": _elementwise("Sub"),
    "mul": _elementwise("Mul"),
    "div": _elementwise("Div"),
    "max": _elementwise("Max"),
    "min": _elementwise("Min"),
    "sqrt": _elementwise("Sqrt"),
    "gt": _elementwise("Greater"),
    "ge": _elementwise("GreaterOrEqual"),
    "le": _elementwise("LessOrEqual"),
    "select_n": _select,
    "integer_pow": _power,
    "convert_element_type": _cast,
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "reduce_sum": _sum,
    "reduce_max": _maximum,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
}
