"""LS-Net for small problems: a recurrent network updates each unknown from J and r.

All unknowns of all problems share the weights; each unknown has its own state. Source: Clark et
al., "LS-Net", ECCV 2018, sections 5 and 7.1; Andrychowicz et al., "Learning to learn by gradient
descent by gradient descent", NeurIPS 2016, for updates per coordinate.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice
from jaxcv.solvers.marquardt import damped_step_2x2

__all__ = ["ENCODINGS", "CurveSolver", "encode_curve"]

ENCODINGS = ("paper", "gradient", "gauss_newton")
_DAMPINGS = (1e-2, 1.0)  # of the two Gauss-Newton steps in the network's input


def _damped_steps(hessian: jax.Array, gradient: jax.Array) -> jax.Array:
    """Steps (2 lambdas, 2 unknowns), clipped to [-3, 3]."""
    steps = [damped_step_2x2(hessian, gradient, damping, 1e-6) for damping in _DAMPINGS]
    return jnp.clip(jnp.stack(steps), -3, 3)


def encode_curve(
    x: jax.Array,
    terms: Any,
    last: jax.Array,
    move: jax.Array,
    encoding: str,
    *,
    progress: bool = True,
    bins: int = 10,
) -> tuple[jax.Array, jax.Array]:
    """The network's input for one problem, (2, C): a row for each unknown.

    Values that span many decades go through asinh. Every encoding has J^T J, the residual's mean in
    bins, and x. `progress` adds the energy, its last change and the last move. `gradient` adds
    J^T r and the bin means of J, which give the sign of J; `gauss_newton` also adds two damped
    steps. The paper's input is `paper` without `progress`, and with one bin for each point.

    Args:
        x: (2,).
        terms: `jaxcv.energies.curves.CurveTerms` at x.
        last: () the previous energy, divided by N.
        move: (2,) the last move.
        encoding: one of ENCODINGS.
        progress: whether to add the energy, its last change and the last move.
        bins: number of bins of the residual and of J; it divides N.

    Returns:
        The features (2, C), and the damped steps (2 lambdas, 2 unknowns).

    Raises:
        ValueError: no such encoding, or a number of points that is not a multiple of the bins.
    """
    check_choice("encoding", encoding, ENCODINGS)
    n = terms.residual.shape[0]
    if n % bins:
        raise argument_error("t", f"expected a multiple of {bins} points", n, "Leave some out.")
    h, g, energy = terms.hessian / n, terms.gradient / n, terms.energy / n
    squash = lambda value, scale: jnp.arcsinh(value / scale)
    means = squash(terms.residual.reshape(bins, -1).mean(1), 0.1)
    rows = squash(terms.jacobian.reshape(2, bins, -1).mean(2), 0.1)
    steps = _damped_steps(h, g)
    log = jnp.log(1e-3 + energy)
    features = []
    for k, other in ((0, 1), (1, 0)):
        squares = jnp.stack([h[k, k], h[k, other], h[other, other]])
        alone = [x[k], x[other]]
        if progress:
            alone += [log, log - jnp.log(1e-3 + last), move[k], jnp.sqrt(2 * energy)]
        parts = [squash(squares, 0.1), jnp.stack(alone), means]
        if encoding != "paper":
            both = jnp.stack([g[k], g[other]])
            parts += [squash(both, 1e-2), squash(both, 1.0), rows[k], rows[other]]
        if encoding == "gauss_newton":
            parts += [steps[:, k], squash(steps[:, k], 1e-2)]
        features.append(jnp.concatenate(parts))
    return jnp.stack(features), steps


class CurveSolver(nn.Module):
    """Two LSTM layers and a linear layer, which give the move of each unknown.

    The move is a free output of the network. With the encoding `gauss_newton` the two damped steps
    are added, with weights from the network.

    Attributes:
        hidden: units of each LSTM layer.
        encoding: one of ENCODINGS.
        progress: of `encode_curve`.
        bins: of `encode_curve`.
    """

    hidden: int = 20
    encoding: str = "gauss_newton"
    progress: bool = True
    bins: int = 10

    def setup(self):  # noqa: D102
        self.cells = [nn.OptimizedLSTMCell(self.hidden) for _ in range(2)]
        self.head = nn.Dense(3, kernel_init=nn.initializers.normal(1e-2))

    @nn.nowrap
    def encode(
        self, x: jax.Array, terms: Any, last: jax.Array, move: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """`encode_curve` with the settings of this network."""
        return encode_curve(
            x, terms, last, move, self.encoding, progress=self.progress, bins=self.bins
        )

    def __call__(self, carry: Any, features: jax.Array, steps: jax.Array) -> Any:
        """One step.

        Args:
            carry: from `start` or the previous step.
            features: (..., 2, C).
            steps: (..., 2 lambdas, 2 unknowns).

        Returns:
            The new carry, and the moves (..., 2).
        """
        out, states = features, []
        for cell, state in zip(self.cells, carry, strict=True):
            state, out = cell(state, out)
            states.append(state)
        free, first, second = jnp.moveaxis(self.head(out), -1, 0)
        if self.encoding == "gauss_newton":
            free = free + nn.sigmoid(first + 1) * steps[..., 0, :] + second * steps[..., 1, :]
        return tuple(states), free

    @nn.nowrap
    def start(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """The carry before the first step, for problems of `shape`, e.g. (F, P)."""
        zeros = jnp.zeros((*shape, 2, self.hidden), dtype)
        return ((zeros, zeros),) * 2
