"""Fits curves by a learned least-squares solver, or by Levenberg-Marquardt.

Both take the same start, clip the unknowns to the family's domain, and return every iterate.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error
from jaxcv.energies.curves import curve_energy, curve_family, curve_terms
from jaxcv.implicit.unroll import unrolled_solve
from jaxcv.io.networks import Model
from jaxcv.models.curve_solver import CurveSolver
from jaxcv.solvers.marquardt import MarquardtRule, MarquardtState, damped_step_2x2, marquardt_step
from jaxcv.systems.arguments import takes_model

__all__ = [
    "curve_energies", "curve_fitting_arrays", "fit_curves", "fit_curves_by_marquardt",
    "init_curve_solver",
]  # fmt: skip


class _State(NamedTuple):
    x: jax.Array  # (F, P, 2)
    carry: Any
    energy: jax.Array  # (F, P), E / N before the last move
    move: jax.Array  # (F, P, 2)


def init_curve_solver(key: jax.Array, network: CurveSolver) -> Any:
    """Initial weights of a solver.

    Args:
        key: PRNG key.
        network: its sizes.
    """
    points = jnp.arange(float(network.bins))
    terms = curve_terms("sine", jnp.ones(2), points, jnp.zeros_like(points))
    seen = network.encode(jnp.ones(2), terms, jnp.ones(()), jnp.zeros(2))
    return network.init(key, network.start(()), *seen)


def _families(families: Sequence[str], t: Any, y: Any, start: Any) -> None:
    for family in families:
        curve_family(family)
    shapes = jnp.shape(t), jnp.shape(y), jnp.shape(start)
    f, n, p = len(families), shapes[0][-1], shapes[1][1] if len(shapes[1]) == 3 else -1
    if shapes != ((f, n), (f, p, n), (f, p, 2)):
        expected = f"expected ({f}, N), y ({f}, P, N) and start ({f}, P, 2)"
        raise argument_error("t", expected, shapes, "Stack the families; [None] for a single one.")


def _domain(families: Sequence[str], dtype: Any) -> tuple[jax.Array, jax.Array]:
    ends = [(curve_family(f).domain_lower, curve_family(f).domain_upper) for f in families]
    lower, upper = zip(*ends, strict=True)
    return jnp.asarray(lower, dtype)[:, None], jnp.asarray(upper, dtype)[:, None]


def curve_fitting_arrays(
    params: Any, t: jax.Array, y: jax.Array, start: jax.Array, *, settings: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """`fit_curves` on arrays alone, with the energies: for jit, vmap, grad and export.

    Args:
        params: of the network.
        t: (F, N).
        y: (F, P, N).
        start: (F, P, 2).
        settings: `families`, the F names, and what differs from the defaults of `fit_curves`.

    Returns:
        `unknowns` (F, P, 2) and `energy` (F, P) after the last step, `iterates`
        (num_steps, F, P, 2).
    """
    settings = dict(settings)
    families = tuple(settings.pop("families"))
    iterates = fit_curves(params, families, t, y, start, **settings)
    last = iterates[-1]
    energy = curve_energies(families, t, y, last)
    return {"unknowns": last, "energy": energy, "iterates": iterates}


@overload
def fit_curves(
    params: Any, families: Sequence[str], t: jax.Array, y: jax.Array, start: jax.Array, *,
    network: CurveSolver = ..., num_steps: int = ..., through_encoding: bool = ...,
) -> jax.Array: ...  # fmt: skip
@overload
def fit_curves(
    families: Sequence[str], t: jax.Array, y: jax.Array, start: jax.Array, *, model: Model,
    network: CurveSolver = ..., num_steps: int = ..., through_encoding: bool = ...,
) -> jax.Array: ...  # fmt: skip
@takes_model("curve_fitting")
def fit_curves(
    params: Any,
    families: Sequence[str],
    t: jax.Array,
    y: jax.Array,
    start: jax.Array,
    *,
    model: Model | None = None,
    network: CurveSolver = CurveSolver(),  # noqa: B008, an immutable value
    num_steps: int = 15,
    through_encoding: bool = False,
) -> jax.Array:
    """The unknowns after each step of a learned solver, (num_steps, F, P, 2).

    Differentiable in params and start; memory holds only the states.

    Args:
        params: of `network`, or a `Model`; left out with `model`.
        model: parameters and settings, e.g. `load_pretrained("curves")`:
            `fit_curves(families, t, y, start, model=model)`. Settings that are given replace the
            model's.
        families: F names of `jaxcv.energies.curves.FAMILIES`.
        t: (F, N); N a multiple of the network's bins.
        y: (F, P, N).
        start: (F, P, 2).
        network: the network that updates the unknowns.
        num_steps: number of steps.
        through_encoding: whether to differentiate the network's inputs; False: they are constants,
            and gradients flow through the moves and the LSTM's state.

    Raises:
        ValueError: unknown families, shapes that do not fit, or a model of another system.

    Source: Clark et al., ECCV 2018, Algorithm 1.
    """
    del model  # replaced by `params` and settings
    _families(families, t, y, start)
    lower, upper = _domain(families, start.dtype)

    shown = (lambda tree: tree) if through_encoding else jax.lax.stop_gradient

    def look(family, x, t, y, last, move):
        terms = curve_terms(family, x, t, y)
        seen = network.encode(x, terms, last, move)
        return shown((*seen, terms.energy / t.shape[0]))

    def step(state, params, t, y):
        each = [
            jax.vmap(functools.partial(look, family), (0, None, 0, 0, 0))(
                state.x[i], t[i], y[i], state.energy[i], state.move[i]
            )
            for i, family in enumerate(families)
        ]
        features, steps, energy = (jnp.stack(leaves) for leaves in zip(*each, strict=True))
        carry, move = network.apply(params, state.carry, features, steps)
        x = jnp.clip(state.x + move, lower, upper)
        return _State(x, carry, energy, shown(x - state.x))

    shape = start.shape[:2]
    carry = network.start(shape, start.dtype)
    state = _State(start, carry, jnp.ones(shape, start.dtype), jnp.zeros_like(start))
    solved = unrolled_solve(step, state, params, (t, y), num_steps=num_steps, autodiff="reverse")
    return solved.x


def fit_curves_by_marquardt(
    families: Sequence[str],
    t: jax.Array,
    y: jax.Array,
    start: jax.Array,
    *,
    rules: Sequence[MarquardtRule] | None = None,
    num_steps: int = 15,
) -> jax.Array:
    """The same by Levenberg-Marquardt, (num_steps, F, P, 2), rejected steps included.

    Args:
        families: F names.
        t: (F, N).
        y: (F, P, N).
        start: (F, P, 2).
        rules: of the damping, one for each family; None: the default of `MarquardtRule`.
        num_steps: number of steps.
    """
    _families(families, t, y, start)
    lower, upper = _domain(families, start.dtype)

    def solve(i, start, y):
        family, rule = str(families[i]), (rules or [MarquardtRule()] * len(families))[i]
        energy = lambda x: curve_energy(family, x, t[i], y)

        def propose(x, damping):
            terms = curve_terms(family, x, t[i], y)
            step = damped_step_2x2(terms.hessian, terms.gradient, damping)
            return jnp.clip(x + step, lower[i, 0], upper[i, 0])

        def step(state, _):
            state = marquardt_step(state, propose, lambda a, b: energy(b) - energy(a), rule)
            return state, state.y

        first = MarquardtState(start, jnp.asarray(rule.initial, start.dtype), jnp.asarray(True))
        return jax.lax.scan(step, first, length=num_steps)[1]

    found = [
        jax.vmap(functools.partial(solve, i), out_axes=1)(start[i], y[i])
        for i in range(len(families))
    ]
    return jnp.stack(found, axis=1)


def curve_energies(families: Sequence[str], t: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Energies E (..., F, P) of unknowns x (..., F, P, 2), for t (F, N) and y (F, P, N)."""

    def one(i, x):
        energy = functools.partial(curve_energy, str(families[i]))
        return jax.vmap(energy, (0, None, 0))(x, t[i], y[i])

    flat = x.reshape(-1, *x.shape[-3:])
    each = [jax.vmap(functools.partial(one, i))(flat[:, i]) for i in range(len(families))]
    return jnp.stack(each, axis=1).reshape(x.shape[:-1])
