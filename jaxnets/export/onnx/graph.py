"""An ONNX graph under construction. Nodes that depend on constants alone are computed at once."""

import dataclasses
import io
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
          Unsupported: for constants of 2 GiB or more.
        """
        import onnx
        from onnx import TensorProto, helper

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
        constants = {name: array for name, array in self._constants.items() if name in needed}
        content = with_constants(model, constants)
        for name, array in constants.items():  # checked as inputs, since the checker would copy their numbers
            described = helper.make_tensor_value_info(name, onnx_type(array.dtype), array.shape)
            model.graph.input.append(described)
        onnx.checker.check_model(model)
        return content

    def _name_of(self, value: Value) -> str:
        if isinstance(value.content, str):
            return value.content
        name = f"constant_{len(self._constants)}"
        self._constants[name] = value.content
        return name


def with_constants(model: Any, constants: Mapping[str, np.ndarray]) -> bytes:
    """The serialised ModelProto, with the constants as initialisers of its graph.

    Protobuf's own objects would hold each number three times until the last byte is written. Here the numbers go from
    their arrays, of any strides, straight into the content, each behind its field's key and length.

    Raises:
      Unsupported: where the content would have 2 GiB or more, which protobuf does not read.
    """
    from onnx import GraphProto, ModelProto, TensorProto

    graph = model.graph.SerializeToString()
    tensors, length = [], len(graph)
    for name, array in constants.items():
        described = TensorProto(name=name, dims=array.shape, data_type=onnx_type(array.dtype)).SerializeToString()
        described += _key(TensorProto, "raw_data", array.nbytes)
        key = _key(GraphProto, "initializer", len(described) + array.nbytes) + described
        tensors.append((key, array))
        length += len(key) + array.nbytes
    rest = ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    beginning = rest.SerializeToString() + _key(ModelProto, "graph", length) + graph
    if len(beginning) + length >= 2**31:
        raise Unsupported(f"a model of {length / 2**30:.1f} GiB (a file holds less than 2)")
    content = io.BytesIO()
    content.write(beginning)
    for key, array in tensors:
        content.write(key)
        for row in np.atleast_2d(array):  # so that one row at a time is copied, and put in order if it is transposed
            content.write(row.tobytes())
    return content.getvalue()


def _key(message: Any, field: str, length: int) -> bytes:
    """What precedes so many bytes of a field: its number and wire type 2, and their number, as protobuf's varints."""
    written = bytearray()
    for number in (message.DESCRIPTOR.fields_by_name[field].number << 3 | 2, length):
        while number > 127:
            written.append(number & 127 | 128)
            number >>= 7
        written.append(number)
    return bytes(written)


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
