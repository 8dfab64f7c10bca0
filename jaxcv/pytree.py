"""Dataclasses as pytrees whose checks run when a user makes one, never when JAX unflattens it."""

import dataclasses
from typing import TypeVar

import jax

__all__ = ["register"]

T = TypeVar("T")


def register(cls: type[T], data: tuple[str, ...]) -> type[T]:
    """Registers a frozen dataclass as a pytree.

    JAX unflattens trees of tracers, placeholders and `None`. Fields are then set as they come:
    neither `__init__` nor `__post_init__` runs.

    Args:
        cls: the dataclass.
        data: names of the fields that are children; the others are static and must be hashable.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    static = tuple(name for name in names if name not in data)

    def flatten_with_keys(value):
        children = [(jax.tree_util.GetAttrKey(name), getattr(value, name)) for name in data]
        return children, tuple(getattr(value, name) for name in static)

    def flatten(value):
        children = tuple(getattr(value, name) for name in data)
        return children, tuple(getattr(value, name) for name in static)

    def unflatten(settings, children):
        value = object.__new__(cls)
        for name, field in zip((*static, *data), (*settings, *children), strict=True):
            object.__setattr__(value, name, field)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
