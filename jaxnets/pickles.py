"""Pickles read without running anything that they carry.

A pickle is a program whose instructions can look up any function by its name, and call it. The reader here looks up
nothing and calls nothing. It makes dictionaries, lists, tuples, numbers and strings; arrays are up to its caller. All
else becomes an `Inert`, which has the name and does nothing: optimisers, configurations, classes, hostile functions.
"""

import codecs
import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any

from jaxnets.naming import quoted

MOST_INSTRUCTIONS = 2_000_000  # a checkpoint has some hundred for each tensor
HASHABLE = (str, int, float, bool, bytes, type(None))  # harmless as keys: their hashes do not recurse
LITERALS = {
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
SINGLETONS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}


class Inert:
    """Something that a pickle names: never looked up, made or called.

    `arguments` are a call's, None for a bare name; `entries` and `state` are the items and the state that the pickle
    would have set.
    """

    __slots__ = ("arguments", "entries", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.name, self.arguments = name, arguments
        self.entries: dict[Any, Any] = {}
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<{quoted(self.name, 100)}, never called>"


# The result of a named function of PyTorch's or Python's, or None where weights do not need that function.
Call = Callable[[str, tuple[Any, ...]], Any]
Stored = Callable[[Any], Any]  # the storage with this identity


def describe(file: io.BytesIO, call: Call, stored: Stored) -> Any:
    """The content of the next pickle in a file.

    Raises:
      ValueError, LookupError, TypeError: where it is damaged, and whatever `call` and `stored` raise.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_from(start: int) -> list[Any]:
        items = stack[start:]
        del stack[start:]
        return items

    def called(function: Any, arguments: Any) -> Any:
        checked(arguments, tuple)
        if type(function) is not Inert:
            raise ValueError(f"its pickle calls a {type(function).__name__}")
        if function.arguments is not None:
            return Inert(f"{function.name}()", arguments)
        if (
            function.name in ("copyreg._reconstructor", "copy_reg._reconstructor")
            and arguments
            and type(arguments[0]) is Inert
        ):
            return Inert(arguments[0].name, ())
        made = call(function.name, arguments)
        return Inert(function.name, arguments) if made is None else made

    argument: Any
    for count, (opcode, argument) in enumerate(_instructions(file)):
        if count >= MOST_INSTRUCTIONS:
            raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case singleton if singleton in SINGLETONS:
                stack.append(SINGLETONS[singleton])
            case literal if literal in LITERALS:
                stack.append(argument)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":  # a set is read as a list
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                pop_from(marks.pop())
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(pop_from(marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop_from(-int(opcode[-1]))))
            case "LIST":
                stack.append(pop_from(marks.pop()))
            case "DICT":
                items = pop_from(marks.pop())
                stack.append({})
                put(items, stack[-1])
            case "APPEND":
                append(pop_from(-1), stack[-1])
            case "SETITEM":
                put(pop_from(-2), stack[-1])
            case "APPENDS" | "ADDITEMS":
                append(pop_from(marks.pop()), stack[-1])
            case "SETITEMS":
                put(pop_from(marks.pop()), stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(Inert(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(Inert(f"{checked(module, str)}.{checked(name, str)}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(called(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(called(function, arguments))
            case "INST":
                stack.append(called(Inert(argument.replace(" ", ".", 1)), tuple(pop_from(marks.pop()))))
            case "OBJ":
                function, *rest = pop_from(marks.pop())
                stack.append(called(function, tuple(rest)))
            case "BUILD":  # of a dictionary or an array: versions and hooks
                state = stack.pop()
                if type(stack[-1]) is Inert:
                    stack[-1].state = state
            case "PERSID" | "BINPERSID":
                stack.append(stored(stack.pop() if opcode == "BINPERSID" else argument))
            case other:
                raise ValueError(f"its pickle has the instruction {other}, which no weights need")
    raise ValueError("its pickle has no end")


def _instructions(file: io.BytesIO) -> Iterator[tuple[str, Any]]:
    """The name and argument of each. `pickletools.genops` refuses Python 2's byte strings of more than ASCII."""
    while code := file.read(1):
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"its pickle has the byte {code!r} in the place of an instruction")
        if opcode.name == "STRING":
            escaped = pickletools.read_stringnl(file, decode=False)
            yield opcode.name, codecs.escape_decode(escaped)[0].decode("latin-1")
        else:
            yield opcode.name, opcode.arg.reader(file) if opcode.arg else None


def put(items: list[Any], into: Any) -> None:
    """Sets keys of a dictionary. Keys that are unsafe to hash, such as deep tuples, become inert."""
    entries = into.entries if type(into) is Inert else checked(into, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        entries[key if type(key) in HASHABLE else Inert(type(key).__name__)] = value


def append(items: list[Any], into: Any) -> None:
    if type(into) is not Inert:
        checked(into, list).extend(items)


def checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle has a {type(value).__name__} in the place of a {kind.__name__}")
    return value


def natural(value: Any) -> int:
    if not 0 <= checked(value, int) < 2**63:
        raise ValueError("its pickle has a size below zero or beyond all memory")
    return int(value)
