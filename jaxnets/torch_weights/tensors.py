"""PyTorch's tensors in a pickle: read-only views of the elements of their storages, and never beyond them."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.lib.stride_tricks import as_strided

from jaxnets.pickles import Inert, checked, natural, put

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
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
DTYPES = {f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in STORAGES.items()}
# Dtypes without a storage class of their own lie in a storage of bytes.
UNTYPED = "torch.storage.UntypedStorage"
# Storages whose elements stay unread, and the dtype of the same size.
OPAQUE = {
    UNTYPED: np.uint8,
    "torch.QInt8Storage": np.int8,
    "torch.QUInt8Storage": np.uint8,
    "torch.QInt32Storage": np.int32,
}
OF_BYTES = {f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")}
MOST_DIMENSIONS = 64  # NumPy's
MOST_REPEATED = 2**16  # elements that a view with steps of zero may have beyond its storage

Load: TypeAlias = Callable[[np.dtype, str, int], np.ndarray]  # dtype, key, number of elements -> the elements


class Storage(NamedTuple):
    elements: np.ndarray


class Tensors:
    """The calls and storages of one file's pickles, which lie where `load` finds them.

    `size` is the pickles' in bytes: the most elements that their calls copy, all together, so that a small file cannot
    ask for much work by naming one long list again and again.
    """

    def __init__(self, load: Load, size: int) -> None:
        self._load, self._left = load, size

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The result of a function that weights need; None for any other, which is not called."""
        match name:
            case "collections.OrderedDict":
                return self._dictionary(arguments[0] if arguments else [])
            case "collections.defaultdict":
                return {}
            case "builtins.set" | "__builtin__.set" | "builtins.frozenset" | "__builtin__.frozenset":
                return self._copied(arguments[0]) if arguments else []
            case "torch.Size":
                return checked(arguments[0], tuple)
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
                return _tensor(*arguments[:4])
            case "torch._utils._rebuild_tensor_v3":
                return self._tensor_of_bytes(arguments)
            case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
                return _parameter(arguments)
            case "torch.nn.parameter.Parameter" | "torch.nn.parameter.Buffer":
                return _parameter(arguments)
            case "torch._tensor._rebuild_from_type_v2":  # a tensor of a subclass, or with attributes
                function = arguments[0]
                plain = type(function) is Inert and function.arguments is None and function.name != name
                return self.call(function.name, checked(arguments[2], tuple)) if plain else None
        return None

    def stored(self, identity: Any) -> Any:
        """A storage, inert where NumPy has no dtype for its elements; of the older format a module's class, too."""
        if checked(identity, tuple)[0] == "module" and len(identity) == 4:  # a class, with its source
            return identity[1]
        kind, dtype, key, _, count, *view = identity
        if checked(kind, str) != "storage" or type(dtype) is not Inert:
            raise ValueError("its pickle refers to something other than a storage")
        if dtype.name in OPAQUE:
            self._load(np.dtype(OPAQUE[dtype.name]), checked(key, str), natural(count))
        if dtype.name not in DTYPES:
            return Inert(dtype.name, (checked(key, str), natural(count)))
        elements = self._load(DTYPES[dtype.name], checked(key, str), natural(count))
        if view and view[0] is not None:
            _, start, length = view[0]
            elements = elements[natural(start) :][: natural(length)]
        return Storage(elements)

    def _tensor_of_bytes(self, arguments: tuple[Any, ...]) -> Any:
        storage, offset, size, stride, _, _, dtype = arguments[:7]
        if type(storage) is not Inert or type(dtype) is not Inert:
            raise ValueError("its pickle has a tensor without a storage or a dtype")
        if storage.name != UNTYPED or dtype.name not in OF_BYTES or storage.arguments is None:
            return Inert(f"{dtype.name} tensor", ())
        key, count = storage.arguments
        elements = self._load(np.dtype(np.uint8), key, count)
        kind = OF_BYTES[dtype.name]
        return _tensor(Storage(elements[: count // kind.itemsize * kind.itemsize].view(kind)), offset, size, stride)

    def _dictionary(self, pairs: Any) -> dict[Any, Any]:
        """As Python 2 pickled an OrderedDict: by a list of pairs."""
        ordered: dict[Any, Any] = {}
        for pair in self._copied(pairs):
            key, value = pair if type(pair) is tuple else checked(pair, list)
            put([key, value], ordered)
        return ordered

    def _copied(self, items: Any) -> list[Any]:
        self._left -= len(checked(items, list))
        if self._left < 0:
            raise ValueError("its pickle copies the same list again and again")
        return list(items)


def _parameter(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if type(arguments[0]) is Inert else checked(arguments[0], np.ndarray)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Any:
    if type(storage) is Inert:
        return Inert(f"tensor of {storage.name}", ())
    elements = checked(storage, Storage).elements
    if len(checked(size, tuple)) > MOST_DIMENSIONS or len(checked(stride, tuple)) != len(size):
        raise ValueError(f"a tensor has {len(size)} sizes and {len(stride)} strides")
    count, last = 1, natural(offset)
    for n, step in zip(map(natural, size), map(natural, stride), strict=True):
        count *= n
        last += (n - 1) * step
    if count == 0:
        return np.broadcast_to(np.zeros((), elements.dtype), size)
    if last >= len(elements):
        raise ValueError(f"a tensor reaches to element {last} of a storage of {len(elements)}")
    if count > len(elements) + MOST_REPEATED:
        raise ValueError(f"a tensor of {count} elements repeats a storage of {len(elements)}")
    return as_strided(elements[offset:], size, [n * elements.strides[0] for n in stride], writeable=False)
