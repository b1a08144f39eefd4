"""Pickles of tensors, read without running anything that they carry.

A pickle is a program whose instructions can call any function by its name. The reader here can call none. It knows the
few instructions that a dictionary of tensors is written with and the names below, and refuses every other; a tensor is
a read-only view of the elements of its storage, and never reaches beyond them.
"""

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import as_strided

STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": jnp.dtype("bfloat16"),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
DTYPES = {f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()}
TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter")
NAMES = {"collections.OrderedDict", "torch.Size", *TENSORS, *PARAMETERS, *DTYPES}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
}

Load: TypeAlias = Callable[[np.dtype, str, int], np.ndarray]  # dtype, key, number of elements -> the elements


class Refused(ValueError):
    """The name of something that no weights need."""


class _Global(NamedTuple):
    name: str


class _Storage(NamedTuple):
    elements: np.ndarray


def describe(file: BinaryIO, load: Load) -> Any:
    """What the next pickle in a file describes: dictionaries, lists, tuples, numbers, strings, arrays.

    Raises:
      Refused: where it names what no weights need.
      ValueError, LookupError, TypeError: where it is damaged, and whatever `load` raises.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_from(start: int) -> list[Any]:
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "NONE" | "NEWFALSE" | "NEWTRUE":
                stack.append({"NONE": None, "NEWFALSE": False, "NEWTRUE": True}[opcode.name])
            case literal if literal in LITERALS:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_from(marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop_from(-int(opcode.name[-1]))))
            case "APPEND":
                _put(pop_from(-1), stack[-1])
            case "SETITEM":
                _put(pop_from(-2), stack[-1])
            case "APPENDS" | "SETITEMS":
                _put(pop_from(marks.pop()), stack[-1])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "INST":
                stack.append(_known(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{checked(module, str)}.{checked(name, str)}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(checked(function, _Global).name, checked(arguments, tuple)))
            case "BUILD":  # the versions of a state dict's modules, the hooks of a parameter
                stack.pop()
            case "BINPERSID":
                stack.append(_storage(stack.pop(), load))
            case other:
                raise ValueError(f"its pickle has the instruction {other}, which no weights need")
    raise ValueError("its pickle has no end")


def _known(name: str) -> _Global:
    if name not in NAMES:
        raise Refused(name)
    return _Global(name)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What one of PyTorch's functions would make of its arguments."""
    if name == "collections.OrderedDict":
        ordered: dict[str | int, Any] = {}
        for key, value in arguments[0] if arguments else ():
            _put([key, value], ordered)
        return ordered
    if name == "torch.Size":
        return checked(arguments[0], tuple)
    if name in TENSORS:
        return _tensor(*arguments[:4])
    if name in PARAMETERS:
        return checked(arguments[0], np.ndarray)
    raise ValueError(f"its pickle calls {name}")


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    elements = checked(storage, _Storage).elements
    steps = zip((natural(n) for n in size), (natural(n) for n in stride), strict=True)
    last = natural(offset) + sum((n - 1) * step for n, step in steps)
    if 0 in size:
        offset = 0
    elif last >= len(elements):
        raise ValueError(f"a tensor reaches to element {last} of a storage of {len(elements)}")
    return as_strided(elements[offset:], size, [n * elements.strides[0] for n in stride], writeable=False)


def _storage(identity: Any, load: Load) -> _Storage:
    kind, dtype, key, _, count, *view = checked(identity, tuple)
    if checked(kind, str) != "storage" or checked(dtype, _Global).name not in DTYPES:
        raise ValueError("its pickle refers to something other than a storage")
    elements = load(DTYPES[dtype.name], checked(key, str), natural(count))
    if view and view[0] is not None:
        _, start, length = view[0]
        elements = elements[natural(start) :][: natural(length)]
    return _Storage(elements)


def _put(items: list[Any], into: Any) -> None:
    """Appends to a list, or sets keys of a dictionary: strings and whole numbers, which are harmless to hash."""
    if type(into) is list:
        into.extend(items)
    else:
        for key, value in zip(items[::2], items[1::2], strict=True):
            checked(into, dict)[key if type(key) is int else checked(key, str)] = value


def checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle has a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def natural(value: Any) -> int:
    if not 0 <= checked(value, int) < 2**63:
        raise ValueError("its pickle has a size below zero or beyond all memory")
    return int(value)
