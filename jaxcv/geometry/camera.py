"""Pinhole cameras.

    (u, v, 1) ~ K x,   K = [ fx  s  cx ]
                           [  0 fy  cy ]
                           [  0  0   1 ]

x right, y down, z forward; pixel centres at integer coordinates, u along a row. fy may be negative
(a renderer's y up). Source: Hartley and Zisserman 2004, ch. 6.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error, check_shape

__all__ = [
    "check_aspect_ratio",
    "check_intrinsics",
    "check_poses",
    "check_principal_point",
    "check_rotations",
    "denormalise_intrinsics",
    "pixel_rays",
    "project",
    "resize_intrinsics",
    "unproject",
]


def check_intrinsics(name: str, intrinsics: Any) -> np.ndarray:
    """Checks K (..., 3, 3), and returns it as a NumPy array.

    Raises:
        ValueError: not (..., 3, 3), not finite, not upper triangular with 1 in the corner, or a
            focal length of zero.
    """
    k = np.asarray(intrinsics)
    if k.shape[-2:] != (3, 3):
        raise argument_error(name, "expected (..., 3, 3)", k.shape)
    expected = "expected [[fx, s, cx], [0, fy, cy], [0, 0, 1]]"
    below = np.abs(k[..., [1, 2, 2], [0, 0, 1]]).max(initial=0)
    good = np.isfinite(k).all() and below == 0 and (k[..., 2, 2] == 1).all()
    if not good:
        hint = "Divide by K[2, 2]; a transposed matrix has its zeros above the diagonal."
        raise argument_error(name, expected, k.tolist(), hint)
    if not (k[..., 0, 0] * k[..., 1, 1]).all():
        raise argument_error(name, "expected focal lengths other than zero", k.tolist())
    return k


def check_principal_point(name: str, intrinsics: Any, shape: tuple[int, int]) -> None:
    """Raises ValueError unless the principal point of K (..., 3, 3) lies in a picture of (H, W).

    Intrinsics of a larger picture are noticed by this.
    """
    k = np.asarray(intrinsics, float)
    height, width = shape
    point = k[..., :2, 2]
    if not ((point >= -0.5) & (point <= [width - 0.5, height - 0.5])).all():
        expected = f"expected a principal point in the picture of {width} x {height} px"
        hint = "They belong to another size: scale them with `resize_intrinsics`."
        raise argument_error(name, expected, np.round(point, 2).tolist(), hint)


def check_aspect_ratio(name: str, shape: tuple[int, int], own: tuple[int, int]) -> None:
    """Raises ValueError unless a picture of (H, W) is, up to rounding, a scaled copy.

    Args:
        name: of the picture.
        shape: (H, W) of the picture.
        own: (H, W) that its intrinsics belong to.
    """
    height, width = shape
    if abs(width * own[0] / own[1] - height) > 1 + own[0] / own[1]:  # by more than rounding
        expected = f"expected the ratio of {own[1]} x {own[0]} px, which its intrinsics assume"
        hint = "Cropping changes the intrinsics."
        raise argument_error(name, expected, f"{width} x {height}", hint)


def check_rotations(name: str, matrices: Any, tolerance: float = 1e-2) -> None:
    """Raises ValueError unless every (..., 3, 3) is a rotation.

    Args:
        name: of the argument.
        matrices: (..., 3, 3).
        tolerance: largest entry of |R^T R - I|; averages of nearby rotations pass.
    """
    matrices = np.asarray(matrices, float)
    if matrices.ndim < 2 or matrices.shape[-2:] != (3, 3):
        raise argument_error(name, "expected (..., 3, 3)", matrices.shape)
    error = np.max(np.abs(np.swapaxes(matrices, -1, -2) @ matrices - np.eye(3)), initial=0)
    if not error <= tolerance:
        expected = f"expected rotations, R^T R = I to {tolerance:g}"
        hint = "Pass a rotation without scale and without intrinsics."
        raise argument_error(name, expected, f"an error of {error:.2g}", hint)
    if np.any(np.linalg.det(matrices) < 0):
        raise argument_error(name, "expected rotations of determinant 1", "a reflection")


def check_poses(name: str, poses: Any, tolerance: float = 1e-3) -> None:
    """Raises ValueError unless every (..., 4, 4) is a rigid motion [[R, t], [0, 1]].

    Args:
        name: of the argument.
        poses: (..., 4, 4).
        tolerance: largest entry of |R^T R - I|.
    """
    poses = np.asarray(poses, float)
    if poses.ndim < 2 or poses.shape[-2:] != (4, 4):
        raise argument_error(name, "expected (..., 4, 4)", poses.shape)
    if not np.isfinite(poses).all():
        raise argument_error(name, "expected finite numbers", "nan or inf")
    check_rotations(f"{name}, rotation", poses[..., :3, :3], tolerance)
    if not (poses[..., 3, :] == (0, 0, 0, 1)).all():
        got = poses[..., 3, :].reshape(-1, 4)[0].tolist()
        raise argument_error(name, "expected 0 0 0 1 in the last row", got, "Transpose it?")


def denormalise_intrinsics(normalised: Any, height: int, width: int) -> np.ndarray:
    """K (3, 3) [px] of (fx / W, fy / H, cx / W, cy / H), whose pixel centres are at x + 1/2."""
    fx, fy, cx, cy = np.asarray(normalised, float)
    return np.array([
        [fx * width, 0, cx * width - 0.5], [0, fy * height, cy * height - 0.5], [0, 0, 1]
    ])  # fmt: skip


def resize_intrinsics(intrinsics: Any, scale_x: float, scale_y: float | None = None) -> Any:
    """K (..., 3, 3) of the resized image: u + 1/2 and v + 1/2 are scaled, as pixel edges are.

    Args:
        intrinsics: of the original image.
        scale_x: new width over old width.
        scale_y: new height over old height; None: `scale_x`.
    """
    sx, sy = scale_x, scale_x if scale_y is None else scale_y
    move = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return jnp.asarray(move, jnp.result_type(intrinsics, jnp.float32)) @ intrinsics


def pixel_rays(intrinsics: jax.Array, height: int, width: int) -> jax.Array:
    """K^-1 (u, v, 1) of every pixel, (height, width, 3); the third coordinate is 1."""
    check_shape("intrinsics", intrinsics, (3, 3))
    dtype = jnp.result_type(intrinsics, jnp.float32)
    u, v = jnp.arange(width, dtype=dtype), jnp.arange(height, dtype=dtype)[:, None]
    u, v = jnp.broadcast_arrays(u, v)
    return unproject(u, v, jnp.ones((), dtype), intrinsics)


def project(points: jax.Array, intrinsics: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pixels u, v (...) of points (..., 3) with non-zero z."""
    a, b = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    u = intrinsics[0, 0] * a + intrinsics[0, 1] * b + intrinsics[0, 2]
    return u, intrinsics[1, 1] * b + intrinsics[1, 2]


def unproject(u: Any, v: Any, depth: Any, intrinsics: Any) -> Any:
    """Points (..., 3) seen at pixels u, v (...) with depth (...) along z, in the unit of depth."""
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (u - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    return jnp.stack([x * depth, y * depth, depth * jnp.ones_like(x)], axis=-1)
