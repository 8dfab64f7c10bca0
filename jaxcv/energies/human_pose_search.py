"""Minimisers of the energy of `human_pose` at many rotations, with two kinds of gradient.

The energy is quadratic except for the kernel: each pass of reweighted least squares solves the
normal equations with weights from the last residuals. Eliminating the free pose joint by joint
leaves a system in the 29 coefficients:

    M_j q_j - (B a)_j = g_j,   M_j = (1 + l) I + P_j,   P_j = sum_v J_vj^T h_vj J_vj   (3 x 3)
    (sum_j B_j^T N_j B_j + c D^T D + l I) a = sum_j B_j^T M_j^-1 g_j + c tau D^T e_0

with N_j = I - M_j^-1.

P_j and g_j are formed in the frame of the rotated pose R q, where the cameras do not depend on the
angle; every step is then a product of all F R problems (frames and angles) with one matrix. So is
the sum over j: the 102 distinct entries of the N_j times a fixed (102, 29 * 29) table. Work per
joint has the problems in its last axes, (..., 17, F, R), where it vectorises.

The same elimination with h - (h^3 / delta^2) r r^T in place of h solves with the exact Hessian, for
Newton steps and the implicit gradient: with u = (H + lambda I)^-1 y_bar, the cotangent of the
parameters is that of -dE/dy . u. H is positive definite, because the kernel is convex.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.human_pose import NUM_COEFFICIENTS, NUM_JOINTS, PoseTerms
from jaxcv.implicit.attach import attach
from jaxcv.linear.damping import Damping

__all__ = ["RIDGE", "Minimisers", "search"]

RIDGE = 1e-3  # l in the normal equations, for the robust kernel or a single view
NEWTON_STEPS = 2  # after the passes, for the implicit gradient
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # distinct entries of a symmetric 3 x 3


class Minimisers(NamedTuple):
    """Minimisers of one component, for F frames and R rotations.

    Attributes:
        coefficients: (F, R, 29) a.
        joints: (F, R, 17, 3) the rotated pose R q.
        score: (F, R) for comparing rotations, without the ridge: the energy with the kernel, twice
            the energy of plain least squares.
        slope: (F, R) norm of dE/d(a, q), ridge included.
    """

    coefficients: jax.Array
    joints: jax.Array
    score: jax.Array
    slope: jax.Array


def search(
    terms: PoseTerms,
    angles: jax.Array,
    points: jax.Array,
    visible: jax.Array,
    *,
    robust: bool = True,
    passes: int = 3,
    free_pose: bool = True,
    gradient: str = "unrolled",
    damping: Any = 0.0,
    compatibility: bool = False,
) -> Minimisers:
    """Reweighted least squares at every frame and rotation.

    Args:
        terms: of one component (without the axis K).
        angles: (R,) [rad].
        points: (F, V, 17, 2), normalised.
        visible: (F, V, 17) bool.
        robust: the pseudo-Huber kernel with a ridge of `RIDGE`; else plain least squares, solved
            once, with this ridge only for a single view, which does not determine the depth.
        passes: reweighted solves, after the first solve with all weights one.
        free_pose: whether q may leave the model; else q = sum_j a_j B_j.
        gradient: `unrolled` differentiates the passes; `implicit` adds Newton steps if `robust` and
            differentiates the minimiser.
        damping: lambda of the implicit gradient, in the units of the Hessian.
        compatibility: add the release's small constants to the residuals.

    Source: Toso et al. 2019, released code; Holland and Welsch 1977 for the reweighting.
    """
    ridge = RIDGE if robust or points.shape[1] == 1 else 0.0
    settings = _Settings(robust, free_pose, compatibility, ridge)
    if not robust:
        terms = terms._replace(prior_weight=jnp.ones_like(terms.prior_weight))
    layout = lambda x: jnp.moveaxis(x, 0, -1)[..., None]  # (F, ...) -> (..., F, 1)
    seen = _Seen(
        layout(jnp.moveaxis(points, -1, 2)), layout(visible)[:, None],
        jnp.sin(angles), jnp.cos(angles),
    )  # fmt: skip
    lanes = _Lanes(
        terms if gradient == "unrolled" else jax.lax.stop_gradient(terms), seen, settings
    )
    state = _reweighted(lanes, passes)
    if gradient == "implicit":
        if robust:
            newton = lambda state, _: (_newton_step(lanes, state), None)
            state, _ = jax.lax.scan(newton, state, length=NEWTON_STEPS)
        state = _attach(settings, terms, state, seen, jnp.asarray(damping))
        lanes = _Lanes(terms, seen, settings)
    return Minimisers(
        state.coefficients.reshape(points.shape[0], angles.shape[0], NUM_COEFFICIENTS),
        jnp.transpose(state.turned, (2, 3, 1, 0)),
        lanes.score(state),
        jax.lax.stop_gradient(_slope_norm(lanes, state)),
    )


class _Settings(NamedTuple):
    robust: bool
    free_pose: bool
    compatibility: bool
    ridge: float


class _Seen(NamedTuple):
    """Detections, their visibility and the angles."""

    points: jax.Array  # (V, 2, 17, F, 1)
    visible: jax.Array  # (V, 1, 17, F, 1)
    sin: jax.Array  # (R,)
    cos: jax.Array


class _State(NamedTuple):
    coefficients: jax.Array  # (L, 29), L = F R, the angles of a frame contiguous
    turned: jax.Array  # (3, 17, F, R) R q


class _Lanes(NamedTuple):
    """F R problems with common terms."""

    terms: PoseTerms
    seen: _Seen
    settings: _Settings

    @property
    def shape(self):
        """F, R."""
        return self.seen.points.shape[3], self.seen.sin.shape[0]

    @property
    def weights(self):
        """(V, 2, 17, F, 1) w, zero where not visible."""
        return self.terms.weights.T[:, :, None, None] * self.seen.visible

    @property
    def rays(self):
        """(V, 2, 3) the first two rows of each camera."""
        return self.terms.cameras[:, :2]

    @property
    def basis(self):
        """(29, 3, 17)."""
        return self.terms.basis.swapaxes(1, 2)

    def rows(self, turned):
        """(V, 2, 17, F, R) weighted reprojection residuals."""
        seen = jnp.einsum("vic,cjfr->vijfr", self.rays, turned)
        return self.weights * (seen - self.seen.points)

    def squares(self, rows):
        """(V, 17, F, R) squared norms over the kernel's width."""
        if self.settings.compatibility:
            return (jnp.sum((rows + 1e-7) ** 2, axis=1) + 1e-6) / self.terms.width**2
        return jnp.sum(rows**2, axis=1) / self.terms.width**2

    def modelled(self, coefficients):
        """(3, 17, F, R) R B a."""
        flat = self.basis.reshape(NUM_COEFFICIENTS, -1)
        poses = jax.lax.dot_general(flat, coefficients, (((0,), (1,)), ((), ())))
        return _turn(poses.reshape(3, NUM_JOINTS, *self.shape), self.seen.sin, self.seen.cos)

    def score(self, state):
        """(F, R) see `Minimisers`."""
        rows = self.rows(state.turned)
        model = jnp.sum((self.modelled(state.coefficients) - state.turned) ** 2, axis=(0, 1))
        prior = state.coefficients @ self.terms.prior.T
        prior = jnp.sum(prior.at[:, 0].add(-self.terms.target) ** 2, axis=1).reshape(self.shape)
        if not self.settings.robust:
            return model + jnp.sum(rows**2, axis=(0, 1, 2)) + prior
        square = self.squares(rows)
        kernel = self.terms.width**2 * jnp.sum(square / (jnp.sqrt(1 + square) + 1), axis=(0, 1))
        return 0.5 * model + kernel + 0.5 * self.terms.prior_weight * prior

    def energy(self, state):
        """(F, R) the minimised energy, ridge included."""
        squares = jnp.sum(state.coefficients**2, axis=1).reshape(self.shape)
        if self.settings.free_pose:
            squares = squares + jnp.sum(state.turned**2, axis=(0, 1))
        score = self.score(state)
        return (score if self.settings.robust else score / 2) + self.settings.ridge / 2 * squares


def _reweighted(lanes, passes):
    terms = lanes.terms
    one = jnp.ones((1, 1, *lanes.shape), terms.basis.dtype)
    state = _pass(lanes, one, jnp.ones_like(terms.prior_weight))

    def reweighted(state, _):
        h = jax.lax.rsqrt(1 + lanes.squares(lanes.rows(state.turned)))
        return _pass(lanes, h, terms.prior_weight), None

    length = passes if lanes.settings.robust else 0
    return jax.lax.scan(reweighted, state, length=length)[0] if length else state


def _outer(first, second):
    """(..., 6) distinct entries of the symmetric part of the outer products of (..., 3)."""
    rows = [
        (first[..., i] * second[..., j] + first[..., j] * second[..., i]) / 2 for i, j in _PAIRS
    ]
    return jnp.stack(rows, axis=-1)


def _pass(lanes, h, prior_weight):
    """The minimiser for the weights h (V, 17, F, R) of the points."""
    heavy = lanes.weights**2 * h[:, None]  # (V, 2, 17, F, R)
    blocks = jnp.einsum("vic,vijfr->cjfr", _outer(lanes.rays, lanes.rays), heavy)
    g = jnp.einsum("vic,vijfr->cjfr", lanes.rays, heavy * lanes.seen.points)
    pull = prior_weight * lanes.terms.target * lanes.terms.prior[0]
    right = jnp.broadcast_to(pull, (lanes.shape[0] * lanes.shape[1], NUM_COEFFICIENTS))
    return _factor(lanes, blocks, prior_weight)(g, right)


def _factor(lanes, blocks, prior_weight, damping=0.0):
    """The solver of the normal equations, with the free pose eliminated.

    Args:
        lanes: F R problems.
        blocks: (6, 17, F, R) P_j in the frame of R q.
        prior_weight: () c.
        damping: () added to the diagonal of the Hessian, besides the ridge.

    Returns:
        (g (3, 17, F, R), right (L, 29)) -> `_State` that solves the system; g in the frame of R q.
        Without a free pose, the basis maps R^T g to the right-hand side.
    """
    lift = lanes.settings.ridge + damping
    turn = lanes.seen.sin, lanes.seen.cos
    flat = lanes.basis.reshape(NUM_COEFFICIENTS, -1)
    blocks, inverse = tuple(blocks), None
    if lanes.settings.free_pose:
        inverse = _inverse(tuple(p + 1 + lift if i < 3 else p for i, p in enumerate(blocks)))
        bent = tuple(p + lift if i < 3 else p for i, p in enumerate(blocks))
        blocks = _product(inverse, bent)  # I - M^-1, without cancellation
    entries = jnp.stack(_turn_block_back(blocks, *turn)).reshape(len(_PAIRS) * NUM_JOINTS, -1)
    table = _table(lanes.basis)
    square = jax.lax.dot_general(entries, table, (((0,), (0,)), ((), ())))
    square = square.reshape(-1, NUM_COEFFICIENTS, NUM_COEFFICIENTS)
    prior = lanes.terms.prior.T @ lanes.terms.prior
    matrix = square + prior_weight * prior + lift * jnp.eye(NUM_COEFFICIENTS, dtype=flat.dtype)
    # Only the lower half is read; the solve's gradient reuses the factor.
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(matrix), symmetrize_input=False)
    multiply = lambda x: jnp.einsum("lij,lj->li", matrix, x)
    back = lambda _, v: jax.scipy.linalg.cho_solve((factor, True), v[..., None])[..., 0]

    def system(g, right):
        moved = _turn_back(g if inverse is None else _apply(inverse, g), *turn)
        moved = moved.reshape(flat.shape[1], -1)
        right = right + jax.lax.dot_general(moved, flat, (((0,), (1,)), ((), ())))
        coefficients = jax.lax.custom_linear_solve(multiply, right, back, symmetric=True)
        turned = lanes.modelled(coefficients)
        if inverse is not None:
            turned = _apply(inverse, turned + g)
        return _State(coefficients, turned)

    return system


def _table(basis):
    """(102, 29 * 29): maps entries of the N_j to sum_j B_j^T N_j B_j; basis (29, 3, 17)."""
    blocks = []
    for i, j in _PAIRS:
        block = jnp.einsum("pj,qj->jpq", basis[:, i], basis[:, j])
        blocks.append(block if i == j else block + block.swapaxes(1, 2))
    return jnp.stack(blocks).reshape(len(_PAIRS) * NUM_JOINTS, NUM_COEFFICIENTS**2)


def _hessian(lanes, state, damping=0.0):
    """The solver of the exact Hessian at a state."""
    rays, weights = lanes.rays, lanes.weights
    if not lanes.settings.robust:
        heavy = jnp.broadcast_to(weights**2, (*weights.shape[:3], *lanes.shape))
        blocks = jnp.einsum("vic,vijfr->cjfr", _outer(rays, rays), heavy)
        return _factor(lanes, blocks, lanes.terms.prior_weight, damping)
    rows = lanes.rows(state.turned)
    h = jax.lax.rsqrt(1 + lanes.squares(rows))[:, None]
    bend = h**3 / lanes.terms.width**2
    pulled = weights * rows
    blocks = jnp.einsum(
        "vic,vijfr->cjfr", _outer(rays, rays), h * weights**2 - bend * pulled**2
    ) - jnp.einsum(
        "vc,vjfr->cjfr",
        2 * _outer(rays[:, 0], rays[:, 1]),
        bend[:, 0] * pulled[:, 0] * pulled[:, 1],
    )
    return _factor(lanes, blocks, lanes.terms.prior_weight, damping)


def _slope(lanes, state):
    """dE/d(a, R q) of every problem."""
    return jax.grad(lambda state: jnp.sum(lanes.energy(state)))(state)


def _slope_norm(lanes, state):
    if not lanes.settings.free_pose:
        slope = jax.grad(lambda a: jnp.sum(lanes.energy(_State(a, lanes.modelled(a)))))
        return jnp.linalg.norm(slope(state.coefficients), axis=1).reshape(lanes.shape)
    slope = _slope(lanes, state)
    squares = jnp.sum(slope.coefficients**2, axis=1).reshape(lanes.shape)
    return jnp.sqrt(squares + jnp.sum(slope.turned**2, axis=(0, 1)))


def _newton_step(lanes, state):
    slope = _slope(lanes, state)
    step = _hessian(lanes, state)(slope.turned, slope.coefficients)
    return jax.tree.map(jnp.subtract, state, step)


class _Total(NamedTuple):
    """The sum of the energies of all problems, and the solver of its Hessian."""

    settings: _Settings

    def __call__(self, state, terms, seen):
        return jnp.sum(_Lanes(terms, seen, self.settings).energy(state))

    def solve(self, state, terms, seen, damping, bar):
        """u with (H + lambda I) u = bar."""
        hessian = _hessian(_Lanes(terms, seen[0], self.settings), state, damping)
        return hessian(bar.turned, bar.coefficients)


def _attach(settings, terms, state, seen, damping):
    """The state, with the damped implicit gradient of the terms."""
    total = _Total(settings)
    damping = Damping(damping, mode="plain")
    return attach(total, state, terms, (seen,), damping=damping, solve=total.solve)


def _turn(x, sin, cos):
    """R x of x (3, 17, F, R)."""
    a, b, c = x
    return jnp.stack([sin * a + cos * b, sin * b - cos * a, c])


def _turn_back(x, sin, cos):
    """R^T x of x (3, 17, F, R)."""
    a, b, c = x
    return jnp.stack([sin * a - cos * b, cos * a + sin * b, c])


def _turn_block_back(block, sin, cos):
    """R^T S R of symmetric S, six entries (17, F, R) in the order of `_PAIRS`."""
    xx, yy, zz, xy, xz, yz = block
    cross = 2 * sin * cos * xy
    return (
        sin**2 * xx + cos**2 * yy - cross,
        cos**2 * xx + sin**2 * yy + cross,
        zz,
        sin * cos * (xx - yy) + (sin**2 - cos**2) * xy,
        sin * xz - cos * yz,
        cos * xz + sin * yz,
    )


def _inverse(block):
    """The inverse of symmetric positive definite 3 x 3 matrices by their cofactors."""
    xx, yy, zz, xy, xz, yz = block
    cofactors = (
        yy * zz - yz**2, xx * zz - xz**2, xx * yy - xy**2,
        xz * yz - xy * zz, xy * yz - xz * yy, xy * xz - xx * yz,
    )  # fmt: skip
    scale = 1 / (xx * cofactors[0] + xy * cofactors[3] + xz * cofactors[4])
    return tuple(scale * entry for entry in cofactors)


def _product(first, second):
    """The product of symmetric 3 x 3 matrices that commute."""
    a, b = _rows(first), _rows(second)
    return tuple(sum(a[i][k] * b[k][j] for k in range(3)) for i, j in _PAIRS)


def _rows(block):
    xx, yy, zz, xy, xz, yz = block
    return (xx, xy, xz), (xy, yy, yz), (xz, yz, zz)


def _apply(block, x):
    """S x of x (3, 17, F, R)."""
    return jnp.stack([sum(row[k] * x[k] for k in range(3)) for row in _rows(block)])
