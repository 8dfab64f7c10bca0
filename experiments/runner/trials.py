"""What one training is, and what is left of it."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcv import training
from jaxcv.checks import argument_error

__all__ = ["Cell", "Trained", "Trainings", "check_count", "checked_cells", "count_of", "members_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: a static problem with a vmapped axis of members.

    What differs in shapes or code makes another cell; what differs in numbers makes a member.
    The functions are pure and see one member: `member` is {name: scalar} of `members`, and it
    always has `seed` (that of the config, unless `members` has the entry).

    Attributes:
        init: `init(key, member) -> params`, or with `after` `init(key, member, before)`.
        after: name of an earlier cell with as many members, whose params are `before`: a training
            in stages.
        loss: `loss(params, batch, key, member) -> (scalar, {name: scalar})`.
        optimizer: `optimizer(**hyperparameters) -> optax.GradientTransformation`, called with
            traced scalars; it must not branch on their values.
        members: name -> (M,) numbers. An empty mapping is one member. Or a function of the cells
            before it, {name: Trained}, that returns the mapping, e.g. of a search's next round; a
            pure one, for an evaluation calls it again.
        hyperparameters: which members go to `optimizer`, by keyword.
        steps: optimiser steps.
        data: a tree that lives on the device, shared by the members; the loss's `batch` if
            `batches` is None.
        batches: `batches(step) -> tree of host arrays`, a pure function of the step, so that a
            resumed training needs no iterator state.
        project: `params -> params` after each update.
        validate: `validate(params, data, member) -> {name: scalar}`, run at every log point.
        plateau: smaller steps where a metric of `validate` stops improving; the result is the best
            params, and the training ends when all members stand still.
        loop: whether members run one after the other, not by `vmap`: see `jaxcv.training.Sweep`.
        summaries: metric of the loss -> 'mean', 'last', 'min', 'max' or 'sum' over the steps
            since the last log point; the mean unless named ('skipped' is summed).
        log_every: steps per log point.
        checkpoint_every: steps per checkpoint, rounded up to a multiple of `log_every`.
        fused: steps per device call (`lax.scan`), at most `log_every`; None: as many as keep
            the stacked batches small. Give 1 for convolutional networks on the CPU, where XLA
            compiles a convolution inside a loop to slow code.
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    optimizer: Callable[..., Any]
    after: str | None = None
    members: Mapping[str, Any] | Callable[..., Mapping[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    hyperparameters: tuple[str, ...] = ("learning_rate",)
    steps: int
    data: Any = None
    batches: Callable[[int], Any] | None = None
    project: Callable[[Any], Any] | None = None
    validate: Callable[..., Any] | None = None
    plateau: training.Plateau | None = None
    loop: bool = False
    summaries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_every: int = 100
    checkpoint_every: int = 1000
    fused: int | None = None


class Trained(NamedTuple):
    """A cell after its training.

    Attributes:
        params: the learned tree; every leaf has a leading axis of members, (M, ...).
        history: `step` -> (L,), every metric -> (L, M), read from metrics.jsonl; nan where a
            number was not finite. Empty but for `step` if there is no such file.
        members: name -> (M,), with `seed`.
        facts: what `Experiment.facts` said at the training.
        seconds: that the training took, compilation included, over all its runs.
    """

    params: Any
    history: dict[str, np.ndarray]
    members: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]
    seconds: float = 0.0


class Trainings(dict[str, Trained]):
    """Cell -> Trained, with a place for what evaluation, figures and predictions have in common."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """`make()`, at the first call with this key; then what it returned."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def checked_cells(experiment: Any, config: Any, data: Any) -> Mapping[str, Cell]:
    """The cells of an experiment; raises ValueError unless their names and order are sound."""
    cells = experiment.cells(config, data)
    for name in cells:
        if not re.fullmatch(r"[A-Za-z0-9_.+=-]+", name) or name.startswith("."):
            expected = "expected names of cells that can be file names"
            raise argument_error(
                "cells", expected, repr(name), "Use letters, digits and _.+=- only."
            )
        _check_after(cells, name, config)
    return cells


def _check_after(cells: Mapping[str, Cell], name: str, config: Any) -> None:
    after, names = cells[name].after, list(cells)
    if after is None:
        return
    if after not in names[: names.index(name)]:
        expected = f"expected one of the cells before it, {names[: names.index(name)]}"
        raise argument_error(f"{name}.after", expected, repr(after))
    members = [cells[each].members for each in (name, after)]
    if not any(callable(own) for own in members):  # else when they are known
        own, other = (members_of(cells[each], config, {}) for each in (name, after))
        check_count(name, cells[name], own, count_of(other))


def check_count(name: str, cell: Cell, members: Mapping[str, np.ndarray], other: int) -> None:
    """Raises ValueError unless a cell has as many members as the one before it."""
    if count_of(members) != other:
        expected = f"expected as many members as the cell {cell.after!r} has, {other}"
        raise argument_error(
            f"{name}.members", expected, count_of(members), "Train one cell for each."
        )


def members_of(cell: Cell, config: Any, trained: Mapping[str, Trained]) -> dict[str, np.ndarray]:
    """name -> (M,) numbers of a cell, with `seed`."""
    given = cell.members(trained) if callable(cell.members) else cell.members
    members = {name: np.asarray(values) for name, values in given.items()}
    if "seed" not in members:
        count = max((values.size for values in members.values()), default=1)
        members["seed"] = np.full(count, config.seed)
    return training.check_members(members)


def count_of(members: Mapping[str, np.ndarray]) -> int:
    """How many members there are."""
    return members["seed"].size
