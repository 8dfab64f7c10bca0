"""The monocular variant of the human pose: a pose from coefficients.

Source: Tome, Russell, Agapito, CVPR 2017, and Toso et al., NeurIPS 2019.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.energies.human_pose import NUM_JOINTS, PoseModel, initial_parameters, pose_basis

__all__ = ["PoseReadout", "initial_readout", "pose_readout"]


class PoseReadout(NamedTuple):
    """Parameters that turn coefficients into a pose; learned separately from the energy.

    Attributes:
        mean_poses: (K, 17, 3) over the mean absolute entry of the model's.
        bases: (K, 25, 17, 3), likewise.
        warp: (17, 2) weight of the detections in the image, for x and y of each joint.
    """

    mean_poses: jax.Array
    bases: jax.Array
    warp: jax.Array


def initial_readout(model: PoseModel) -> PoseReadout:
    """Readout before training: the model's basis, and detections with `warp` one."""
    start = initial_parameters(model)
    warp = jnp.ones((NUM_JOINTS, 2), model.mean_poses.dtype)
    return PoseReadout(start.mean_poses, start.bases, warp)


def pose_readout(
    readout: PoseReadout,
    model: PoseModel,
    camera: jax.Array,
    coefficients: jax.Array,
    rotations: jax.Array,
    points: jax.Array,
    visible: jax.Array,
) -> jax.Array:
    """Rotated poses (F, K, R, 17, 3) of the monocular variant, in units of the image.

        p = a_0 R (mu + sum_j (a_j / a_0) B_j),   (x, y) of C p  <-  ((x, y) + W w) / (1 + W)

    with W = 1.55^2 warp if the joint is visible, else 0; then C^-1 is applied.

    Args:
        readout: of K components.
        model: the same K.
        camera: (3, 3) C, a rotation.
        coefficients: (F, K, R, 29).
        rotations: (R, 3, 3).
        points: (F, 17, 2) w, normalised, of one view.
        visible: (F, 17) bool.

    Source: Tome et al., CVPR 2017, and its later variant.
    """
    basis = pose_basis(readout.mean_poses, readout.bases, model)
    poses = jnp.einsum("fkri,kija->fkrja", coefficients, basis)
    seen = jnp.einsum("ab,rbc,fkrjc->fkrja", camera, rotations, poses)
    weight = 1.55**2 * readout.warp * visible[..., None]  # (F, 17, 2)
    weight, points = weight[:, None, None], points[:, None, None]
    drawn = (seen[..., :2] + weight * points) / (1 + weight)
    return jnp.concatenate([drawn, seen[..., 2:]], axis=-1) @ camera
