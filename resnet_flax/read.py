"""Anybody's JAX model as a graph: Flax NNX and Linen, Haiku, Equinox, or any function with its
parameters.

Each becomes a function of its parameters and images, which JAX traces; see
`shared.graphs.translate.jaxpr` for what is read from the trace. Only the library that a model was
written in is imported, and it is there already.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from shared.errors import FrameworkError
from shared.graphs.primitives import RawGraph
from shared.graphs.translate.choices import EVALUATION, evaluation_arguments
from shared.graphs.translate.jax_function import LAYOUTS, read_function


def _as_it_is(path: str) -> str:
    return path


class Adapted(NamedTuple):
    """A model as a function of its parameters and images."""

    call: Callable[[Any, Any], Any]
    params: Any
    name: Callable[[str], str] = _as_it_is  # of a parameter, by its path
    layouts: Sequence[str] = LAYOUTS  # of the images, in the order in which to try


def read_graph(model: Any, image_size: int | None = None, **how: Any) -> RawGraph:
    """The graph of a model in evaluation mode, traced in float64 where its layers compute so.

    `model` is an `nnx.Module`; or a tuple that begins with a Linen module, a Haiku transform, an
    Equinox module or a function `fn(params, images)`, and goes on with its variables (Haiku:
    parameters, and the state if there is one; Equinox: the state); or an Equinox module or a
    function of images alone. `how` is that of `read_function`. Raises `FrameworkError` for what is
    none of these, and whatever the model raises when it is traced.
    """
    head, *rest = model if _is_several(model) else (model,)
    adapt = next((adapt for kind, adapt in _KINDS.items() if _is_a(head, kind)), None)
    if adapt is None and not callable(head):
        raise FrameworkError(
            f"expected a model in JAX, found {type(head).__name__}; give an nnx.Module, or a tuple "
            "of a function, a Linen module or a Haiku transform and its variables"
        )
    found = (adapt or _function)(head, *rest)
    how = {"layouts": found.layouts, "name": found.name, **how}
    return read_function(found.call, found.params, image_size, **how)


def _is_several(model: Any) -> bool:
    """A tuple of a model and its variables; Haiku's transforms are tuples of functions."""
    return isinstance(model, tuple) and not _is_a(model, "haiku")


def _is_a(model: Any, package: str) -> bool:
    return any(
        base.__module__ == package or base.__module__.startswith(f"{package}.")
        for base in type(model).__mro__
    )


def _arguments(function: Callable[..., Any]) -> dict[str, bool]:
    """What has to be said so that a function evaluates."""
    try:
        return evaluation_arguments(list(inspect.signature(function).parameters))
    except (TypeError, ValueError):
        return {}


def _says_float32(module: Any) -> bool:
    """Whether a module computes in float32 whatever it is given; then its copy may in float64."""
    try:
        return getattr(module, "dtype", None) is not None and jnp.dtype(module.dtype) == jnp.float32
    except TypeError:
        return False


def _nnx(model: Any) -> Adapted:
    """On a copy, for evaluation mode is an attribute of the layers."""
    from flax import nnx

    copy = nnx.merge(*nnx.split(model))
    copy.eval()
    for _, layer in nnx.iter_modules(copy):
        if _says_float32(layer):
            layer.dtype = jnp.float64  # type: ignore[attr-defined] # that it computes in
    definition, state = nnx.split(copy)
    said = _arguments(type(model).__call__)
    return Adapted(
        lambda state, images: nnx.merge(definition, state)(images, **said),
        state,
        lambda path: path.removesuffix("/value"),
    )


def _linen(module: Any, variables: Any = None) -> Adapted:
    if not isinstance(variables, Mapping):
        raise FrameworkError(
            "a Linen module has no variables of its own: give (module, variables), as "
            "`module.init` returns them"
        )
    whole = dict(variables) if "params" in variables else {"params": variables}
    said = _arguments(type(module).__call__)
    if _says_float32(module):
        module = module.clone(dtype=jnp.float64)
    return Adapted(lambda variables, images: module.apply(variables, images, **said), whole)


def _haiku(transformed: Any, *rest: Any) -> Adapted:
    """`hk.transform` or `hk.transform_with_state`, whose function's signature cannot be seen: it is
    told that it does not train in the words that it understands.
    """
    given = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple) else rest
    if len(given) not in (1, 2):
        raise FrameworkError(
            "a Haiku transform has no parameters of its own: give (transform, params) or "
            "(transform, params, state)"
        )
    stateful = type(transformed).__name__ == "TransformedWithState"
    params = list(given) if stateful else list(given[:1])
    words = [name for name, value in EVALUATION.items() if value is False]
    random = "rng" in inspect.signature(transformed.apply).parameters  # not `without_apply_rng`

    def call(params: Any, images: Any) -> Any:
        for said in [*({word: False} for word in words), {}]:
            try:
                key = (None,) if random else ()
                result = transformed.apply(*params.values(), *key, images, **said)
            except TypeError as error:
                if said and "unexpected keyword" in str(error):
                    continue
                raise
            return result[0] if stateful else result
        raise AssertionError("the last call has no keyword")

    named = dict(zip(("params", "state"), params, strict=False))
    return Adapted(call, named, lambda path: path.partition("/")[2])


def _equinox(model: Any, *rest: Any) -> Adapted:
    """An Equinox module takes one image, channels first, and a state if it has norms."""
    import equinox

    whole = equinox.nn.inference_mode((model, *rest))
    arrays, fixed = equinox.partition(whole, equinox.is_array)

    def call(arrays: Any, images: Any) -> Any:
        model, *state = equinox.combine(arrays, fixed)
        if not state:
            return jax.vmap(model, axis_name="batch")(images)
        # `out_axes`: the state that comes out is the same for all images.
        one = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
        return one(images, *state)[0]

    table = _equinox_names(whole)
    return Adapted(call, arrays, lambda path: table.get(path, path), LAYOUTS[::-1])


def _equinox_names(whole: Any) -> dict[str, str]:
    """Leaves of (model, state) by attribute paths; those of the state by the layer that keeps
    them, for the state itself only numbers them.
    """
    import equinox

    from shared.graphs.translate.jax_function import path_name

    model, *state = whole
    kept: dict[int, str] = {}
    for path, index in jax.tree_util.tree_flatten_with_path(
        model, is_leaf=lambda leaf: isinstance(leaf, equinox.nn.StateIndex)
    )[0]:
        if state and isinstance(index, equinox.nn.StateIndex):
            for inner, leaf in jax.tree_util.tree_flatten_with_path(state[0].get(index))[0]:
                kept[id(leaf)] = "/".join(
                    part for part in (path_name(path), path_name(inner)) if part
                )
    table = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(whole)[0]:
        own = path_name(path)
        table[own] = kept.get(id(leaf)) or own.partition("/")[2]
    return table


def _function(function: Callable[..., Any], *rest: Any) -> Adapted:
    said = _arguments(function)
    if not rest or rest[0] is None:
        return Adapted(lambda _, images: function(images, **said), {})
    if len(rest) > 1:  # parameters and statistics, say
        return Adapted(lambda params, images: function(*params, images, **said), list(rest))
    return Adapted(lambda params, images: function(params, images, **said), rest[0])


_KINDS: dict[str, Callable[..., Adapted]] = {
    "flax.nnx": _nnx,
    "flax.linen": _linen,
    "haiku": _haiku,
    "equinox": _equinox,
}
