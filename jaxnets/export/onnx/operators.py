"""StableHLO's elementwise operations in ONNX's terms, and the table of all operations."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from jaxnets.export.onnx import products, shapes
from jaxnets.export.onnx.graph import Graph, Operation, Shape, Unsupported, Value, onnx_type

Convert: TypeAlias = Callable[..., Value]  # (graph, operation, inputs) -> output


def _elementwise(operator: str, for_booleans: str | None = None) -> Convert:
    def convert(graph: Graph, operation: Operation, *inputs: Value) -> Value:
        name = operator
        if operation.dtypes[-1] == np.bool_ and for_booleans is not None:
            name = for_booleans
        elif operator in ("And", "Or", "Xor", "Not") and operation.dtypes[-1] != np.bool_:
            raise Unsupported(f"{operation.name} of integers")
        return graph.add(name, *inputs, shape=_broadcast(*inputs))

    return convert


def _broadcast(*values: Value) -> Shape:
    rank = max(len(value.shape) for value in values)
    shapes = [(1,) * (rank - len(value.shape)) + value.shape for value in values]
    return tuple(next((length for length in of_axis if length != 1), 1) for of_axis in zip(*shapes, strict=True))


def _compare(graph: Graph, operation: Operation, x: Value, y: Value) -> Value:
    shape = _broadcast(x, y)
    if operation.attributes["compare_type"] == "TOTALORDER":
        raise Unsupported("comparison in the total order of floating point")
    if (direction := operation.attributes["comparison_direction"]) == "NE":
        return graph.add("Not", graph.add("Equal", x, y, shape=shape), shape=shape)
    operators = {"EQ": "Equal", "GT": "Greater", "GE": "GreaterOrEqual", "LT": "Less", "LE": "LessOrEqual"}
    return graph.add(operators[direction], x, y, shape=shape)


def _clamp(graph: Graph, operation: Operation, low: Value, x: Value, high: Value) -> Value:
    above = graph.add("Max", x, low, shape=_broadcast(x, low))
    return graph.add("Min", above, high, shape=_broadcast(above, high))


def _rsqrt(graph: Graph, operation: Operation, x: Value) -> Value:
    return graph.add("Reciprocal", graph.add("Sqrt", x, shape=x.shape), shape=x.shape)


def _is_finite(graph: Graph, operation: Operation, x: Value) -> Value:
    difference = graph.add("Sub", x, x, shape=x.shape)  # 0, or NaN
    return graph.add("Equal", difference, difference, shape=x.shape)


def _remainder(graph: Graph, operation: Operation, x: Value, y: Value) -> Value:
    return graph.add("Mod", x, y, shape=_broadcast(x, y), fmod=1)  # with the sign of x


def _convert(graph: Graph, operation: Operation, x: Value) -> Value:
    if operation.dtypes[0] == operation.dtype:
        return x
    return graph.add("Cast", x, shape=x.shape, to=onnx_type(operation.dtype))


OPERATORS: dict[str, Convert] = {
    "abs": _elementwise("Abs"),
    "add": _elementwise("Add", "Or"),
    "and": _elementwise("And"),
    "broadcast_in_dim": shapes.broadcast_in_dim,
    "ceil": _elementwise("Ceil"),
    "clamp": _clamp,
    "compare": _compare,
    "concatenate": shapes.concatenate,
    "convert": _convert,
    "convolution": products.convolution,
    "cosine": _elementwise("Cos"),
    "divide": _elementwise("Div"),
    "dot_general": products.dot,
    "dynamic_broadcast_in_dim": shapes.broadcast_in_dim,
    "dynamic_iota": shapes.iota,
    "dynamic_reshape": shapes.reshape,
    "exponential": _elementwise("Exp"),
    "floor": _elementwise("Floor"),
    "get_dimension_size": shapes.dimension,
    "iota": shapes.iota,
    "is_finite": _is_finite,
    "log": _elementwise("Log"),
    "maximum": _elementwise("Max", "Or"),
    "minimum": _elementwise("Min", "And"),
    "multiply": _elementwise("Mul", "And"),
    "negate": _elementwise("Neg"),
    "not": _elementwise("Not"),
    "optimization_barrier": lambda graph, operation, x: x,
    "or": _elementwise("Or"),
    "pad": shapes.pad,
    "power": _elementwise("Pow"),
    "real_dynamic_slice": shapes.sliced,
    "reduce": products.reduce,
    "reduce_window": products.max_pool,
    "remainder": _remainder,
    "reshape": shapes.reshape,
    "round_nearest_even": _elementwise("Round"),
    "rsqrt": _rsqrt,
    "select": _elementwise("Where"),
    "sign": _elementwise("Sign"),
    "sine": _elementwise("Sin"),
    "slice": shapes.slice_,
    "sqrt": _elementwise("Sqrt"),
    "subtract": _elementwise("Sub"),
    "tan": _elementwise("Tan"),
    "tanh": _elementwise("Tanh"),
    "transpose": shapes.transpose,
    "xor": _elementwise("Xor"),
}
