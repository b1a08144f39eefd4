"""Refusal of forward-mode differentiation, in a sentence, for operations whose gradient is written by hand."""

from typing import NoReturn

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def reverse_only(array: Array, operation: str) -> Array:
    """The array; its tangents can be transposed, which reverse mode does, but not computed.

    Raises:
      NotImplementedError: where a tangent is computed or compiled, as `jax.jvp`, `linearize` and `hessian` do.
    """
    return _value.bind(array, operation=operation)


def _refuse(*_: object, operation: str, **__: object) -> NoReturn:
    raise NotImplementedError(
        f"{operation} has no forward-mode derivative (jax.jvp, linearize, jacfwd, hessian): take jax.grad or jax.vjp, "
        "or implementation='reference', which has both"
    )


_value, _tangent = Primitive("reverse_only"), Primitive("reverse_only_tangent")
for _primitive in (_value, _tangent):
    _primitive.def_abstract_eval(lambda array, **_: array)
    batching.primitive_batchers[_primitive] = lambda arrays, axes, _p=_primitive, **options: (
        _p.bind(*arrays, **options),
        axes[0],
    )
_value.def_impl(lambda array, **_: array)
_tangent.def_impl(_refuse)
mlir.register_lowering(_value, lambda _, array, **__: [array])
mlir.register_lowering(_tangent, _refuse)
ad.deflinear2(_tangent, lambda cotangent, _, **__: [cotangent])
ad.primitive_jvps[_value] = lambda primals, tangents, **options: (
    _value.bind(*primals, **options),
    tangents[0] if type(tangents[0]) is ad.Zero else _tangent.bind(tangents[0], **options),
)
