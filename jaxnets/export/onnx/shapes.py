"""StableHLO's operations on shapes in ONNX's terms, one function each: (graph, operation, inputs) -> output."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxnets.export.onnx.graph import Graph, Operation, Shape, Unsupported, Value, constant, onnx_type


def broadcast_in_dim(graph: Graph, operation: Operation, x: Value, sizes: Value | None = None) -> Value:
    shape: list[int | None] = [1] * len(operation.shape)
    for axis, length in zip(operation.attributes["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = length
    y = _reshaped(graph, dataclasses.replace(x, sizes=None), tuple(shape))
    return dataclasses.replace(y, sizes=sizes if y.shape != operation.shape else None)


def reshape(graph: Graph, operation: Operation, x: Value, sizes: Value | None = None) -> Value:
    return _reshaped(graph, graph.whole(x, operation.shapes[0]), operation.shape, sizes)


def _reshaped(graph: Graph, x: Value, shape: Shape, sizes: Value | None = None) -> Value:
    if x.shape == shape and shape.count(None) <= 1:
        return x
    if shape.count(None) > 1:
        if sizes is None:
            raise Unsupported("a broadcast of two lengths that depend on the number of images")
        wanted = graph.add("Cast", sizes, shape=(len(shape),), to=onnx_type(np.int64))
        return graph.add("Reshape", x, wanted, shape=shape, allowzero=1)
    lengths = np.array([-1 if length is None else length for length in shape], np.int64)
    return graph.add("Reshape", x, constant(lengths), shape=shape)


def transpose(graph: Graph, operation: Operation, x: Value) -> Value:
    return transposed(graph, graph.whole(x, operation.shapes[0]), operation.attributes["permutation"])


def transposed(graph: Graph, x: Value, order: Sequence[int]) -> Value:
    if list(order) == sorted(order):
        return x
    return graph.add("Transpose", x, shape=tuple(x.shape[axis] for axis in order), perm=list(order))


def slice_(graph: Graph, operation: Operation, x: Value) -> Value:
    limits = (operation.attributes[name] for name in ("start_indices", "limit_indices", "strides"))
    return sliced(graph, operation, x, *(constant(np.array(numbers, np.int64)) for numbers in limits))


def sliced(graph: Graph, operation: Operation, x: Value, starts: Value, limits: Value, strides: Value) -> Value:
    """Limits of integers that are constants or depend on the number of images."""
    axes = constant(np.arange(len(operation.shape), dtype=np.int64))
    begins, ends, steps = (
        graph.add("Cast", numbers, shape=numbers.shape, to=onnx_type(np.int64)) for numbers in (starts, limits, strides)
    )
    x = graph.whole(x, operation.shapes[0])
    return graph.add("Slice", x, begins, ends, axes, steps, shape=operation.shape)


def concatenate(graph: Graph, operation: Operation, *inputs: Value) -> Value:
    parts = [graph.whole(value, shape) for value, shape in zip(inputs, operation.shapes, strict=True)]
    return graph.add("Concat", *parts, shape=operation.shape, axis=operation.attributes["dimension"])


def pad(graph: Graph, operation: Operation, x: Value, filling: Value) -> Value:
    if any(operation.attributes["interior_padding"]):
        raise Unsupported("padding between elements")
    pads = np.array([*operation.attributes["edge_padding_low"], *operation.attributes["edge_padding_high"]], np.int64)
    return graph.add("Pad", graph.whole(x, operation.shapes[0]), constant(pads), filling, shape=operation.shape)


def iota(graph: Graph, operation: Operation, sizes: Value | None = None) -> Value:
    axis = operation.attributes["iota_dimension"]
    length = operation.shape[axis]
    if length is None:
        raise Unsupported("counting the images")
    shape = [length if i == axis else 1 for i in range(len(operation.shape))]
    numbers = np.arange(length).astype(operation.dtype).reshape(shape)
    return dataclasses.replace(constant(numbers), sizes=sizes if numbers.shape != operation.shape else None)


def dimension(graph: Graph, operation: Operation, x: Value) -> Value:
    axis = operation.attributes["dimension"]
    shape = graph.add("Shape", graph.whole(x, operation.shapes[0]), shape=(1,), start=axis, end=axis + 1)
    length = graph.add("Reshape", shape, constant(np.array([], np.int64)), shape=())
    return graph.add("Cast", length, shape=(), to=onnx_type(operation.dtype))
