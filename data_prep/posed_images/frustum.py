"""Intersection of viewing frusta: four planes through centre and image corners, cut off."""

import itertools

import numpy as np

__all__ = ["frusta_intersect", "half_spaces"]


def half_spaces(
    intrinsics: np.ndarray, rotation: np.ndarray, translation: np.ndarray, shape: tuple[int, int],
    near: float | None = None, far: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A (M, 3) and b (M,) with A X >= b inside the frustum of a camera.

    Args:
        intrinsics: (3, 3).
        rotation: (3, 3) world to camera.
        translation: (3,).
        shape: (H, W) [px].
        near: smallest distance along z; None: no limit.
        far: largest distance along z; None: no limit.
    """
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1.0]])
    rays = corners @ np.linalg.inv(intrinsics).T @ rotation  # in the world
    centre, axis = -rotation.T @ translation, rotation[2]
    normals = np.cross(np.roll(rays, -1, axis=0), rays)
    normals *= np.sign(normals @ axis)[:, None]  # the optical axis is inside
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    rows, bounds = [*normals], [*(normals @ centre)]
    if near is not None:
        rows, bounds = [*rows, axis], [*bounds, axis @ centre + near]
    if far is not None:
        rows, bounds = [*rows, -axis], [*bounds, -(axis @ centre) - far]
    return np.array(rows), np.array(bounds)


def frusta_intersect(
    intrinsics: np.ndarray, rotation: np.ndarray, translation: np.ndarray, shape: tuple[int, int],
    *, near: float | None = None, far: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Pairs (N, 2), i < j, of C cameras whose frusta have a point in common.

    Linear programming searches a point in all half spaces; touching counts. The arguments are
    those of `half_spaces`, the cameras with a leading axis C. With `far` alone, `near` is 0.
    """
    from scipy.optimize import linprog

    cut = 0.0 if near is None and far is not None else near
    spaces = [
        half_spaces(*camera, shape, cut, far)
        for camera in zip(intrinsics, rotation, translation, strict=True)
    ]
    out = []
    for i, j in itertools.combinations(range(len(spaces)), 2):
        a = np.concatenate([spaces[i][0], spaces[j][0]])
        b = np.concatenate([spaces[i][1], spaces[j][1]])
        found = linprog(np.zeros(3), A_ub=-a, b_ub=-b, bounds=(None, None), method="highs")
        if found.status == 0:
            out.append((i, j))
    return np.array(out, int).reshape(-1, 2)
