"""How the Hessian of the implicit gradient is damped.

At a minimiser y* of E(., theta) the implicit function theorem gives, for a cotangent v of y*,

    theta_bar = -B^T u,    u = H^-1 v,    H = d2E/dy2,  B = d(dE/dy)/dtheta.

Near a degenerate minimum u explodes. Wibergian learning (Toso, Campbell, Russell, NeurIPS 2019,
eq. 9) damps it, u = (H + lambda I)^-1 v, which is also one step of the proximal-point iteration
differentiated exactly. The filter of order k differentiates k steps,

    u_k = sum_{j<k} lambda^j (H + lambda I)^-(j+1) v,

whose relative bias along an eigenvector of eigenvalue h is (lambda / (h + lambda))^k. Tikhonov's
filter, iterated k times,

    u_k = sum_{j<k} lambda^2j H (H^2 + lambda^2 I)^-(j+1) v,

has the bias (lambda^2 / (h^2 + lambda^2))^k, keeps the sign of negative eigenvalues and nothing of
the null space: for lambda -> 0 it is the derivative of a critical point by the pseudo-inverse.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_choice, check_count
from jaxcv.pytree import register

__all__ = ["MODES", "Damping"]

MODES = ("shift", "plain", "tikhonov")


@dataclasses.dataclass(frozen=True)
class Damping:
    """The damping of an implicit gradient.

    `value` is a leaf of the pytree: it may be traced, so a sweep over it is one `jax.vmap` and
    never recompiles. The other fields are static.

    Attributes:
        value: lambda >= 0, in the units of the Hessian (energy per squared unit of y), or without
            unit where `relative`. The paper uses 0.1 throughout.
        order: k >= 1, the order of the filter. The bias falls as (lambda / (h + lambda))^k and
            the bound on |u| grows as k |v| / lambda.
        mode: `shift` (default) first moves an indefinite H to H' = H + max(0, -lambda_min) I;
            equal to `plain` wherever H is positive semi-definite, and |u| <= k |v| / lambda
            always. lambda is raised to a few n eps |H| where it is smaller than that.
            `plain` is u = (H + lambda I)^-1 v with no guard (but `linear="cg"` ends at negative
            curvature, which `adjoint_residual` shows): the paper's rule, and with value 0
            the undamped rule of Samuel and Tappen (CVPR 2009), its baseline.
            `tikhonov` is u = H (H^2 + lambda^2 I)^-1 v for any H, the derivative of a critical
            point, which need not be a minimum; |u| <= min(k / 2, sqrt(k)) |v| / lambda. It costs
            an eigendecomposition; lambda is raised as in `shift`.
        relative: multiplies lambda by mean(|diag H|), which makes it free of the energy's scale.
            With `linear="cg"` the mean is estimated by products with eight random vectors: the
            larger of |trace(H)| / n and |H|_F / n, the mean itself where H is positive
            semi-definite.

    Raises:
        ValueError: a negative or non-finite value, an order below 1, an unknown mode.
    """

    value: Any = 0.1
    order: int = 1
    mode: str = "shift"
    relative: bool = False

    def __post_init__(self):
        value, hint = self.value, "The paper uses 0.1."
        array = isinstance(value, (int, float, np.number, np.ndarray)) and not isinstance(
            value, bool
        )
        traced = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.number)
        if array:
            value = np.asarray(value)
            if value.dtype.kind not in "fiu" or not np.all(np.isfinite(value) & (value >= 0)):
                rule = "expected a finite number >= 0"
                raise argument_error("damping.value", rule, repr(self.value), hint)
        elif not traced:
            rule = "expected a number, or an array that may be traced"
            raise argument_error("damping.value", rule, repr(value), hint)
        object.__setattr__(self, "order", check_count("damping.order", self.order))
        check_choice("damping.mode", self.mode, MODES)
        if not isinstance(self.relative, (bool, np.bool_)):
            raise argument_error("damping.relative", "expected a bool", repr(self.relative))


register(Damping, ("value",))
