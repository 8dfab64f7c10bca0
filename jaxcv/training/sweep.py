"""Trains several trials of one problem at once: `vmap` over trials, `lax.scan` over steps."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcv.checks import argument_error
from jaxcv.training.plateau import Plateau
from jaxcv.training.state import TrainState, create_state
from jaxcv.training.step import make_update

__all__ = ["Sweep", "check_trials"]

# The axis of the trials, in every leaf but the step, which the trials share.
_AXES = TrainState(None, 0, 0)  # type: ignore[arg-type]


def check_trials(trials: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The trials as NumPy arrays of one common length.

    Raises:
        ValueError: an entry is not a vector of numbers, the lengths differ, or a seed is not an
            integer from 0 to 2^31 - 1.
    """
    arrays = {name: np.asarray(values) for name, values in trials.items()}
    for name, values in arrays.items():
        if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "biuf":
            expected = "expected a vector of numbers, one per trial"
            got = f"{values.dtype} of shape {values.shape}"
            raise argument_error(f"trials[{name!r}]", expected, got, "Number the choices instead.")
    lengths = {name: values.size for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        hint = "List every combination, e.g. with `itertools.product`."
        raise argument_error("trials", "expected vectors of one length", lengths, hint)
    seeds = arrays.get("seed")
    if seeds is None:
        raise argument_error("trials", "expected the entry 'seed'", list(arrays))
    if seeds.dtype.kind not in "iu" or seeds.min() < 0 or seeds.max() >= 2**31:
        expected = "expected integers from 0 to 2^31 - 1"
        raise argument_error("trials['seed']", expected, seeds.tolist())
    return arrays


class Sweep:
    """The compiled functions of a sweep; one compilation per number of steps in a call.

    A trial's random numbers are a pure function of its seed and the step: `init` gets
    `fold_in(key(seed), 0)`, and step `t` gets `fold_in(fold_in(key(seed), 1), t)`. So a trial
    depends neither on the other trials nor on interruptions of the run.

    Args:
        init: `init(key, trial) -> params` for one trial; `init(key, trial, before)` to start
            from an earlier run's params.
        loss: `loss(params, batch, key, trial) -> (scalar, {name: scalar})` for one trial.
        optimizer: `optimizer(**hyperparameters) -> optax.GradientTransformation`; it is called
            with traced scalars, so it must not branch on their values.
        hyperparameters: the entries of `trials` passed to `optimizer`.
        project: `params -> params`, after each update.
        validate: `validate(params, data, trial) -> {name: scalar}` for one trial.
        plateau: schedule of the step size; call `observe` after each `validate`.
        sequential: run the trials one after the other through one compiled program. This is
            faster for convolutions on a CPU, which `vmap` turns into grouped ones.
    """

    def __init__(
        self,
        init: Callable[..., Any],
        loss: Callable[..., Any],
        optimizer: Callable[..., optax.GradientTransformation],
        *,
        hyperparameters: Sequence[str] = ("learning_rate",),
        project: Callable[[Any], Any] | None = None,
        validate: Callable[..., dict[str, Any]] | None = None,
        plateau: Plateau | None = None,
        sequential: bool = False,
    ):
        def optimizer_of(trial):
            own = optimizer(**{name: trial[name] for name in hyperparameters})
            return own if plateau is None else plateau.wrap(own)

        def init_one(before, trial):
            key = jax.random.fold_in(jax.random.key(trial["seed"]), 0)
            params = init(key, trial) if before is None else init(key, trial, before)
            state = create_state(params, optimizer_of(trial))
            return state.params, state.optimizer_state

        def update_one(state, batch, trial):
            key = jax.random.fold_in(jax.random.key(trial["seed"]), 1)
            update = make_update(
                lambda params, batch, key: loss(params, batch, key, trial),
                optimizer_of(trial),
                project=project,
            )
            return update(state, batch, jax.random.fold_in(key, state.step))

        def init_all(trials, before):
            state = _map(init_one, (None if before is None else 0, 0), 0, before, trials)
            return TrainState(jnp.zeros((), jnp.int32), *state)

        def advance(state, trials, batch, length, stacked):
            def one(state, batch):
                axes = (_AXES, None, 0)
                return _map(update_one, axes, (_AXES, 0), state, batch, trials)

            if length == 1:  # no loop: XLA compiles slow convolutions in loops on the CPU
                batch = jax.tree.map(lambda x: x[0], batch) if stacked else batch
                state, metrics = one(state, batch)
                return state, jax.tree.map(lambda x: x[None], metrics)
            if stacked:
                return jax.lax.scan(one, state, batch, length)
            return jax.lax.scan(lambda state, _: one(state, batch), state, None, length)

        def validate_all(params, data, trials):
            assert validate is not None
            return _map(validate, (0, None, 0), 0, params, data, trials)

        def observe_all(state, values):
            assert plateau is not None
            return _map(plateau.observe, (_AXES, 0), _AXES, state, values)

        self.hyperparameters = tuple(hyperparameters)
        self.plateau, self.sequential = plateau, sequential
        self._init = jax.jit(init_all)
        # The old state is never read again, so its buffers are donated.
        self._advance = jax.jit(advance, static_argnums=(3, 4), donate_argnums=0)
        self._validate = jax.jit(validate_all)
        self._observe = jax.jit(observe_all)

    def init(self, trials: Mapping[str, Any], before: Any = None) -> TrainState:
        """The state before the first step; every leaf but `step` has a leading axis of trials.

        Args:
            trials: name -> (M,).
            before: params of an earlier run of as many trials, passed to `init`.
        """
        return self._init(self._trials(trials), before)

    def shapes(self, trials: Mapping[str, Any], before: Any = None) -> TrainState:
        """Shapes and dtypes of `init(trials, before)`, without computing it."""
        return jax.eval_shape(self._init, self._trials(trials), before)

    def unpacked(self, state: TrainState) -> Any:
        """The state as `run` takes it: if sequential, a tuple with one state per trial."""
        if not self.sequential:
            return state
        count = jax.tree.leaves(state.params)[0].shape[0]
        # Copy the step counter: `run` donates it.
        return tuple(TrainState(jnp.array(state.step), *_rows(state[1:], i)) for i in range(count))

    def packed(self, state: Any) -> TrainState:
        """The inverse of `unpacked`."""
        if not self.sequential:
            return state
        join = lambda *leaves: jnp.concatenate(leaves)
        return TrainState(state[0].step, *(jax.tree.map(join, *[one[k] for one in state])
                                           for k in (1, 2)))  # fmt: skip

    def run(
        self,
        state: Any,
        trials: Mapping[str, Any],
        batch: Any,
        *,
        length: int,
        stacked: bool = False,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """`length` updates in one call; `state` is donated and must not be used afterwards.

        Args:
            state: `unpacked(state)` from `init`, `run` or a checkpoint.
            trials: name -> (M,).
            batch: input of the loss, the same at every step; or, if `stacked`, one batch per
                step along a new leading axis of `length`.
            length: the number of updates, static.
            stacked: whether `batch` has an axis of steps.

        Returns:
            The new state, and the metrics of every step, name -> (length, M).
        """
        arrays = self._trials(trials)
        if not self.sequential:
            return self._advance(state, arrays, batch, length, stacked)
        run = functools.partial(self._advance, batch=batch, length=length, stacked=stacked)
        pairs = [run(one, _rows(arrays, i)) for i, one in enumerate(state)]
        join = lambda *leaves: jnp.concatenate(leaves, axis=1)
        return tuple(one for one, _ in pairs), jax.tree.map(join, *[m for _, m in pairs])

    def validate(self, params: Any, data: Any, trials: Mapping[str, Any]) -> dict[str, jax.Array]:
        """`validate` of every trial, name -> (M,)."""
        arrays = self._trials(trials)
        if not self.sequential:
            return self._validate(params, data, arrays)
        count = arrays["seed"].size
        parts = [self._validate(_rows(params, i), data, _rows(arrays, i)) for i in range(count)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)

    def observe(self, state: TrainState, values: Mapping[str, Any]) -> TrainState:
        """The state after `plateau` observes the values of `validate`, name -> (M,).

        Raises:
            ValueError: the plateau's metric is not among them.
        """
        if self.plateau is None:
            return state
        if self.plateau.metric not in values:
            expected = f"expected the metric {self.plateau.metric!r} among those of `validate`"
            raise argument_error("plateau.metric", expected, sorted(values))
        return self._observe(state, jnp.asarray(values[self.plateau.metric]))

    def result(self, state: TrainState) -> Any:
        """The trained params, (M, ...): the best ones if there is a plateau."""
        return state.params if self.plateau is None else state.optimizer_state.best_params

    def stopped(self, state: TrainState) -> bool:
        """True if the plateau has stopped all trials."""
        return self.plateau is not None and bool(state.optimizer_state.stopped.all())

    def _trials(self, trials: Mapping[str, Any]) -> dict[str, jax.Array]:
        arrays = check_trials(trials)
        missing = [name for name in self.hyperparameters if name not in arrays]
        if missing:
            hint = "Add the entry to `trials`, or take it out of `hyperparameters`."
            expected = f"expected an entry for the hyperparameters {missing}"
            raise argument_error("trials", expected, list(arrays), hint)
        return {name: jnp.asarray(values) for name, values in arrays.items()}


def _rows(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i : i + 1], tree)


def _map(function: Callable[..., Any], in_axes: Any, out_axes: Any, *args: Any) -> Any:
    """`vmap`, but a single trial runs without it.

    Under `vmap` a `cond` computes both branches and a `while_loop` carries its state through
    `where`, a cost that a single trial can avoid.
    """
    axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    if jax.tree.leaves(args[-1])[0].shape[0] > 1:  # of trials, always the last
        return jax.vmap(function, in_axes=axes, out_axes=out_axes)(*args)
    out = function(*(_index(arg, axis) for arg, axis in zip(args, axes, strict=True)))
    return _expand(out, out_axes)


def _index(tree: Any, axis: Any) -> Any:
    if isinstance(axis, TrainState):
        return TrainState(*(_index(x, a) for x, a in zip(tree, axis, strict=True)))
    return tree if axis is None else jax.tree.map(lambda x: x[0], tree)


def _expand(tree: Any, axis: Any) -> Any:
    if isinstance(axis, TrainState):
        return TrainState(*(_expand(x, a) for x, a in zip(tree, axis, strict=True)))
    if isinstance(axis, tuple):
        return tuple(_expand(x, a) for x, a in zip(tree, axis, strict=True))
    return tree if axis is None else jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
