"""Damped symmetric systems H u = v: dense, block, arrow and Krylov methods.

| `linear=`              | for                   | cost                                       |
|------------------------|-----------------------|--------------------------------------------|
| `"auto"`               | any                   | `cholesky` up to 256 unknowns, `cg` above  |
| `"cholesky"`           | n <= ~256             | n products, n^3                            |
| `"cg"`                 | large n               | one product per step, O(n) memory          |
| `ConjugateGradient(b)` | large n, badly scaled | as `cg`, with a block-Jacobi preconditioner|
| `BlockDiagonal(b)`     | uncoupled blocks      | b products, O(n b^2)                       |
| `Arrow(local, shared)` | blocks that share G   | b + G products, O(n (b + G)^2)             |
"""

from jaxcv.linear.damping import Damping
from jaxcv.linear.structure import Arrow, BlockDiagonal
from jaxcv.linear.system import ConjugateGradient, SolverHessian

__all__ = ["Arrow", "BlockDiagonal", "ConjugateGradient", "Damping", "SolverHessian"]
