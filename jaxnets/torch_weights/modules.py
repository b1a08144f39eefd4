"""The state dict of a PyTorch module that was pickled whole, read from the pickle without running it."""

from typing import Any, TypeGuard

from jaxnets.pickles import Inert

PARTS = ("_parameters", "_buffers", "_modules")
MOST_ENTRIES, MOST_DEEP = 100_000, 200


def is_module(value: Any) -> TypeGuard[Inert]:
    return type(value) is Inert and type(value.state) is dict and all(type(_of(value, p)) is dict for p in PARTS)


def state_dict(module: Inert) -> dict[str, Any]:
    """Its parameters and persistent buffers by their names, in PyTorch's order.

    Raises:
      ValueError: where modules are nested without end.
    """
    found: dict[str, Any] = {}
    to_come, visited = [("", module, 0)], 0
    while to_come:
        prefix, part, depth = to_come.pop()
        visited += 1 + len(prefix) // 100
        transient = _of(part, "_non_persistent_buffers_set") or ()
        for kind in PARTS[:2]:
            for name, value in _of(part, kind).items():
                if value is not None and not (kind == "_buffers" and name in transient):
                    found[f"{prefix}{name}"] = value
        children = [(name, child) for name, child in _of(part, "_modules").items() if is_module(child)]
        to_come.extend((f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children))
        if visited + len(to_come) + len(found) > MOST_ENTRIES or depth > MOST_DEEP:
            raise ValueError("its modules are nested without end")
    return found


def _of(module: Inert, name: str) -> Any:
    return module.state.get(name)
