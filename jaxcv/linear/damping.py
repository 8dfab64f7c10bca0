"""Damping of the Hessian in the implicit gradient.

At a minimiser y* of E(., theta) the implicit function theorem gives, for a cotangent v of y*,

    theta_bar = -B^T u,    u = H^-1 v,    H = d2E/dy2,  B = d(dE/dy)/dtheta.

Near a degenerate minimum u explodes. Wibergian learning (Toso, Campbell, Russell, NeurIPS 2019,
eq. 10) damps it, u = (H + lambda I)^-1 v, which is also one step of the proximal-point iteration
differentiated exactly. The filter of order k differentiates k steps,

    u_k = sum_{j<k} lambda^j (H + lambda I)^-(j+1) v,

whose relative bias along an eigenvector of eigenvalue h is (lambda / (h + lambda))^k. Tikhonov's
filter, iterated k times,

    u_k = sum_{j<k} lambda^2j H (H^2 + lambda^2 I)^-(j+1) v,

has the bias (lambda^2 / (h^2 + lambda^2))^k, keeps the sign of negative eigenvalues and removes
the null space: as lambda -> 0 it becomes the pseudo-inverse, for derivatives of critical points.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice, check_count, check_flag, check_numbers
from jaxcv.pytree import register

__all__ = ["MODES", "Damping", "check_damping"]

MODES = ("shift", "plain", "tikhonov")


@dataclasses.dataclass(frozen=True)
class Damping:
    """The damping of an implicit gradient.

    `value` is a leaf of the pytree: it may be traced, so `jax.vmap` sweeps it without recompiling.
    The other fields are static.

    Attributes:
        value: lambda >= 0, in the units of the Hessian (energy per squared unit of y);
            dimensionless if `relative`. The paper uses 0.1 throughout.
        order: k >= 1, the order of the filter. The bias falls as (lambda / (h + lambda))^k and
            the bound on |u| grows as k |v| / lambda.
        mode: `shift` (default) first moves an indefinite H to H' = H + max(0, -lambda_min) I;
            equal to `plain` wherever H is positive semi-definite, and |u| <= k |v| / lambda
            always. Where round-off requires it, lambda is raised to a few n eps |H|.
            `plain` is u = (H + lambda I)^-1 v, unguarded: the paper's rule; with value 0, the
            undamped rule of Samuel and Tappen (CVPR 2009), its baseline. `linear="cg"` stops at
            negative curvature, which shows in `adjoint_residual`.
            `tikhonov` is u = H (H^2 + lambda^2 I)^-1 v for any H, the derivative of a critical
            point, which need not be a minimum; |u| <= min(k / 2, sqrt(k)) |v| / lambda. It costs
            an eigendecomposition, except with `cg`; lambda is raised as in `shift`.
        relative: multiplies lambda by mean(|diag H|), which makes it independent of the energy's
            scale. `linear="cg"` estimates the mean from products with eight random vectors as the
            larger of |trace(H)| / n and |H|_F / n, which is trace(H) / n where H >= 0.

    Raises:
        ValueError: a negative or non-finite value, an order below 1, an unknown mode.
    """

    value: Any = 0.1
    order: int = 1
    mode: str = "shift"
    relative: bool = False

    def __post_init__(self):
        hint = "The paper uses 0.1."
        check_numbers("damping.value", self.value, "a finite number", zero=True, hint=hint)
        object.__setattr__(self, "order", check_count("damping.order", self.order))
        check_choice("damping.mode", self.mode, MODES)
        check_flag("damping.relative", self.relative)


register(Damping, ("value",))


def check_damping(damping: Any) -> None:
    """Raises ValueError unless `damping` is a `Damping` with a single value."""
    if not isinstance(damping, Damping):
        hint = "Write damping=Damping(0.1)."
        raise argument_error("damping", "expected a Damping", repr(damping), hint)
    if jnp.shape(damping.value) != ():
        got = f"an array of shape {jnp.shape(damping.value)}"
        hint = "Sweep it with jax.vmap over Damping(values)."
        raise argument_error("damping.value", "expected one number", got, hint)
