"""Backpropagation through the steps of a solver, storing only the states.

Plain reverse mode through T steps stores every intermediate value of every step. Here the forward
pass stores the T states, which are its result; the backward pass recomputes one step at a time:

    s_t = f(s_{t-1}, theta),   a_T = s_bar_T,
    theta_bar += (df/dtheta)(s_{t-1})^T a_t,   a_{t-1} = s_bar_{t-1} + (df/ds)(s_{t-1})^T a_t.

Source: backpropagation through time, Werbos 1990; truncated, Williams and Peng 1990; the solver of
Clark et al., "LS-Net", ECCV 2018, Algorithm 1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import (
    argument_error,
    check_arrays,
    check_callable,
    check_choice,
    check_count,
    check_data,
    check_inexact,
    described,
    returning_arrays,
)
from jaxcv.closure import contained, hoist, jit_on, match_varying_axes, spread
from jaxcv.implicit.arguments import check_setting, with_hint

__all__ = ["unrolled_solve"]


def unrolled_solve(
    step: Callable,
    state0: Any,
    theta: Any,
    data: tuple = (),
    *,
    num_steps: int,
    truncation: int | None = None,
    stop: Callable | None = None,
    autodiff: str = "both",
) -> Any:
    """The states of `num_steps` steps, differentiable in theta and state0.

        s_t = step(s_{t-1}, theta, *data),   t = 1 .. num_steps

    Reverse mode costs one more evaluation of each step and the memory of the states; the gradient
    equals that of plain reverse mode. A problem of a vmapped batch whose states are not
    finite gets a zero gradient and leaves the others alone. Arrays that `step` closes over are
    differentiated through as if they were part of theta.

    Args:
        step: `step(state, theta, *data) -> state`, pure; a state keeps its tree, shapes and dtypes.
        state0: pytree of arrays; the floating-point ones get a gradient.
        theta: pytree of floating-point parameters.
        data: tuple of anything else that the step reads; no gradient.
        num_steps: how many steps, at least 1; static.
        truncation: k: only the last k steps taken are differentiated; earlier states are
            constants, and state0 gets a gradient only if at most k steps are taken. None: all.
        stop: `stop(state, next_state) -> bool`. The first next_state with a true result is the
            last state computed and fills the rest of the result, e.g. LS-Net's
            ``lambda old, new: jnp.linalg.norm(new.x - old.x) < eps``. A batch under `jax.vmap` runs
            until its last problem has stopped. Second derivatives and forward mode need None.
        autodiff: `both`: reverse and forward mode, for use inside an energy; or `reverse`: the
            same numbers by a `jax.custom_vjp` only, slightly faster to compile.

    Returns:
        The states, a tree like state0 with a leading axis of num_steps;
        ``jax.tree.map(lambda s: s[-1], states)`` is the last state.

    Raises:
        ValueError: num_steps or truncation below 1, a theta that is not floating-point, data that
            is not a tuple, a step that does not return a state like state0, a stop that does not
            return one bool.

    Example:
        >>> step = lambda x, rate: x - rate * jnp.cos(x)
        >>> last = lambda rate: unrolled_solve(step, jnp.ones(3), rate, num_steps=15)[-1]
        >>> gradient = jax.grad(lambda rate: jnp.sum(last(rate)))(0.1)
    """
    num_steps = check_count("num_steps", num_steps)
    truncation = num_steps if truncation is None else check_count("truncation", truncation)
    check_choice("autodiff", autodiff, ("both", "reverse"))
    check_callable("step", step, "(state, theta, *data)")
    if stop is not None:
        check_callable("stop", stop, "(state, next_state)")
    check_setting("stop", stop)
    check_arrays("state0", state0)
    check_inexact("theta", theta, "Integers belong in `data`.")
    check_data(data)
    state0, theta = jax.tree.map(jnp.asarray, (state0, theta))
    static = (stop, num_steps, min(truncation, num_steps), autodiff)
    arguments = (state0, theta, jax.lax.stop_gradient(data))
    hint = "" if stop is None else 'Pass stop=None and autodiff="both".'
    return with_hint(jit_on(step, _unrolled, static), *arguments, hint=hint)


def _unrolled(step, stop, num_steps, truncation, autodiff, state0, theta, data):
    step = returning_arrays("step", step)
    state0, theta = spread(step, (state0, theta, *data), state0, theta)
    hoisted = hoist(step, state0, theta, *data)
    got, want = described(hoisted.shape), described(jax.eval_shape(lambda: state0))
    if got != want:
        hint = "A state keeps its tree, shapes and dtypes; give `state0` those of the result."
        raise argument_error("step", f"must return a state like state0, {want}", got, hint)
    theta_leaves, data_leaves = jax.tree.leaves(theta), jax.tree.leaves(data)
    num_data = len(data_leaves)

    def advance(state, theta, data):
        step_data, fixed = data[0][:num_data], data[0][num_data:]
        return hoisted.call((state, theta[0], step_data), theta[1], fixed)

    has_stopped: Callable | None = None
    captured = ([], [])
    if stop is not None:
        stopping = hoist(returning_arrays("stop", stop), state0, state0)
        shapes = jax.tree.leaves(stopping.shape)
        if [(s.shape, s.dtype) for s in shapes] != [((), jnp.bool_)]:
            hint = "Compare a norm: jnp.linalg.norm(...) < eps."
            raise argument_error("stop", "must return one bool", described(shapes), hint)
        captured = jax.lax.stop_gradient((stopping.floating, stopping.fixed))

        has_stopped = lambda old, new, data: stopping.call((old, new), *data[1])

    data = (data_leaves + hoisted.fixed, captured)
    theta = (theta_leaves, hoisted.floating)
    if autodiff == "both" and has_stopped is None:
        return _solve_both(advance, num_steps, truncation, state0, theta, data)
    return _solve(advance, has_stopped, num_steps, truncation, state0, theta, data)


def _run(advance, has_stopped, num_steps, state0, theta, data):
    """The states, and the number of steps taken: a Python int if `has_stopped` is None."""
    if has_stopped is None:

        def body(state, _):
            state = advance(state, theta, data)
            return state, state

        return jax.lax.scan(body, state0, length=num_steps)[1], num_steps

    def go_on(carry):
        _, _, stopped, count = carry
        return ~stopped & (count < num_steps)

    def take(carry):
        state, states, _, count = carry
        new = advance(state, theta, data)
        states = jax.tree.map(lambda stack, one: stack.at[count].set(one), states, new)
        return new, states, has_stopped(state, new, data), count + 1

    empty = jax.tree.map(lambda s: jnp.zeros((num_steps, *s.shape), s.dtype), state0)
    start = match_varying_axes(take, (state0, empty, jnp.asarray(False), jnp.int32(0)))
    _, states, _, count = jax.lax.while_loop(go_on, take, start)
    index = jnp.minimum(jnp.arange(num_steps), count - 1)
    return jax.tree.map(lambda stack: stack[index], states), count


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _solve_both(advance, num_steps, truncation, state0, theta, data):
    del truncation
    return _run(advance, None, num_steps, state0, theta, data)[0]


@_solve_both.defjvp
def _solve_both_jvp(advance, num_steps, truncation, primals, tangents):
    """s_dot_t = (df/ds) s_dot_{t-1} + (df/dtheta) theta_dot, along the stored states.

    Its transpose is the pullback of `_solve`, which recomputes the products from the states.
    """
    state0, theta, data = primals
    states = _solve_both(advance, num_steps, truncation, state0, theta, data)
    leaves, treedef = jax.tree.flatten(state0)
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = jnp.asarray(True)
    for leaf in jax.tree.leaves(states):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite = finite & jnp.all(jnp.isfinite(leaf))
    masked = lambda dot: contained(finite, dot)
    theta_dot = jax.tree.map(masked, tangents[1])
    begin = [masked(jax.tree.leaves(tangents[0])[i]) for i in moving]
    first = num_steps - truncation
    if first:
        begin = [jnp.zeros_like(dot) for dot in begin]
    before = jax.tree.map(
        lambda start, stack: jnp.concatenate([start[None], stack[:-1]])[first:], state0, states
    )

    @jax.checkpoint
    def advanced(dots, state):
        full = jax.tree.leaves(state)

        def one(floating, theta):
            whole = list(full)
            for i, leaf in zip(moving, floating, strict=True):
                whole[i] = leaf
            new = jax.tree.leaves(advance(treedef.unflatten(whole), theta, data))
            return [new[i] for i in moving]

        at = ([full[i] for i in moving], theta)
        return jax.jvp(one, at, (dots, theta_dot))[1]

    def body(dots, state):
        dots = advanced(dots, state)
        return dots, dots

    _, dots = jax.lax.scan(body, begin, before)
    out: list[Any] = []
    for i, stack in enumerate(jax.tree.leaves(states)):
        if i not in moving:
            out.append(np.zeros(stack.shape, jax.dtypes.float0))
            continue
        dot = dots[moving.index(i)]
        dot = jnp.concatenate([jnp.zeros((first, *dot.shape[1:]), dot.dtype), dot])
        out.append(masked(dot))
    return states, jax.tree.structure(states).unflatten(out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _solve(advance, has_stopped, num_steps, truncation, state0, theta, data):
    del truncation
    return _run(advance, has_stopped, num_steps, state0, theta, data)[0]


def _solve_forward(advance, has_stopped, num_steps, truncation, state0, theta, data):
    if has_stopped is None:
        # Return the result with its rule, so that second derivatives use the rule too.
        states = _solve(advance, has_stopped, num_steps, truncation, state0, theta, data)
        count = None
    else:
        states, count = _run(advance, has_stopped, num_steps, state0, theta, data)
    return states, (state0, states, count, theta, data)


def _solve_backward(advance, has_stopped, num_steps, truncation, residuals, states_bar):
    state0, states, count, theta, data = residuals
    if has_stopped is None:
        count, first = num_steps, max(num_steps - truncation, 0)  # static: the loop is a scan
    else:
        first = jnp.maximum(count - truncation, 0)
    leaves, treedef = jax.tree.flatten(state0)
    stacks, all_bars = jax.tree.leaves(states), jax.tree.leaves(states_bar)
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    bars = [all_bars[i] for i in moving]

    def backward(index, carry):
        t = count - 1 - index  # the step from states[t - 1], or state0, to states[t]
        state_bar, theta_bar = carry
        state_bar = [s + b[t] for s, b in zip(state_bar, bars, strict=True)]
        before = [
            jnp.where(t == 0, leaf, stack[jnp.maximum(t - 1, 0)])
            for leaf, stack in zip(leaves, stacks, strict=True)
        ]

        def one(floating, theta):
            full = list(before)
            for i, leaf in zip(moving, floating, strict=True):
                full[i] = leaf
            new = jax.tree.leaves(advance(treedef.unflatten(full), theta, data))
            return [new[i] for i in moving]

        _, pull = jax.vjp(one, [before[i] for i in moving], theta)
        state_bar, more = pull(state_bar)
        return state_bar, jax.tree.map(jnp.add, theta_bar, more)

    if has_stopped is None:
        state_bar = [jnp.zeros_like(leaves[i]) for i in moving]
    else:  # the states after the last step are copies of its state
        behind = jnp.arange(num_steps) >= count
        state_bar = [jnp.tensordot(behind.astype(bar.dtype), bar, 1) for bar in bars]
    carry = (state_bar, jax.tree.map(jnp.zeros_like, theta))
    state_bar, theta_bar = jax.lax.fori_loop(0, count - first, backward, carry)

    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(stacks[i])) for i in moving]))
    theta_bar = jax.tree.map(lambda bar: contained(finite, bar), theta_bar)
    full: list[Any] = [np.zeros(leaf.shape, jax.dtypes.float0) for leaf in leaves]
    for i, bar in zip(moving, state_bar, strict=True):
        full[i] = jnp.where(finite & (first == 0), bar, 0)
    return treedef.unflatten(full), theta_bar, None


_solve.defvjp(_solve_forward, _solve_backward)
