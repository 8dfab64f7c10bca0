"""Symmetric systems H u = v: dense, block, arrow and Krylov methods, and how they are damped.

| `linear=`              | for              | cost                                             |
|------------------------|------------------|--------------------------------------------------|
| `"auto"`               | any              | `cholesky` up to 256 unknowns, `cg` above        |
| `"cholesky"`           | n <= ~256        | n products, n^3                                  |
| `"cg"`                 | large n          | a product a step, O(n) memory                    |
| `ConjugateGradient(b)` | ... badly scaled | the same, preconditioned by blocks of b          |
| `BlockDiagonal(b)`     | many small ones  | b products, O(n b^2)                             |
| `Arrow(local, shared)` | ... that meet    | b + G products, O(n (b + G)^2)                   |
"""

from jaxcv.linear.damping import Damping
from jaxcv.linear.structure import Arrow, BlockDiagonal
from jaxcv.linear.system import ConjugateGradient, SolverHessian

__all__ = ["Arrow", "BlockDiagonal", "ConjugateGradient", "Damping", "SolverHessian"]
