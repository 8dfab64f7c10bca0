"""Arrow matrices: many local blocks, coupled only through a few shared unknowns.

    [ D_1          B_1 ]
    [      ...     ... ]      S = C - sum_i B_i^T D_i^-1 B_i
    [          D_N B_N ]      H > 0  <=>  every D_i > 0 and S > 0
    [ B_1^T .. B_N^T C ]

Forming H takes b + G products: one for the j-th columns of all blocks at once, one per shared
unknown. Factorising takes O(n (b + G)^2) operations: eliminate the local unknowns, then factorise
the Schur complement S. Without shared unknowns H is block-diagonal.

Source: Triggs et al., "Bundle adjustment, a modern synthesis", 2000, section 6; Haynsworth 1968
for the inertia.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.linear.dense import Cholesky, cholesky, cholesky_solve, eigenvalues, norm

__all__ = ["ArrowMatrix", "ArrowStructure", "raised"]

_BISECTIONS = 16


class ArrowMatrix(NamedTuple):
    """The blocks of an arrow matrix.

    Attributes:
        local: (N, b, b), D_i.
        border: (N, b, G), B_i.
        shared: (G, G), C.
    """

    local: jax.Array
    border: jax.Array
    shared: jax.Array


class _ArrowFactor(NamedTuple):
    local: Cholesky  # of D_i, batched (N, ...)
    border: jax.Array  # (N, b, G)
    eliminated: jax.Array  # (N, b, G) D_i^-1 B_i
    shared: Cholesky  # of S
    pivot: jax.Array  # () the smallest relative pivot


@dataclasses.dataclass(frozen=True)
class ArrowStructure:
    """Local blocks that are coupled only through shared unknowns.

    Attributes:
        pieces: (start, stop, is_local) of each piece of the flat vector, in order.
        block_size: b.
    """

    pieces: tuple[tuple[int, int, bool], ...]
    block_size: int

    @property
    def size(self) -> int:
        return self.pieces[-1][1]

    @property
    def num_shared(self) -> int:
        """G."""
        return sum(stop - start for start, stop, local in self.pieces if not local)

    @property
    def num_blocks(self) -> int:
        """N."""
        return (self.size - self.num_shared) // self.block_size

    @property
    def num_terms(self) -> int:
        return self.block_size + self.num_shared

    def split(self, p):
        """(n,) -> local (N, b), shared (G,)."""
        parts = {
            kind: [p[start:stop] for start, stop, local in self.pieces if local == kind]
            for kind in (True, False)
        }
        shared = jnp.concatenate(parts[False]) if parts[False] else jnp.zeros(0, p.dtype)
        return jnp.concatenate(parts[True]).reshape(self.num_blocks, self.block_size), shared

    def join(self, local, shared):
        """local (N, b), shared (G,) -> (n,)."""
        rest = {True: local.ravel(), False: shared}
        out = []
        for start, stop, kind in self.pieces:
            out.append(rest[kind][: stop - start])
            rest[kind] = rest[kind][stop - start :]
        return jnp.concatenate(out)

    def _basis(self, dtype):
        """(b + G, n) probes: the j-th unknown of all blocks at once, then each shared unknown."""
        b, g = self.block_size, self.num_shared
        local = jnp.tile(jnp.eye(b, dtype=dtype)[:, None], (1, self.num_blocks, 1))
        first = jax.vmap(lambda x: self.join(x, jnp.zeros(g, dtype)))(local)
        zeros = jnp.zeros((self.num_blocks, b), dtype)
        last = jax.vmap(lambda x: self.join(zeros, x))(jnp.eye(g, dtype=dtype))
        return jnp.concatenate([first, last]) if g else first

    def _assemble(self, images):
        b = self.block_size
        locals_, shared = jax.vmap(self.split)(images)  # (b + G, N, b), (b + G, G)
        diagonal = jnp.transpose(locals_[:b], (1, 2, 0))
        square = shared[b:]
        return ArrowMatrix(
            0.5 * (diagonal + diagonal.swapaxes(1, 2)),
            jnp.transpose(locals_[b:], (1, 2, 0)),
            0.5 * (square + square.T),
        )

    def matrix(self, product, dtype):
        return self._assemble(jax.vmap(product)(self._basis(dtype)))

    def gram(self, rows, columns, weights, dtype):
        return self.matrix(lambda p: columns(weights * rows(p)), dtype)

    def multiply(self, matrix, p):
        local, shared = self.split(p)
        top = _multiply_blocks(matrix.local, local)
        if not self.num_shared:
            return self.join(top, shared)
        top = top + matrix.border @ shared
        bottom = jnp.einsum("ibg,ib->g", matrix.border, local) + matrix.shared @ shared
        return self.join(top, bottom)

    def add(self, matrix, d):
        local, shared = self.split(jnp.broadcast_to(d, (self.size,)))
        eye = jnp.eye(self.block_size, dtype=matrix.local.dtype)
        return matrix._replace(
            local=matrix.local + local[:, None, :] * eye[None],
            shared=matrix.shared + jnp.diag(shared),
        )

    def restrict(self, matrix, free, diagonal):
        local, shared = self.split(free.astype(matrix.local.dtype))
        masked = ArrowMatrix(
            matrix.local * local[:, :, None] * local[:, None, :],
            matrix.border * local[:, :, None] * shared[None, None, :],
            matrix.shared * shared[:, None] * shared[None, :],
        )
        return self.add(masked, jnp.where(free, 0, diagonal))

    def diagonal(self, matrix):
        local = jnp.diagonal(matrix.local, axis1=1, axis2=2)
        return self.join(local, jnp.diagonal(matrix.shared))

    def scale(self, matrix):
        local = jnp.abs(jnp.diagonal(matrix.local, axis1=1, axis2=2))
        return self.join(raised(local), raised(jnp.abs(jnp.diagonal(matrix.shared))))

    def convex(self, matrix):
        local = matrix.local
        diagonal = jnp.diagonal(local, axis1=1, axis2=2)
        # Gershgorin's lower bound h on the eigenvalues of each block becomes |h|, and at least 1 %
        # of the mean |diagonal|: the step of a flatter block would dominate all others.
        least = jnp.min(diagonal + jnp.abs(diagonal) - jnp.sum(jnp.abs(local), axis=2), axis=1)
        lowest = 0.01 * jnp.mean(jnp.abs(diagonal))
        shift = jnp.maximum(jnp.abs(least), lowest) - least
        eye = jnp.eye(self.block_size, dtype=local.dtype)
        return matrix._replace(local=local + shift[:, None, None] * eye[None])

    def magnitude(self, matrix):
        return jnp.max(jnp.sum(jnp.abs(matrix.local), axis=2))

    def distance(self, matrix, other):
        local, border, shared = (
            norm((x - y).ravel()) if x.size else 0 for x, y in zip(matrix, other, strict=True)
        )
        return jnp.sqrt(local**2 + 2 * border**2 + shared**2)

    def factor(self, matrix):
        local = _cholesky_blocks(matrix.local)
        pivot = jnp.min(local.pivot)
        if not self.num_shared:
            none = Cholesky(matrix.shared, jnp.ones((), pivot.dtype))
            return _ArrowFactor(local, matrix.border, matrix.border, none, pivot)
        each = Cholesky(local.lower[:, None], local.pivot[:, None])
        eliminated = jnp.moveaxis(_solve_blocks(each, jnp.moveaxis(matrix.border, 2, 1)), 1, 2)
        complement = matrix.shared - jnp.einsum("ibg,ibh->gh", matrix.border, eliminated)
        shared = cholesky(0.5 * (complement + complement.T), jnp.diagonal(matrix.shared))
        pivot = jnp.minimum(pivot, shared.pivot)
        return _ArrowFactor(local, matrix.border, eliminated, shared, pivot)

    def pivots(self, factor):
        return factor.pivot

    def definite(self, factor):
        return factor.pivot > 0

    def solve(self, factor, v):
        local, shared = self.split(v)
        local = _solve_blocks(factor.local, local)
        if self.num_shared:
            right = shared - jnp.einsum("ibg,ib->g", factor.border, local)
            shared = cholesky_solve(factor.shared, right)
            local = local - factor.eliminated @ shared
        return self.join(local, shared)

    def _eliminate(self, matrix):
        """v -> D^-1 v, D^-1 B (N, b, G) and S (G, G); D may be indefinite."""
        inverse = 1 / matrix.local if self.block_size == 1 else jnp.linalg.inv(matrix.local)
        eliminated = jnp.einsum("ibc,icg->ibg", inverse, matrix.border)
        complement = matrix.shared - jnp.einsum("ibg,ibh->gh", matrix.border, eliminated)
        apply = lambda v: _multiply_blocks(inverse, v)
        return apply, eliminated, 0.5 * (complement + complement.T)

    def indefinite_solver(self, matrix):
        apply, eliminated, complement = self._eliminate(matrix)
        if self.num_shared:
            factors = jax.scipy.linalg.lu_factor(complement)

        def solve(v):
            local, shared = self.split(v)
            if self.num_shared:
                right = shared - jnp.einsum("ibg,ib->g", eliminated, local)
                shared = jax.scipy.linalg.lu_solve(factors, right)
            return self.join(apply(local) - eliminated @ shared, shared)

        return solve

    def _definite(self, matrix, sigma):
        """() bool: A - sigma I is positive definite."""
        return self.definite(self.factor(self.add(matrix, -sigma)))

    def smallest_eigenvalue(self, matrix):
        """Bisects for the largest sigma with A - sigma I > 0; relative error about 1e-3."""
        dtype = matrix.local.dtype
        tiny = jnp.finfo(dtype).eps * self.magnitude(matrix)
        sign = jnp.where(self._definite(matrix, jnp.zeros((), dtype)), 1.0, -1.0).astype(dtype)
        # min(diagonal) bounds the eigenvalue from above, Gershgorin's discs from below.
        sums = self.multiply(jax.tree.map(jnp.abs, matrix), jnp.ones(self.size, dtype))
        diagonal = self.diagonal(matrix)
        lowest = jnp.min(diagonal + jnp.abs(diagonal) - sums)
        far = jnp.where(sign > 0, jnp.min(diagonal), -lowest)
        low, high = tiny, jnp.maximum(far, 2 * tiny)

        def advance(_, bracket):
            low, high = bracket
            middle = jnp.sqrt(low) * jnp.sqrt(high)
            up = self._definite(matrix, sign * middle) == (sign > 0)
            return jnp.where(up, middle, low), jnp.where(up, high, middle)

        low, high = jax.lax.fori_loop(0, _BISECTIONS, advance, (low, high))
        return jnp.where(sign > 0, low, -high)

    def negative_eigenvalues(self, matrix, floor):
        moved = self.add(matrix, floor)
        count = jnp.sum(_pivots_of_blocks(moved.local) < 0)
        if self.num_shared:
            count = count + jnp.sum(eigenvalues(self._eliminate(moved)[2]) < 0)
        return count.astype(jnp.int32)


def raised(diagonal: jax.Array) -> jax.Array:
    """The non-negative `diagonal`, raised to at least 1 % of its mean; ones where all are zero."""
    mean = jnp.sum(diagonal) / max(diagonal.size, 1)
    return jnp.where(mean > 0, jnp.maximum(diagonal, 1e-2 * mean), 1).astype(diagonal.dtype)


def _multiply_blocks(blocks, v):
    """(N, b, b) times (N, b); unrolled: XLA's sums over a short last axis are slow on CPUs."""
    terms = [blocks[:, :, j] * v[:, j][:, None] for j in range(blocks.shape[-1])]
    return sum(terms[1:], terms[0])


def _cholesky_blocks(blocks):
    """Cholesky factors of the blocks (N, b, b)."""
    if blocks.shape[-1] == 1:
        positive = (blocks > 0) & (blocks < jnp.inf)
        lower = jnp.sqrt(jnp.where(positive, blocks, 1))
        return Cholesky(lower, jnp.where(positive[:, 0, 0], 1.0, -1.0).astype(blocks.dtype))
    return jax.vmap(cholesky)(blocks)


def _solve_blocks(factors, v):
    """(L L^T)^-1 v for batches of factors and vectors (..., b) that broadcast."""
    lower = factors.lower
    if lower.shape[-1] == 1:
        return v / lower[..., 0] ** 2
    batch = jnp.broadcast_shapes(lower.shape[:-2], v.shape[:-1])
    lower = jnp.broadcast_to(lower, batch + lower.shape[-2:])
    solve = lambda lower, v: cholesky_solve(Cholesky(lower, lower[0, 0]), v)
    for _ in batch:
        solve = jax.vmap(solve)
    return solve(lower, jnp.broadcast_to(v, batch + v.shape[-1:]))


def _pivots_of_blocks(blocks):
    """(N, b) the pivots of L D L^T without interchanges: D has the inertia of the block."""
    rest, out = blocks, []
    for _ in range(blocks.shape[-1]):
        pivot, column = rest[:, 0, 0], rest[:, 1:, 0]
        out.append(pivot)
        safe = jnp.where(pivot == 0, 1, pivot)
        rest = rest[:, 1:, 1:] - column[:, :, None] * column[:, None] / safe[:, None, None]
    return jnp.stack(out, axis=1)
