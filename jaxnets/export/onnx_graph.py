"""Programs as ONNX: a node or a few for each of JAX's operations, with weights of their own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal  # type: ignore[attr-defined]  # an alias in newer JAX

from jaxnets.export.onnx_operators import OPERATORS, Operation, Tensor, Value, is_known, lengths, whole
from jaxnets.export.program import Program

OPSET, IR_VERSION = 17, 8  # of 2022, so that runtimes in use read it


def export_onnx(program: Program) -> bytes:
    """The program as an ONNX model, as `onnx.load_from_string` or an `onnxruntime.InferenceSession` takes it.

    Its input is `images`, uint8 [N, H, W, C] in 0 … 255, for any N; its output is called as the program's. What depends
    on weights alone is computed here: BatchNorm is a product and a sum, class weights are of unit length.

    Raises:
      ImportError: without the package onnx, which the extra [onnx] installs.
      NotImplementedError: for an operation that no network of this project has.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX needs the package onnx: pip install 'jaxnets[onnx]'", name="onnx") from error
    from onnx import TensorProto, helper, numpy_helper

    traced = program.trace()
    [aval] = traced.out_avals
    graph, shape = Graph(), lengths(aval.shape)
    [result] = convert(graph, traced, [Tensor("images", ("N", *program.image_shape))])
    graph.nodes.append(_Node("Identity", [graph.name_of(whole(graph, result, shape))], program.output, {}))
    inputs = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *program.image_shape])
    output = helper.make_tensor_value_info(program.output, TensorProto.FLOAT, shape)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(node.operator, node.inputs, [node.output], **node.attributes) for node in graph.nodes],
            "jaxnets",
            [inputs],
            [output],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        producer_name="jaxnets",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclasses.dataclass(frozen=True)
class _Node:
    operator: str
    inputs: list[str]
    output: str
    attributes: Mapping[str, Any]


class Graph:
    """Nodes in order, and the constants that they read by name."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, operator: str, *inputs: Value, shape: Sequence[int | str], **attributes: Any) -> Tensor:
        """A node of one output, which has this shape."""
        output = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(_Node(operator, [self.name_of(value) for value in inputs], output, attributes))
        return Tensor(output, tuple(shape))

    def name_of(self, value: Value) -> str:
        if isinstance(value, Tensor):
            return value.name
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(value)
        return name


def convert(graph: Graph, traced: ClosedJaxpr, arguments: Sequence[Value]) -> list[Value]:
    """Adds the nodes of a traced function, and returns its results: constants where they depend on no argument."""
    jaxpr = traced.jaxpr
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, traced.consts), strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Value:
        aval: Any = atom.aval
        return np.asarray(atom.val, aval.dtype) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if isinstance(inner, ClosedJaxpr):  # a function within: jitted, or with a derivative of its own
            outputs = convert(graph, inner, inputs)
        else:
            outputs = [_result(graph, equation, inputs)]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _result(graph: Graph, equation: JaxprEqn, inputs: Sequence[Value]) -> Value:
    taken: list[Any] = [atom.aval for atom in equation.invars]
    given: Any = equation.outvars[0].aval
    operation = Operation(
        equation.params, [lengths(aval.shape) for aval in taken], [aval.dtype for aval in taken], lengths(given.shape)
    )
    constants = [value for value in inputs if isinstance(value, np.ndarray)]
    one_result = not equation.primitive.multiple_results
    if one_result and len(constants) == len(inputs) and is_known(operation.shape):
        full = [np.broadcast_to(value, aval.shape) for value, aval in zip(constants, taken, strict=True)]
        return np.asarray(equation.primitive.bind(*map(jnp.asarray, full), **equation.params))
    if equation.primitive.name not in OPERATORS:
        raise NotImplementedError(f"ONNX is not known to have JAX's operation {equation.primitive.name}")
    return OPERATORS[equation.primitive.name](graph, operation, *inputs)
