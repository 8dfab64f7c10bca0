"""Essential matrices of five matches: all real solutions, batched, without an eigenvalue problem.

Five matches leave a space of four matrices, E = x X + y Y + z Z + w W. An essential matrix has

    det E = 0,   2 E E^T E - tr(E E^T) E = 0,

ten homogeneous cubics in (x, y, z, w). Gauss-Jordan elimination of them leaves three equations that
are linear in x and y, with polynomials of z and w as coefficients; the determinant of these has
degree ten. With z = sin(a), w = cos(a) its real roots lie in one half circle of a: sign changes on
a grid bracket them, and halving narrows them down. Newton's method on the ten cubics, on the
unit sphere of (x, y, z, w), then removes the round-off of the elimination.

All shapes are static and nothing branches, so it runs under jit and vmap on any device. Two roots
in one cell of the grid are found by the extremum between them, unless several lie still closer:
in float64 the true matrix is found in 99 of 100 random problems, in float32 in 95.

Source: Nister, An efficient solution to the five-point relative pose problem, PAMI 2004.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_shape

__all__ = ["five_point"]

_CELLS = 128  # of the half circle
_HIDDEN = 4  # cells at most that are searched for two roots
_HALVINGS = 10
_ROOTS = 10
_OTHERS = ((1, 2), (2, 0), (0, 1))
# Exponents of (x, y, z, w); the first ten monomials are eliminated.
_MONOMIALS = (
    (3, 0, 0, 0), (0, 3, 0, 0), (2, 1, 0, 0), (1, 2, 0, 0), (2, 0, 1, 0), (2, 0, 0, 1),
    (0, 2, 1, 0), (0, 2, 0, 1), (1, 1, 1, 0), (1, 1, 0, 1),
    (1, 0, 2, 0), (1, 0, 1, 1), (1, 0, 0, 2), (0, 1, 2, 0), (0, 1, 1, 1), (0, 1, 0, 2),
    (0, 0, 3, 0), (0, 0, 2, 1), (0, 0, 1, 2), (0, 0, 0, 3),
)  # fmt: skip


def _sums() -> np.ndarray:
    """(64, 20): adds the entries of a 4 x 4 x 4 tensor that belong to one monomial."""
    out = np.zeros((4, 4, 4, len(_MONOMIALS)))
    for abc in itertools.product(range(4), repeat=3):
        out[(*abc, _MONOMIALS.index(tuple(abc.count(k) for k in range(4))))] = 1
    return out.reshape(64, -1)


_TO_MONOMIALS = _sums()
_SIGNS = np.zeros((3, 3, 3))
for _order in itertools.permutations(range(3)):
    _SIGNS[_order] = np.linalg.det(np.eye(3)[list(_order)])


def _shifts(first: int, second: int) -> np.ndarray:
    """(first * second, first + second - 1): adds the products of equal powers."""
    out = np.zeros((first, second, first + second - 1))
    for i, j in itertools.product(range(first), range(second)):
        out[i, j, i + j] = 1
    return out.reshape(first * second, -1)


_SHIFTS = {sizes: _shifts(*sizes) for sizes in ((4, 4), (7, 5))}
_EDGES = np.pi * (np.arange(_CELLS + 1) / _CELLS - 0.5)
_S, _C = np.sin(_EDGES), np.cos(_EDGES)
_AT_EDGES = np.stack([_S ** (_ROOTS - k) * _C**k for k in range(_ROOTS + 1)])
_SLOPE_AT_EDGES = np.stack(
    [
        (_ROOTS - k) * _S ** max(_ROOTS - k - 1, 0) * _C ** (k + 1)
        - k * _S ** (_ROOTS - k + 1) * _C ** max(k - 1, 0)
        for k in range(_ROOTS + 1)
    ]
)


def _cubics(basis: jax.Array) -> jax.Array:
    """The ten cubics (10, 4, 4, 4), symmetric, of a basis (4, 3, 3) of the matrices."""
    signs = jnp.asarray(_SIGNS, basis.dtype)
    determinant = jnp.einsum("ijk,ai,bj,ck->abc", signs, basis[:, 0], basis[:, 1], basis[:, 2])
    gram = jnp.einsum("aik,blk->abil", basis, basis)
    traces = jnp.einsum("abkk->ab", gram)
    trace = 2 * jnp.einsum("abil,clj->ijabc", gram, basis)
    trace = trace - jnp.einsum("ab,cij->ijabc", traces, basis)
    out = jnp.concatenate([determinant[None], trace.reshape(9, 4, 4, 4)])
    orders = itertools.permutations((1, 2, 3))
    return jnp.mean(jnp.stack([jnp.transpose(out, (0, *order)) for order in orders]), axis=0)


def _eliminated(cubics: jax.Array) -> jax.Array:
    """Coefficients (3, 3, 5) of the three equations in (x, y, 1), polynomials in z of degree 4.

    Equation k: row with x^2 z - z * row with x^2, and so on for y^2 and x y.
    """
    rows = cubics.reshape(10, 64) @ jnp.asarray(_TO_MONOMIALS, cubics.dtype)
    rows = jnp.linalg.solve(rows[:, :10], rows[:, 10:])  # (10, 10)
    low, high = rows[4:10:2], rows[5:10:2]  # with x^2 z, y^2 z, xyz; with x^2, y^2, xy

    def column(part):  # `low` as it is, `high` times z; the highest degree first
        size = part.stop - part.start
        first = jnp.pad(low[:, part], ((0, 0), (5 - size, 0)))
        return first - jnp.pad(high[:, part], ((0, 0), (4 - size, 1)))

    return jnp.stack([column(slice(0, 3)), column(slice(3, 6)), column(slice(6, 10))], axis=1)


def _polynomial(equations: jax.Array) -> jax.Array:
    """The determinant (11,) of the equations (3, 3, 5), highest power of z first."""
    x, y, one = (equations[:, k] for k in range(3))
    x, y = x[:, 1:], y[:, 1:]  # of degree three
    minors = jnp.stack([_product(x[j], y[k]) - _product(x[k], y[j]) for j, k in _OTHERS])
    return jnp.sum(jnp.stack([_product(minors[i], one[i]) for i in range(3)]), axis=0)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of two polynomials."""
    return (a[:, None] * b).reshape(-1) @ jnp.asarray(_SHIFTS[a.size, b.size], a.dtype)


def _values(angle: jax.Array, polynomial: jax.Array) -> tuple[jax.Array, jax.Array]:
    """p and dp / da at angles (R,), p homogeneous in z = sin(a), w = cos(a)."""
    z, w = jnp.sin(angle), jnp.cos(angle)
    value = by_z = by_w = jnp.zeros_like(angle)
    power = jnp.ones_like(angle)  # w^k
    for coefficient in polynomial:  # Horner
        by_z = by_z * z + value
        value = value * z + coefficient * power
        power = power * w
    power = jnp.ones_like(angle)  # w^(k - 1)
    for k, coefficient in enumerate(polynomial[1:], 1):
        by_w = by_w * z + k * coefficient * power
        power = power * w
    return value, by_z * w - by_w * z


def _narrowed(low, high, side, halvings: int):
    """Halves intervals; `side(middle)`: whether to go on in the upper half."""

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        upper = side(middle)
        return jnp.where(upper, middle, low), jnp.where(upper, high, middle)

    low, high = jax.lax.fori_loop(0, halvings, halve, (low, high))
    return 0.5 * (low + high)


def _roots(polynomial: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Angles (10,) of the real roots in [-pi / 2, pi / 2], and a mask (10,)."""
    dtype = polynomial.dtype
    at = polynomial @ jnp.asarray(_AT_EDGES, dtype)
    slope = polynomial @ jnp.asarray(_SLOPE_AT_EDGES, dtype)
    edges = jnp.asarray(_EDGES, dtype)
    change = at[:-1] * at[1:] <= 0
    # Between equal signs an extremum towards zero may hide two roots.
    hidden = ~change & (at[:-1] * slope[:-1] < 0) & (at[1:] * slope[1:] > 0)
    _, cell = jax.lax.top_k(hidden.astype(dtype), _HIDDEN)
    sign = jnp.sign(at[cell])
    extremum = _narrowed(
        edges[cell], edges[cell + 1], lambda a: _values(a, polynomial)[1] * sign < 0, _HALVINGS
    )
    crosses = hidden[cell] & (_values(extremum, polynomial)[0] * sign < 0)
    low = jnp.concatenate([edges[:-1], edges[cell], extremum])
    high = jnp.concatenate([edges[1:], extremum, edges[cell + 1]])
    signs = jnp.concatenate([jnp.sign(at[:-1]), sign, -sign])
    found, rows = jax.lax.top_k(jnp.concatenate([change, crosses, crosses]).astype(dtype), _ROOTS)
    low, high, signs = low[rows], high[rows], signs[rows]
    angle = _narrowed(low, high, lambda a: _values(a, polynomial)[0] * signs > 0, _HALVINGS)
    return angle, found > 0


def _points(equations: jax.Array, angle: jax.Array) -> jax.Array:
    """Unit vectors (10, 4) of (x, y, z, w) at the roots: the null vectors of the equations."""
    z, w = jnp.sin(angle), jnp.cos(angle)
    powers = lambda degree: jnp.stack([z ** (degree - k) * w**k for k in range(degree + 1)])
    first = jnp.einsum("ijk,kr->rij", equations[:, :2, 1:], powers(3))
    last = jnp.einsum("ik,kr->ri", equations[:, 2], powers(4))
    matrices = jnp.concatenate([first, last[..., None]], axis=-1)
    a, b, c = (matrices[:, k] for k in range(3))
    normals = jnp.stack([jnp.cross(a, b), jnp.cross(b, c), jnp.cross(c, a)], axis=1)
    best = jnp.argmax(jnp.sum(normals**2, axis=-1), axis=1)
    xy = jnp.take_along_axis(normals, best[:, None, None], axis=1)[:, 0]
    return _unit_rows(jnp.stack([xy[:, 0], xy[:, 1], xy[:, 2] * z, xy[:, 2] * w], axis=-1))


def five_point(
    points1: jax.Array, points2: jax.Array, *, newton_steps: int = 2
) -> tuple[jax.Array, jax.Array]:
    """Essential matrices (10, 3, 3), |E|^2 = 2, through five matches; mask (10,) of the solutions.

    The masked rest is zero. No gradient: refine a pose with `argmin`. Degenerate matches (two
    alike, all on a line) have solutions without meaning, or none.

    Args:
        points1: (5, 2), normalised by the intrinsics.
        points2: (5, 2).
        newton_steps: on each solution; fewer are faster, in float32 less accurate.

    Raises:
        ValueError: not five matches.
    """
    check_shape("points1", points1, (None, 2))
    check_shape("points2", points2, points1.shape)
    if points1.shape[0] != 5:
        hint = "For more use `eight_point` or `argmin`."
        raise argument_error("points1", "expected 5 matches", points1.shape[0], hint)
    points1, points2 = (jax.lax.stop_gradient(jnp.asarray(p)) for p in (points1, points2))
    one = jnp.ones((5, 1), points1.dtype)
    x1, x2 = jnp.concatenate([points1, one], axis=1), jnp.concatenate([points2, one], axis=1)
    rows = (x2[:, :, None] * x1[:, None, :]).reshape(5, 9)
    basis = jnp.linalg.qr(rows.T, mode="complete")[0][:, 5:].T.reshape(4, 3, 3)
    cubics = _cubics(basis)
    equations = _eliminated(cubics)
    angle, found = _roots(_polynomial(equations))
    point = _points(equations, angle)
    for _ in range(newton_steps):
        point = _newton(cubics, point)
    essential = jnp.einsum("rk,kij->rij", point, basis) * jnp.sqrt(2.0).astype(points1.dtype)
    found = found & jnp.all(jnp.isfinite(essential), axis=(1, 2))
    return jnp.where(found[:, None, None], essential, 0), found


def _unit_rows(x: jax.Array) -> jax.Array:
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))


def _newton(cubics: jax.Array, points: jax.Array) -> jax.Array:
    """One Gauss-Newton step of the cubics from unit vectors (R, 4), kept where it lowers them."""

    def slopes(v):  # (10, R, 4), a third of the derivatives
        squares = (v[:, :, None] * v[:, None, :]).reshape(-1, 16)
        return (cubics.reshape(40, 16) @ squares.T).reshape(10, 4, -1).swapaxes(1, 2)

    slope = slopes(points)
    residual = jnp.sum(slope * points, axis=-1)  # (10, R)
    gradient = jnp.sum(3 * slope * residual[..., None], axis=0)
    normal = jnp.sum(9 * slope[..., :, None] * slope[..., None, :], axis=0)
    normal = normal + points[:, :, None] * points[:, None, :]  # no step along the point
    step = -_solve(normal, gradient)
    new = _unit_rows(points + step - points * jnp.sum(points * step, axis=-1, keepdims=True))
    after = jnp.sum(slopes(new) * new, axis=-1)
    lower = jnp.sum(after**2, axis=0) < jnp.sum(residual**2, axis=0)
    return jnp.where(lower[:, None], new, points)


def _solve(matrices: jax.Array, vectors: jax.Array) -> jax.Array:
    """A^-1 b (R, 4) of positive definite matrices (R, 4, 4), written out: R is small work each."""
    size = vectors.shape[-1]
    a = [[matrices[:, i, j] for j in range(size)] for i in range(size)]
    b = [vectors[:, i] for i in range(size)]
    for k in range(size):
        pivot = 1 / jnp.where(a[k][k] > 0, a[k][k], 1)
        for i in range(k + 1, size):
            factor = a[i][k] * pivot
            a[i] = [x - factor * y for x, y in zip(a[i], a[k], strict=True)]
            b[i] = b[i] - factor * b[k]
    out: list[jax.Array] = []
    for k in reversed(range(size)):
        known = sum(a[k][k + 1 + j] * x for j, x in enumerate(out))
        out.insert(0, (b[k] - known) / jnp.where(a[k][k] > 0, a[k][k], 1))
    return jnp.stack(out, axis=-1)
