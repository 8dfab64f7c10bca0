"""Pose models: fitted to training poses, or read and written in the released format."""

import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.energies.human_pose import (
    NUM_BASES,
    NUM_JOINTS,
    PoseModel,
    PoseParameters,
    limb_norm,
)
from jaxcv.energies.human_pose_readout import PoseReadout
from jaxcv.geometry.camera import check_rotations
from jaxcv.io.hdf5 import load_arrays, save_arrays

__all__ = [
    "fit_pose_model",
    "load_pose_model",
    "load_pose_parameters",
    "load_pose_readout",
    "mean_rotation",
    "save_pose_parameters",
]


def fit_pose_model(
    joints: Any, cameras: Any, *, num_components: int = 3, seed: int = 0
) -> PoseModel:
    """Fits a mixture of probabilistic PCAs to poses, and averages the subjects' cameras.

    Poses are centred, rotated about the vertical until the hips lie along x, scaled to the mean
    limb norm, and clustered by k-means. Each cluster gives its mean, its 25 leading principal
    components, their inverse standard deviations, and the inverse square root of the mean of the
    remaining variances (Tipping and Bishop 1999, eq. 14 and 15).

    Args:
        joints: (N, 17, 3) training poses, z up [mm].
        cameras: (S, V, 3, 3) rotations from the world to the cameras of each subject.
        num_components: K.
        seed: of the clustering.

    Returns:
        A `PoseModel` with (V, 3, 3) cameras, in the precision of `joints`.

    Raises:
        ValueError: other shapes, poses that are not finite, cameras that are not rotations, or
            clusters of fewer than 51 poses.
    """
    joints = np.asarray(joints)
    if joints.ndim != 3 or joints.shape[1:] != (NUM_JOINTS, 3):
        raise argument_error("joints", f"expected (N, {NUM_JOINTS}, 3)", joints.shape)
    if not np.all(np.isfinite(joints)):
        raise argument_error("joints", "expected finite numbers", "NaN or inf")
    check_rotations("cameras", cameras)
    centred = joints - joints.mean(axis=1, keepdims=True)
    across = centred[:, 4] - centred[:, 1]  # right to left hip
    angle = np.arctan2(across[:, 1], across[:, 0])
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = centred[..., 0], centred[..., 1]
    turned = np.stack([cos * x + sin * y, cos * y - sin * x, centred[..., 2]], axis=-1)
    norms = np.asarray(limb_norm(jnp.asarray(turned)))
    poses = (turned * (norms.mean() / norms)[:, None, None]).reshape(len(turned), -1)
    import scipy.cluster.vq

    _, label = scipy.cluster.vq.kmeans2(poses, num_components, minit="++", rng=seed)
    means, bases, precisions, noise = [], [], [], []
    for k in range(num_components):
        own = poses[label == k]
        least = 3 * NUM_JOINTS
        if len(own) < least:
            hint = "Give more poses, or fewer components."
            expected = f"expected clusters of {least} poses or more"
            raise argument_error("joints", expected, len(own), hint)
        means.append(own.mean(axis=0))
        values, vectors = np.linalg.eigh(np.cov(own.T))
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        bases.append(vectors[:, :NUM_BASES].T)
        precisions.append(1 / np.sqrt(values[:NUM_BASES]))
        # Centring leaves three directions without variance.
        noise.append(1 / np.sqrt(np.mean(values[NUM_BASES : 3 * NUM_JOINTS - 3])))
    stack = lambda rows, *shape: jnp.asarray(np.stack(rows).reshape(num_components, *shape))
    return PoseModel(
        mean_poses=stack(means, NUM_JOINTS, 3),
        bases=stack(bases, NUM_BASES, NUM_JOINTS, 3),
        precisions=stack(precisions, NUM_BASES),
        noise_precision=jnp.asarray(noise),
        cameras=jnp.asarray(mean_rotation(cameras)),
        limb_norm=jnp.asarray(norms.mean()),
    )


def mean_rotation(rotations: Any) -> np.ndarray:
    """The rotations (..., 3, 3) nearest to the means of (S, ..., 3, 3), in Frobenius norm."""
    left, _, right = np.linalg.svd(np.mean(np.asarray(rotations), axis=0))
    sign = np.linalg.det(left @ right)
    left = np.concatenate([left[..., :2], sign[..., None, None] * left[..., 2:]], axis=-1)
    return left @ right


def load_pose_model(
    model_path: str | os.PathLike[str],
    cameras_path: str | os.PathLike[str],
    *,
    num_components: int = 3,
    limb_norm_mm: float = 1440.0,
) -> PoseModel:
    """Loads the released mixture and mean cameras.

    Args:
        model_path: model_parameters.h5 with `mu_K` (K, 3, 17), `e_K` (K, 25, 3, 17), `sigma_K`
            (K, 26), K the number of components.
        cameras_path: avg_cameras.h5 with `cams` (4, 3, 3), world to camera.
        num_components: K, one of those in the file (3, 6, 10).
        limb_norm_mm: of a typical person [mm]; not in the files.

    Raises:
        ValueError: missing or misshapen arrays, numbers that are not finite, cameras that are not
            rotations (averages of rotations pass).
    """
    k = num_components
    names = {
        f"mu_{k}": (k, 3, NUM_JOINTS),
        f"e_{k}": (k, NUM_BASES, 3, NUM_JOINTS),
        f"sigma_{k}": (k, NUM_BASES + 1),
    }
    arrays = load_arrays(model_path, names)
    cameras = load_arrays(cameras_path, {"cams": (None, 3, 3)})["cams"]
    check_rotations(f"{cameras_path}: cams", cameras)
    sigma = arrays[f"sigma_{k}"]
    return PoseModel(
        mean_poses=jnp.asarray(np.swapaxes(arrays[f"mu_{k}"], -1, -2)),
        bases=jnp.asarray(np.swapaxes(arrays[f"e_{k}"], -1, -2)),
        precisions=jnp.asarray(sigma[:, :NUM_BASES]),
        noise_precision=jnp.asarray(sigma[:, NUM_BASES]),
        cameras=jnp.asarray(cameras),
        limb_norm=jnp.asarray(limb_norm_mm),
    )


# Field -> its name and shape in the file.
_FIELDS = {
    "mean_poses": ("mean_pose", (None, 3, NUM_JOINTS)),
    "bases": ("base_vectors", (None, NUM_BASES, 3, NUM_JOINTS)),
    "regularisation": ("sigma_variance", (None, 29, 29)),
    "joint_weights": ("joint_weights", (None, 2 * NUM_JOINTS)),
    "cameras": ("cameras", (None, 3, 3)),
    "rotation_sharpness": ("exp_weights", (None, 1)),
    "component_sharpness": ("exp_weights_model", (None, 1)),
    "component_offset": ("exp_additive_model", (None, 1)),
    "huber_width": ("hl_params", (None,)),
    "prior_weight": ("ir_reg", (None,)),
    "output_scale": ("scaling_coefficient", ()),
    "scale_target": ("scale_regularizer", ()),
    "regularisation_scale": ("lambda_0", (None, 1)),
    "reprojection_scale": ("lambda_scale", (None, 1)),
}


def load_pose_parameters(path: str | os.PathLike[str]) -> PoseParameters:
    """Loads learned parameters in the layout of the release's trained_model.h5.

    The release itself trains with the roles of `huber_width` and `prior_weight` exchanged: use its
    parameters with `compatibility=True`.

    Raises:
        ValueError: missing or misshapen arrays, or numbers that are not finite.
    """
    arrays = load_arrays(path, dict(_FIELDS.values()))
    out = {}
    for field, (name, shape) in _FIELDS.items():
        array = arrays[name]
        if field in ("mean_poses", "bases"):
            array = np.swapaxes(array, -1, -2)
        elif field == "joint_weights":
            array = array.reshape(-1, NUM_JOINTS, 2)
        elif shape == (None, 1):
            array = array[:, 0]
        out[field] = jnp.asarray(array)
    num = {len(out[field]) for field in _FIELDS if field != "cameras" and np.ndim(out[field])}
    if len(num) > 1:
        expected = "expected arrays with one number of components"
        raise argument_error(str(path), expected, sorted(num))
    return PoseParameters(**out)


def load_pose_readout(path: str | os.PathLike[str]) -> PoseReadout:
    """Loads the readout of the monocular variant, in the layout of trained_model.h5.

    Raises:
        ValueError: as for `load_pose_parameters`.
    """
    shapes = {
        "mean_pose_rec": (None, 3, NUM_JOINTS),
        "base_vectors_rec": (None, NUM_BASES, 3, NUM_JOINTS),
        "warping_weights": (2, NUM_JOINTS),
    }
    arrays = load_arrays(path, shapes)
    return PoseReadout(*(jnp.asarray(np.swapaxes(arrays[name], -1, -2)) for name in shapes))


def save_pose_parameters(
    path: str | os.PathLike[str], parameters: PoseParameters, readout: PoseReadout | None = None
) -> None:
    """Writes parameters in the layout of the release's trained_model.h5, in float64.

    Args:
        path: of the file; replaces an existing file once the new one is complete.
        parameters: of the energy.
        readout: of the monocular variant; None: left out.
    """
    arrays = {}
    if readout is not None:
        names = ("mean_pose_rec", "base_vectors_rec", "warping_weights")
        for name, array in zip(names, readout, strict=True):
            arrays[name] = np.swapaxes(np.asarray(array, np.float64), -1, -2)
    for field, (name, shape) in _FIELDS.items():
        array = np.asarray(getattr(parameters, field), np.float64)
        if field in ("mean_poses", "bases"):
            array = np.swapaxes(array, -1, -2)
        elif field == "joint_weights":
            array = array.reshape(len(array), -1)
        elif shape == (None, 1):
            array = array[:, None]
        arrays[name] = array
    save_arrays(path, arrays)
