"""An ONNX graph under construction. Nodes that depend on constants alone are computed at once."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

OPSET, IR_VERSION = 17, 8  # of 2022: the runtimes in use read them

Shape: TypeAlias = tuple[int | None, ...]  # None: a length that depends on the number of images


@dataclasses.dataclass(frozen=True)
class Value:
    """A constant, or the name of a node's output.

    StableHLO broadcasts by an operation of its own, ONNX implicitly. So a value may be smaller than the StableHLO value
    it stands for: a length of 1 stands for any other, until an operation needs the value `whole`.
    """

    content: str | np.ndarray
    shape: Shape  # of the content
    sizes: "Value | None" = None  # the full shape, if it depends on the number of images and the content's does not


def constant(array: np.ndarray) -> Value:
    return Value(array, array.shape)


@dataclasses.dataclass(frozen=True)
class _Node:
    operator: str
    inputs: list[str]
    output: str
    attributes: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A StableHLO operation: its attributes, and the shapes and dtypes of its inputs and its output.

    `reduction` is the name of the operation that a reduction repeats.
    """

    name: str
    attributes: Mapping[str, Any]
    shapes: Sequence[Shape]
    dtypes: Sequence[np.dtype]
    shape: Shape
    dtype: np.dtype
    reduction: str | None = None


class Unsupported(NotImplementedError):
    """A part of StableHLO that ONNX export does not support; `export_onnx` makes a sentence of it."""


class Graph:
    """Nodes in order, and the constants that they read by name."""

    def __init__(self) -> None:
        self._nodes: list[_Node] = []
        self._constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, *inputs: Value, shape: Shape, **attributes: Any) -> Value:
        """The output of a node, which has this shape. A node of constants is a constant."""
        sizes = next((value.sizes for value in inputs if value.sizes is not None), None)
        arrays = [value.content for value in inputs if isinstance(value.content, np.ndarray)]
        if len(arrays) == len(inputs):
            array = _computed(operator, arrays, attributes)
            return Value(array, array.shape, sizes)
        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(_Node(operator, [self._name_of(value) for value in inputs], output, attributes))
        return Value(output, shape, sizes)

    def whole(self, value: Value, shape: Shape) -> Value:
        """The value, broadcast to the shape that it stands for."""
        if value.shape == shape:
            return dataclasses.replace(value, sizes=None)
        if value.sizes is not None:
            sizes = self.add("Cast", value.sizes, shape=(len(shape),), to=onnx_type(np.int64))
            return self.add("Expand", dataclasses.replace(value, sizes=None), sizes, shape=shape)
        return self.add("Expand", value, constant(np.array(shape, np.int64)), shape=shape)

    def model(self, image_shape: Sequence[int], result: Value, output: str, shape: Sequence[int | str]) -> bytes:
        """The graph from "images", uint8 [N, *image_shape], to float32 `output`, with the nodes that it needs alone.

        Raises:
          onnx.checker.ValidationError: for a graph that is no valid model.
        """
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        last = _Node("Identity", [self._name_of(result)], output, {})
        needed, nodes = {output}, []
        for node in reversed([*self._nodes, last]):
            if node.output in needed:
                needed.update(node.inputs)
                nodes.append(helper.make_node(node.operator, node.inputs, [node.output], **node.attributes))
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *image_shape])
        outputs = helper.make_tensor_value_info(output, TensorProto.FLOAT, list(shape))
        model = helper.make_model(
            helper.make_graph(nodes[::-1], "jaxnets", [images], [outputs]),
            producer_name="jaxnets",
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        # One by one, as each of the calls above would copy all of them; and for the same reason serialised once.
        for name, array in self._constants.items():
            if name in needed:
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        content = model.SerializeToString()
        del model  # the checker makes one of its own
        onnx.checker.check_model(content)
        return content

    def _name_of(self, value: Value) -> str:
        if isinstance(value.content, str):
            return value.content
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.ascontiguousarray(value.content).reshape(value.content.shape)
        return name


def onnx_type(dtype: Any) -> int:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(jnp.dtype(dtype))


def _computed(operator: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> np.ndarray:
    """The result of an operator, by ONNX's own reference implementation."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = [f"input_{i}" for i in range(len(arrays))]
    node = helper.make_node(operator, names, ["output"], **attributes)
    [array] = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, dict(zip(names, arrays, strict=True)))
    return np.asarray(array)
