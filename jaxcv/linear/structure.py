"""Structures of Hessians: how symmetric matrices are stored, factorised and solved.

A structure is a static, hashable value; the matrices are pytrees of arrays. Users declare `Arrow`
or `BlockDiagonal`, which make an `ArrowStructure` (`jaxcv.linear.arrow`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_count
from jaxcv.linear.arrow import ArrowStructure, raised
from jaxcv.linear.dense import cholesky, cholesky_solve, dense_matrix, eigenvalues, norm

__all__ = ["Arrow", "ArrowStructure", "BlockDiagonal", "DenseStructure", "Structure"]

Product = Callable[[jax.Array], jax.Array]


class Structure(Protocol):
    """A storage format for symmetric (n, n) matrices, and its operations."""

    @property
    def size(self) -> int:
        """n."""
        ...

    @property
    def num_terms(self) -> int:
        """Length of the sums in a factorisation; its round-off grows with that length."""
        ...

    def matrix(self, product: Product, dtype: Any) -> Any:
        """The matrix of a symmetric product (n,) -> (n,) that has this structure."""
        ...

    def gram(self, rows: Product, columns: Product, weights: jax.Array, dtype: Any) -> Any:
        """J^T W J from p -> J p, r -> J^T r and the diagonal of W (m,)."""
        ...

    def multiply(self, matrix: Any, p: jax.Array) -> jax.Array:
        """A p (n,)."""
        ...

    def add(self, matrix: Any, d: jax.Array) -> Any:
        """A + diag(d), for d () or (n,)."""
        ...

    def diagonal(self, matrix: Any) -> jax.Array:
        """The diagonal (n,)."""
        ...

    def scale(self, matrix: Any) -> jax.Array:
        """(n,) > 0: |diagonal|, at least 1 % of its mean over all local or all shared unknowns."""
        ...

    def convex(self, matrix: Any) -> Any:
        """A with its local blocks made safely positive definite; a dense A is unchanged."""
        ...

    def magnitude(self, matrix: Any) -> jax.Array:
        """() the largest row sum of |A|; only over the local blocks if A is an arrow."""
        ...

    def distance(self, matrix: Any, other: Any) -> jax.Array:
        """|A - B|_F ()."""
        ...

    def restrict(self, matrix: Any, free: jax.Array, diagonal: jax.Array) -> Any:
        """A on the `free` (n,) bool unknowns; diag(`diagonal`) on the others."""
        ...

    def factor(self, matrix: Any) -> Any:
        """The factor for `solve`; finite, but meaningless where A is not positive definite."""
        ...

    def pivots(self, factor: Any) -> jax.Array:
        """() the smallest pivot / diagonal entry; <= 0 where A is not positive definite."""
        ...

    def definite(self, factor: Any) -> jax.Array:
        """() bool: A is positive definite."""
        ...

    def solve(self, factor: Any, v: jax.Array) -> jax.Array:
        """A^-1 v (n,) from a factor."""
        ...

    def indefinite_solver(self, matrix: Any) -> Product:
        """v -> A^-1 v for any regular A."""
        ...

    def smallest_eigenvalue(self, matrix: Any) -> jax.Array:
        """() the smallest eigenvalue, or a close lower bound, to round-off."""
        ...

    def negative_eigenvalues(self, matrix: Any, floor: jax.Array) -> jax.Array:
        """() int32, the number of eigenvalues below -floor."""
        ...


@dataclasses.dataclass(frozen=True)
class DenseStructure:
    """Full matrices, stored as (n, n) arrays."""

    size: int

    @property
    def num_terms(self) -> int:
        return self.size

    def matrix(self, product, dtype):
        return dense_matrix(product, self.size, dtype)

    def gram(self, rows, columns, weights, dtype):
        del columns
        jacobian = jax.vmap(rows)(jnp.eye(self.size, dtype=dtype))  # transposed: (n, m)
        return (jacobian * weights[None, :]) @ jacobian.T

    def multiply(self, matrix, p):
        return matrix @ p

    def add(self, matrix, d):
        return matrix + jnp.diag(jnp.broadcast_to(d, (self.size,)).astype(matrix.dtype))

    def restrict(self, matrix, free, diagonal):
        both = free[:, None] & free[None, :]
        return self.add(jnp.where(both, matrix, 0), jnp.where(free, 0, diagonal))

    def diagonal(self, matrix):
        return jnp.diagonal(matrix)

    def scale(self, matrix):
        return raised(jnp.abs(jnp.diagonal(matrix)))

    def convex(self, matrix):
        return matrix

    def magnitude(self, matrix):
        return jnp.max(jnp.sum(jnp.abs(matrix), axis=1))

    def distance(self, matrix, other):
        return norm((matrix - other).ravel())

    def factor(self, matrix):
        return cholesky(matrix)

    def pivots(self, factor):
        return factor.pivot

    def definite(self, factor):
        return factor.definite

    def solve(self, factor, v):
        return cholesky_solve(factor, v)

    def indefinite_solver(self, matrix):
        factors = jax.scipy.linalg.lu_factor(matrix)
        return lambda v: jax.scipy.linalg.lu_solve(factors, v)

    def smallest_eigenvalue(self, matrix):
        return eigenvalues(matrix)[0]

    def negative_eigenvalues(self, matrix, floor):
        return jnp.sum(eigenvalues(matrix) < -floor).astype(jnp.int32)


def _names(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@dataclasses.dataclass(frozen=True)
class Arrow:
    """Many local unknowns that are coupled only through a few shared unknowns.

    For example the depths of the pixels and the pose of the camera; the points and the cameras of
    bundle adjustment; the states of many sequences and the parameters that they share.

    Attributes:
        local: name or names of the entries of y (keys of a dictionary, fields of a NamedTuple,
            indices of a tuple) that hold the local unknowns.
        shared: name or names of the entries that hold the shared unknowns.
        block_size: b, the number of consecutive unknowns of a raveled local entry that form a
            block: 3 for points of shape (N, 3).

    Raises:
        ValueError: by `structure(y)`: an unknown name, an entry of y that is not named exactly
            once, a local entry whose size is not a multiple of block_size.
    """

    local: Any
    shared: Any
    block_size: int = 1

    def __post_init__(self):
        object.__setattr__(self, "local", _names(self.local))
        object.__setattr__(self, "shared", _names(self.shared))
        object.__setattr__(self, "block_size", check_count("block_size", self.block_size))

    def structure(self, y: Any) -> ArrowStructure:
        """The structure of matrices over the raveled y."""
        leaves = jax.tree_util.tree_leaves_with_path(y)
        entries = [_entry(path) for path, _ in leaves]
        known = list(dict.fromkeys(entries))
        both = [*self.local, *self.shared]
        if sorted(map(str, both)) != sorted(map(str, known)):
            expected = "local and shared must name every entry of y, each once"
            got = f"local={self.local}, shared={self.shared} for the entries {known}"
            raise argument_error(
                "Arrow", expected, got, "E.g. Arrow(local='depth', shared='pose')."
            )
        return _structure(leaves, [entry in self.local for entry in entries], self.block_size)


@dataclasses.dataclass(frozen=True)
class BlockDiagonal:
    """Uncoupled blocks of unknowns: many small problems in one energy.

    Attributes:
        block_size: number of unknowns per block, consecutive in the raveled y.

    Raises:
        ValueError: by `structure(y)`: a leaf of y whose size is not a multiple of block_size.
    """

    block_size: int = 1

    def __post_init__(self):
        object.__setattr__(self, "block_size", check_count("block_size", self.block_size))

    def structure(self, y: Any) -> ArrowStructure:
        """The structure of matrices over the raveled y."""
        leaves = jax.tree_util.tree_leaves_with_path(y)
        return _structure(leaves, [True] * len(leaves), self.block_size)


def _entry(path: tuple) -> Any:
    """The name of the top-level entry of a tree path."""
    if not path:
        expected = "y must have named entries, local and shared ones"
        raise argument_error("Arrow", expected, "one array", "Make y a dictionary.")
    for attribute in ("key", "name", "idx"):
        if hasattr(path[0], attribute):
            return getattr(path[0], attribute)
    raise argument_error("Arrow", "y must be a dictionary, tuple or NamedTuple", path[0])


def _structure(leaves, local: list[bool], block_size: int) -> ArrowStructure:
    pieces: list[tuple[int, int, bool]] = []
    start = 0
    for (_, leaf), kind in zip(leaves, local, strict=True):
        stop = start + int(np.prod(jnp.shape(leaf)))
        if kind and (stop - start) % block_size:
            expected = f"every local entry must hold whole blocks of {block_size}"
            raise argument_error("block_size", expected, f"{stop - start} unknowns")
        pieces.append((start, stop, kind))
        start = stop
    structure = ArrowStructure(tuple(pieces), block_size)
    if not any(local):
        raise argument_error("Arrow", "expected at least one local entry", "none")
    return structure
