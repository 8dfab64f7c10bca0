"""The minimisers of the energy of `human_pose` at many rotations, and two gradients of them.

The energy is quadratic but for the kernel: each pass of reweighted least squares solves the normal
equations of the rows under the weights of the last residual. The free pose is eliminated joint by
joint, which leaves a system in the 29 coefficients:

    M_j q_j - (B a)_j = g_j,   M_j = (1 + l) I + P_j,   P_j = sum_v J_vj^T h_vj J_vj   (3 x 3)
    (sum_j B_j^T N_j B_j + c D^T D + l I) a = sum_j B_j^T M_j^-1 g_j + c tau D^T e_0

with N_j = I - M_j^-1.

P_j and g_j are formed in the frame that turns with the pose, where the cameras do not depend on the
angle; every step is then a product of all lanes (frames and angles) with one matrix. The sum over j
is such a product, too, of the 102 distinct entries of the N_j with a fixed (102, 29 * 29) table.

The same elimination with h - (h^3 / delta^2) r r^T for h is the exact Hessian of the energy, for
Newton steps and for the implicit gradient: with u = (H + lambda I)^-1 y_bar, the cotangent of the
parameters is that of -dE/dy . u. H is positive definite, because the kernel is convex.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.human_pose import NUM_COEFFICIENTS, NUM_JOINTS, PoseTerms

__all__ = ["RIDGE", "Minimisers", "search"]

RIDGE = 1e-3  # l, of the normal equations, with the robust kernel or a single view
NEWTON_STEPS = 2  # after the passes, for the implicit gradient
_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # distinct entries of a symmetric 3 x 3


class Minimisers(NamedTuple):
    """Minimisers of one component, for F frames and R rotations.

    Attributes:
        coefficients: (F, R, 29) a.
        joints: (F, R, 17, 3) q, turned: R q.
        score: (F, R) what the rotations are compared by: the energy under the kernel, twice the
            energy of plain least squares; without the ridge.
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
            once, and without a ridge if there are several views (one does not see the depth).
        passes: of reweighting, after the first solve with all weights one.
        free_pose: whether q may leave the model; else q = sum_j a_j B_j.
        gradient: `unrolled` goes through the passes; `implicit` adds Newton steps to them and
            differentiates the minimiser that these have found.
        damping: lambda of the implicit gradient, in the units of the Hessian.
        compatibility: the small constants that the release adds to residuals.

    Source: Toso et al. 2019, released code; Holland and Welsch 1977 for the reweighting.
    """
    num_frames, num_angles = points.shape[0], angles.shape[0]
    angles = jnp.tile(angles, num_frames)[:, None]
    turn = jnp.sin(angles), jnp.cos(angles)
    ridge = RIDGE if robust or points.shape[1] == 1 else 0.0
    settings = _Settings(num_angles, robust, free_pose, compatibility, ridge)
    if not robust:
        terms = terms._replace(prior_weight=jnp.ones_like(terms.prior_weight))
    frozen = terms if gradient == "unrolled" else jax.lax.stop_gradient(terms)
    lanes = _Lanes.make(frozen, points, visible, turn, settings)
    state = _reweighted(lanes, passes)
    if gradient == "implicit":
        if robust:
            newton = lambda state, _: (_newton_step(lanes, state), None)
            state, _ = jax.lax.scan(newton, state, length=NEWTON_STEPS)
        state = _attach(settings, terms, state, points, visible, turn, jnp.asarray(damping))
        lanes = _Lanes.make(terms, points, visible, turn, settings)
    score = lanes.score(state)
    slope = jax.lax.stop_gradient(_slope_norm(lanes, state))
    shape = num_frames, num_angles
    return Minimisers(
        state.coefficients.reshape(*shape, NUM_COEFFICIENTS),
        state.turned.reshape(*shape, NUM_JOINTS, 3),
        score.reshape(shape),
        slope.reshape(shape),
    )


class _Settings(NamedTuple):
    num_angles: int
    robust: bool
    free_pose: bool
    compatibility: bool
    ridge: float


class _State(NamedTuple):
    coefficients: jax.Array  # (L, 29)
    turned: jax.Array  # (L, 17, 3) R q


class _Lanes(NamedTuple):
    """L problems that share their terms, a frame's angles side by side."""

    terms: PoseTerms
    points: jax.Array  # (F, 1, 17, V, 2)
    weights: jax.Array  # (F, 1, 17, V, 2) w, zero where not visible
    turn: tuple[jax.Array, jax.Array]  # sine and cosine, (L, 1)
    settings: _Settings

    @classmethod
    def make(cls, terms, points, visible, turn, settings):
        layout = lambda x: jnp.swapaxes(x, 1, 2)[:, None]  # (F, 1, 17, V, ...)
        weights = terms.weights[:, None] * layout(visible)[..., None]
        return cls(terms, layout(points), weights, turn, settings)

    @property
    def rays(self):
        """(2 V, 3) the two rows of each camera."""
        return self.terms.cameras[:, :2].reshape(-1, 3)

    @property
    def basis(self):
        """(29, 51)."""
        return self.terms.basis.reshape(NUM_COEFFICIENTS, -1)

    def of_frames(self, x):
        """(L, ...) -> (F, R, ...)."""
        return x.reshape(self.points.shape[0], self.settings.num_angles, *x.shape[1:])

    def weighted(self, x):
        """w x of x (L, 17, V, 2)."""
        return (self.weights * self.of_frames(x)).reshape(x.shape)

    def project(self, turned):
        """(L, 17, V, 2) points of R q (L, 17, 3)."""
        return (turned @ self.rays.T).reshape(*turned.shape[:2], -1, 2)

    def rows(self, turned):
        """(L, 17, V, 2) weighted reprojection residuals."""
        away = self.of_frames(self.project(turned)) - self.points
        return (self.weights * away).reshape(turned.shape[0], *self.weights.shape[2:])

    def squares(self, rows):
        """(L, 17, V) squared norms over the kernel's width."""
        if self.settings.compatibility:
            return (jnp.sum((rows + 1e-7) ** 2, axis=-1) + 1e-6) / self.terms.width**2
        return jnp.sum(rows**2, axis=-1) / self.terms.width**2

    def modelled(self, coefficients):
        """(L, 17, 3) R B a."""
        return _turn((coefficients @ self.basis).reshape(-1, NUM_JOINTS, 3), *self.turn)

    def score(self, state):
        """(L,) see `Minimisers`."""
        rows = self.rows(state.turned)
        model = jnp.sum((self.modelled(state.coefficients) - state.turned) ** 2, axis=(1, 2))
        prior = state.coefficients @ self.terms.prior.T
        prior = jnp.sum(prior.at[:, 0].add(-self.terms.target) ** 2, axis=1)
        if not self.settings.robust:
            return model + jnp.sum(rows**2, axis=(1, 2, 3)) + prior
        square = self.squares(rows)
        kernel = self.terms.width**2 * jnp.sum(square / (jnp.sqrt(1 + square) + 1), axis=(1, 2))
        return 0.5 * model + kernel + 0.5 * self.terms.prior_weight * prior

    def energy(self, state):
        """(L,) what is minimised, ridge included."""
        squares = jnp.sum(state.coefficients**2, axis=1)
        if self.settings.free_pose:
            squares = squares + jnp.sum(state.turned**2, axis=(1, 2))
        score = self.score(state)
        return (score if self.settings.robust else score / 2) + self.settings.ridge / 2 * squares


def _reweighted(lanes, passes):
    terms = lanes.terms
    one = jnp.ones((lanes.turn[0].shape[0], 1, 1), terms.basis.dtype)
    state = _pass(lanes, one, jnp.ones_like(terms.prior_weight))

    def reweighted(state, _):
        h = jax.lax.rsqrt(1 + lanes.squares(lanes.rows(state.turned)))
        return _pass(lanes, h, terms.prior_weight), None

    length = passes if lanes.settings.robust else 0
    return jax.lax.scan(reweighted, state, length=length)[0] if length else state


def _pass(lanes, h, prior_weight):
    """The minimiser under the weights h (L, 17, V) of the points."""
    heavy = lanes.weighted(jnp.broadcast_to(h[..., None], (h.shape[0], *lanes.weights.shape[2:])))
    pulled = lanes.weighted(heavy)
    flat = lambda x: x.reshape(*x.shape[:-2], -1)
    points = (lanes.of_frames(pulled) * lanes.points).reshape(pulled.shape)
    g = flat(points) @ lanes.rays  # (L, 17, 3)
    rays = lanes.rays
    outer = jnp.stack([rays[:, i] * rays[:, j] for i, j in _PAIRS], axis=-1)  # (2 V, 6)
    system = _factor(lanes, flat(pulled) @ outer, prior_weight)
    pull = prior_weight * lanes.terms.target * lanes.terms.prior[0]
    return system(g, jnp.broadcast_to(pull, (g.shape[0], NUM_COEFFICIENTS)))


def _factor(lanes, blocks, prior_weight, damping=0.0):
    """Eliminates the free pose.

    Args:
        lanes: L problems.
        blocks: (L, 17, 6) P_j in the turned frame.
        prior_weight: () c.
        damping: () what is added to the diagonal of the Hessian besides the ridge.

    Returns:
        (g (L, 17, 3), right (L, 29)) -> `_State` that solves the system; g in the turned frame.
        Without a free pose, R^T g is added to the right-hand side through the model.
    """
    lift = lanes.settings.ridge + damping
    dtype, basis = blocks.dtype, lanes.basis
    blocks = tuple(jnp.moveaxis(blocks, -1, 0))
    inverse = None
    if lanes.settings.free_pose:
        inverse = _inverse(tuple(p + 1 + lift if i < 3 else p for i, p in enumerate(blocks)))
        bent = tuple(p + lift if i < 3 else p for i, p in enumerate(blocks))
        blocks = _product(inverse, bent)  # I - M^-1, without cancellation
    entries = jnp.concatenate(_turn_block_back(blocks, *lanes.turn), axis=1)  # (L, 102)
    square = (entries @ _table(lanes.terms.basis)).reshape(-1, NUM_COEFFICIENTS, NUM_COEFFICIENTS)
    prior = lanes.terms.prior.T @ lanes.terms.prior
    matrix = square + prior_weight * prior + lift * jnp.eye(NUM_COEFFICIENTS, dtype=dtype)
    # Only the lower half is read; the gradient of a solve reuses the factor.
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(matrix), symmetrize_input=False)
    multiply = lambda x: jnp.einsum("lij,lj->li", matrix, x)
    back = lambda _, v: jax.scipy.linalg.cho_solve((factor, True), v[..., None])[..., 0]

    def system(g, right):
        moved = g if inverse is None else _apply(inverse, g)
        moved = _turn_back(moved, *lanes.turn).reshape(right.shape[0], -1)
        right = right + moved @ basis.T
        coefficients = jax.lax.custom_linear_solve(multiply, right, back, symmetric=True)
        turned = lanes.modelled(coefficients)
        if inverse is not None:
            turned = _apply(inverse, turned + g)
        return _State(coefficients, turned)

    return system


def _table(basis):
    """(102, 29 * 29): entry of N_j -> its share of sum_j B_j^T N_j B_j; basis (29, 17, 3)."""
    axes = basis.transpose(2, 1, 0)  # (3, 17, 29)
    blocks = []
    for i, j in _PAIRS:
        block = jnp.einsum("jp,jq->jpq", axes[i], axes[j])
        blocks.append(block if i == j else block + block.swapaxes(1, 2))
    return jnp.stack(blocks).reshape(len(_PAIRS) * NUM_JOINTS, NUM_COEFFICIENTS**2)


def _hessian(lanes, state, damping=0.0):
    """The solver of the exact Hessian at a state."""
    rows, rays, prior_weight = lanes.rows(state.turned), lanes.rays, lanes.terms.prior_weight
    pairs = rays.reshape(-1, 2, 3)
    outer = jnp.stack([rays[:, i] * rays[:, j] for i, j in _PAIRS], axis=-1)
    x, y = pairs[:, 0], pairs[:, 1]
    across = jnp.stack([x[:, i] * y[:, j] + y[:, i] * x[:, j] for i, j in _PAIRS], axis=-1)
    ones = jnp.ones_like(rows)
    if not lanes.settings.robust:
        heavy, cross = lanes.weighted(lanes.weighted(ones)), None
    else:
        h = jax.lax.rsqrt(1 + lanes.squares(rows))[..., None]
        bend = h**3 / lanes.terms.width**2
        pulled = lanes.weighted(rows)
        heavy = h * lanes.weighted(lanes.weighted(ones)) - bend * pulled**2
        cross = -bend[..., 0] * pulled[..., 0] * pulled[..., 1]  # (L, 17, V)
    blocks = heavy.reshape(*heavy.shape[:2], -1) @ outer
    if cross is not None:
        blocks = blocks + cross @ across
    return _factor(lanes, blocks, prior_weight, damping)


def _slope(lanes, state):
    """dE/d(a, R q) of every lane."""
    return jax.grad(lambda state: jnp.sum(lanes.energy(state)))(state)


def _slope_norm(lanes, state):
    if not lanes.settings.free_pose:
        slope = jax.grad(lambda a: jnp.sum(lanes.energy(_State(a, lanes.modelled(a)))))
        return jnp.linalg.norm(slope(state.coefficients), axis=1)
    slope = _slope(lanes, state)
    return jnp.sqrt(jnp.sum(slope.coefficients**2, 1) + jnp.sum(slope.turned**2, (1, 2)))


def _newton_step(lanes, state):
    slope = _slope(lanes, state)
    step = _hessian(lanes, state)(slope.turned, slope.coefficients)
    return jax.tree.map(jnp.subtract, state, step)


def _attach(settings, terms, state, points, visible, turn, damping):
    """The state, with the damped implicit gradient in the terms."""

    @jax.custom_vjp
    def attached(terms, state, rest):
        return state

    def backward(kept, bar):
        terms, state, (points, visible, turn, damping) = kept
        lanes = _Lanes.make(terms, points, visible, turn, settings)
        u = _hessian(lanes, state, damping)(bar.turned, bar.coefficients)

        def along(terms):
            lanes = _Lanes.make(terms, points, visible, turn, settings)
            return jnp.sum(jax.jvp(lanes.energy, (state,), (u,))[1])

        terms_bar = jax.tree.map(jnp.negative, jax.grad(along)(terms))
        return terms_bar, jax.tree.map(jnp.zeros_like, state), None

    attached.defvjp(lambda *arguments: (arguments[1], arguments), backward)
    state = jax.lax.stop_gradient(state)
    return attached(terms, state, (points, visible, turn, damping))


def _turn(x, sin, cos):
    """R x of x (L, 17, 3)."""
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return jnp.stack([sin * a + cos * b, sin * b - cos * a, c], axis=-1)


def _turn_back(x, sin, cos):
    """R^T x of x (L, 17, 3)."""
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return jnp.stack([sin * a - cos * b, cos * a + sin * b, c], axis=-1)


def _turn_block_back(block, sin, cos):
    """R^T S R of symmetric S, six entries (L, 17) in the order of `_PAIRS`."""
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
    """S x of x (L, 17, 3)."""
    return jnp.stack(
        [sum(row[k] * x[..., k] for k in range(3)) for row in _rows(block)],
        axis=-1,
    )
