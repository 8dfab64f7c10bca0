"""Models as functions of arrays: what an export and a card say of inputs and outputs.

`io` may not import `systems`, which imports `io`. So each system registers how its models become
functions of arrays (`register_system`) when `jaxcv.systems` is imported, and `jaxcv.io.export`
looks up the system of the model's card, as `jax.export` does with registered pytrees. A user's own
system registers in the same way.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxcv.checks import argument_error
from jaxcv.io.networks import Model, save_settings

__all__ = [
    "Input", "Interface", "describe", "input_specs", "interface_of", "is_double", "register_system"
]  # fmt: skip


class Input(NamedTuple):
    """An input of an exported function.

    Attributes:
        shape: sizes as `jax.export.symbolic_shape` reads them, e.g. "b, h, w, 3"; b is the batch.
        example: an array of such a shape.
    """

    shape: str
    example: np.ndarray


class Interface(NamedTuple):
    """A model as a function of arrays.

    Attributes:
        function: `function(params, *inputs) -> {name: array}`, traceable.
        inputs: name -> Input, in the order of the arguments.
        units: name of an input or output -> (unit, range) for the card.
        types: classes of named tuples in the parameters and of modules in the settings.
    """

    function: Callable[..., dict[str, jax.Array]]
    inputs: Mapping[str, Input]
    units: Mapping[str, tuple[str, str]] = {}
    types: Sequence[type] = ()


_SYSTEMS: dict[str, Callable[[Model], Interface]] = {}


def register_system(system: str, interface: Callable[[Model], Interface]) -> None:
    """Registers how the models of a system become functions of arrays.

    Args:
        system: the entry `system` of their cards.
        interface: `interface(model) -> Interface`.
    """
    _SYSTEMS[system] = interface


def interface_of(model: Model) -> Interface:
    """The model as a function of arrays.

    Raises:
        ValueError: its system is not registered.
    """
    if not isinstance(model, Model):
        got = type(model).__name__
        raise argument_error("model", "expected a jaxcv.io.Model", got, "Use load_model(path).")
    system = model.card.get("system")
    if system not in _SYSTEMS:
        expected = f"expected a model of one of the systems {sorted(_SYSTEMS)}"
        hint = "Import jaxcv.systems, or register yours: jaxcv.io.register_system."
        raise argument_error("model", expected, repr(system), hint)
    return _SYSTEMS[system](model)


def is_double(params: Any) -> bool:
    """Whether parameters are in double precision, and so their function."""
    return any(np.asarray(leaf).dtype == np.float64 for leaf in jax.tree.leaves(params))


def input_specs(interface: Interface) -> list[jax.ShapeDtypeStruct]:
    """Shapes, with symbolic sizes, and dtypes of the inputs."""
    scope = jax_export.SymbolicScope()
    return [
        jax.ShapeDtypeStruct(jax_export.symbolic_shape(x.shape, scope=scope), x.example.dtype)
        for x in interface.inputs.values()
    ]


def describe(model: Model) -> dict[str, Any]:
    """The entries `settings`, `inputs` and `outputs` of a card, as JSON.

    An input or output has `shape`, with the names of free sizes, `dtype`, `unit` and `range`.
    """
    interface = interface_of(model)
    with jax.enable_x64(is_double(model.params)):
        params, specs = jax.tree.map(jnp.asarray, model.params), input_specs(interface)
        outputs = jax.eval_shape(lambda *x: dict(interface.function(params, *x)), *specs)

    def entry(name: str, spec: Any) -> dict[str, str]:
        unit, values = interface.units.get(name, ("", ""))
        shape = f"({', '.join(map(str, spec.shape))}{',' * (len(spec.shape) == 1)})"
        return {"shape": shape, "dtype": str(spec.dtype), "unit": unit, "range": values}

    return {
        "settings": save_settings(model.settings, interface.types),
        "inputs": {n: entry(n, s) for n, s in zip(interface.inputs, specs, strict=True)},
        "outputs": {name: entry(name, spec) for name, spec in outputs.items()},
    }
