"""The argument `model` of the systems' functions."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from jaxcv.checks import argument_error
from jaxcv.io.networks import Model

__all__ = ["check_system", "takes_model"]

P = ParamSpec("P")
R = TypeVar("R")
_HINT = 'Give model=load_pretrained("NAME"), or load_model("runs/NAME").'


def check_system(model: Any, system: str) -> None:
    """Raises ValueError unless `model` is a `Model` of the system."""
    if not isinstance(model, Model):
        raise argument_error("model", "expected a jaxcv.io.Model", type(model).__name__, _HINT)
    if model.card.get("system") != system:
        expected = f"expected a model of the system {system!r}"
        raise argument_error("model", expected, repr(model.card.get("system")), _HINT)


def takes_model(
    system: str,
    params: str = "params",
    *,
    required: bool = True,
    split: Callable[[Model], Mapping[str, Any]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Lets a function take a `Model` in place of its parameters and settings.

    The model comes as `model=`, or in the position of the parameters. Settings that the caller
    gives, None too, replace those of the model. The decorated function never sees the model.

    Args:
        system: of the models.
        params: the function's argument for the parameters. If it is the first, `model=` takes its
            position: `f(params, x)` and `f(x, model=model)`.
        required: whether the function needs parameters.
        split: the arguments that a model stands for; None: `params` and its settings.

    Raises:
        ValueError: at a call: no parameters and no model, both, a model of another system, or one
            with settings that the function does not have.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        first = next(iter(signature.parameters)) == params

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> R:
            model = None if params == "model" else kwargs.pop("model", None)
            if model is not None and first and params not in kwargs:
                args = (model, *args)
            given = dict(signature.bind_partial(*args, **kwargs).arguments)
            found = given.get(params)
            if isinstance(found, Model) and (model is None or model is found):
                model = given.pop(params)
            elif model is not None and found is not None:
                raise argument_error(params, f"expected one of `{params}` and `model`", "both")
            if model is None:
                if required and found is None:
                    expected = "expected parameters or a model"
                    raise argument_error(params, expected, None, _HINT)
                return function(**given)  # type: ignore[call-arg]
            check_system(model, system)
            own = split(model) if split else {params: model.params, **model.settings}
            unknown = own.keys() - signature.parameters.keys()
            if unknown:
                expected = f"expected settings of {function.__name__}"
                raise argument_error("model", expected, sorted(unknown), "Train it again.")
            return function(**{**own, **given})  # type: ignore[call-arg]

        return call  # type: ignore[return-value]

    return decorate
