"""How a symmetric matrix of second derivatives is stored, factorised and solved with.

A structure is a static, hashable value; the matrices are pytrees of arrays. `DenseStructure` is
here, `ArrowStructure` in `jaxcv.linear.arrow`; `Arrow` and `BlockDiagonal` are what users declare.
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
    """A way to store symmetric (n, n) matrices, and what can be done with them."""

    @property
    def size(self) -> int:
        """n."""
        ...

    @property
    def num_terms(self) -> int:
        """Length of the sums in a factorisation, with which its round-off grows."""
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
        """(n,) positive: |diagonal|, kept from being far below that of unknowns of its kind."""
        ...

    def convex(self, matrix: Any) -> Any:
        """A with its local blocks made safely positive definite; A itself where there are none."""
        ...

    def magnitude(self, matrix: Any) -> jax.Array:
        """() a bound on |A|; of the local blocks alone, where there are any."""
        ...

    def distance(self, matrix: Any, other: Any) -> jax.Array:
        """|A - B|_F ()."""
        ...

    def restrict(self, matrix: Any, free: jax.Array, diagonal: jax.Array) -> Any:
        """A on the unknowns that are `free` (n,) bool; `diagonal` (n,) alone on the others."""
        ...

    def factor(self, matrix: Any) -> Any:
        """A factor to solve with; finite, but of no use where A is not positive definite."""
        ...

    def pivots(self, factor: Any) -> jax.Array:
        """() the smallest pivot relative to its diagonal entry; not positive: A is not definite."""
        ...

    def definite(self, factor: Any) -> jax.Array:
        """() bool, whether A is positive definite."""
        ...

    def solve(self, factor: Any, v: jax.Array) -> jax.Array:
        """A^-1 v (n,) by a factor."""
        ...

    def indefinite_solver(self, matrix: Any) -> Product:
        """v -> A^-1 v for any regular A."""
        ...

    def smallest_eigenvalue(self, matrix: Any) -> jax.Array:
        """() the smallest eigenvalue, never above it by more than round-off."""
        ...

    def negative_eigenvalues(self, matrix: Any, floor: jax.Array) -> jax.Array:
        """() int32, how many eigenvalues are below -floor."""
        ...


@dataclasses.dataclass(frozen=True)
class DenseStructure:
    """Every entry may differ from zero; stored as an (n, n) array."""

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
    """Many local unknowns that are coupled through a few shared ones only.

    For example the depths of the pixels and the pose of the camera; the points and the cameras of
    bundle adjustment; the states of many sequences and the parameters that they share.

    Attributes:
        local: name or names of the entries of y (keys of a dictionary, fields of a NamedTuple,
            indices of a tuple) that hold the local unknowns.
        shared: those of the shared unknowns.
        block_size: unknowns of one block, b; consecutive ones, in the order of the raveled entry:
            3 for points of shape (N, 3).

    Raises:
        ValueError: where it meets y: an unknown name, an entry that is neither local nor shared or
            both, a number of local unknowns that blocks do not divide.
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
    """Blocks of unknowns that do not meet at all: many small problems in one energy.

    Attributes:
        block_size: unknowns of one block, consecutive in the raveled y.

    Raises:
        ValueError: where it meets a y whose size blocks do not divide.
    """

    block_size: int = 1

    def __post_init__(self):
        object.__setattr__(self, "block_size", check_count("block_size", self.block_size))

    def structure(self, y: Any) -> ArrowStructure:
        """The structure of matrices over the raveled y."""
        leaves = jax.tree_util.tree_leaves_with_path(y)
        return _structure(leaves, [True] * len(leaves), self.block_size)


def _entry(path: tuple) -> Any:
    """The name of the top-level entry that a path of the tree starts with."""
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
