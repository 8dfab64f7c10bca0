"""How the Hessian of the implicit gradient is damped, and what is reported of it.

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
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcv.checks import argument_error, check_choice

__all__ = ["MODES", "Damping", "Diagnostics"]

MODES = ("shift", "plain", "tikhonov")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["order", "mode", "relative"],
)
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
        # Unflattening passes tracers and placeholders through here: only numbers are checked.
        number = isinstance(self.value, (int, float, np.number)) or (
            isinstance(self.value, np.ndarray) and self.value.dtype.kind in "fiu"
        )
        wrong = number and not np.all(np.isfinite(self.value) & (np.asarray(self.value) >= 0))
        if wrong or isinstance(self.value, (str, complex)):
            raise argument_error(
                "damping.value", "expected a finite number >= 0", self.value, "The paper uses 0.1."
            )
        if not isinstance(self.order, int) or self.order < 1:
            raise argument_error(
                "damping.order", "expected an integer >= 1", self.order, "1 is the paper's rule."
            )
        check_choice("damping.mode", self.mode, MODES)


class Diagnostics(NamedTuple):
    """What is known of a minimiser and of the damped system at it; no field has a gradient.

    From `argmin` the fields speak of a cotangent of norm one; from `argmin_vjp` of the one given.

    Attributes:
        gradient_norm: |dE/dy| at y.
        newton_decrement: sqrt(g^T H'^-1 g): the square root of twice the energy that a Newton
            step still expects to gain.
        min_eigenvalue: smallest eigenvalue of H. From 17 unknowns on, where H is positive definite
            and the mode is `shift`, by a short Lanczos run on H^-1; with `Arrow` and
            `BlockDiagonal` by bisection, to 1e-3 of itself and not above it; with `linear="cg"`
            the smallest Ritz value of a short Lanczos run, which is never below it.
        negative_eigenvalues: how many eigenvalues of H are below minus round-off; with
            `linear="cg"` how many Ritz values.
        damping_used: the lambda that was used, after `relative` and the precision's floor.
        gradient_bound: rigorous bound on |u|. `shift`: k |v| / lambda. `tikhonov`:
            min(k / 2, sqrt(k)) |v| / lambda. `plain`: by the smallest eigenvalue, infinite where
            H + lambda I is not positive definite and with `linear="cg"`, which does not know it.
        bias_estimate: (lambda / (h + lambda))^k at the smallest eigenvalue h of H' (`tikhonov`:
            (lambda^2 / (h^2 + lambda^2))^k at the smallest |h|): the largest relative error that
            damping causes in any direction of u.
        error_estimate: estimate of the relative error of u: bias, the move of y* that a Newton
            step still expects (through the change of H along it), the adjoint's residual, and
            `structure_error`.
        adjoint_residual: relative residual of the system that u solves; 0 where no cotangent was
            given.
        certified: y is finite, its solver has converged (`argmin_vjp`, which knows no solver:
            the Newton step is below sqrt(eps) |y|), H is positive definite there, and the
            Newton-Kantorovich test |H^-1| |H^-1 g| K <= 1/2 holds with K, the Lipschitz constant
            of H, estimated along the Newton step. An estimate, not a proof, since K is. Never true
            with `linear="cg"`, which does not know the smallest eigenvalue, nor where
            `structure_error` is above sqrt(eps).
        structure_error: |H p - M p| / |H p| for a random p and the matrix M of the structure that
            `linear` declares (`Arrow`, `BlockDiagonal`); 0 for the other methods. Far above
            round-off the energy does not have that structure.
    """

    gradient_norm: jax.Array
    newton_decrement: jax.Array
    min_eigenvalue: jax.Array
    negative_eigenvalues: jax.Array
    damping_used: jax.Array
    gradient_bound: jax.Array
    bias_estimate: jax.Array
    error_estimate: jax.Array
    adjoint_residual: jax.Array
    certified: jax.Array
    structure_error: jax.Array
