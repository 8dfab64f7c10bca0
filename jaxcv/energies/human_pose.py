"""Human pose: an energy of a 3-D pose in calibrated views, with learned parameters.

A pose is a mixture of K probabilistic PCAs: component k models q = sum_j a_j B_j, with B_0 its mean
pose, B_1..3 translations and B_4..28 its bases. The pose is rotated about the vertical by an angle
that is searched on a grid; each camera gives an orthographic view, scaled to height 2. With a free
copy q of the pose, the energy of a frame, a component and an angle is

    E(a, q) = 1/2 |sum_j a_j B_j - q|^2                              model, 51 rows
            + sum_vj rho( s w_vj ((C_v R)_xy q_j - p_vj) )           reprojection, 34 rows/camera
            + c/2 |D a - tau e_0|^2                                  prior, 29 rows

rho(r) = |r|^2 / 2, or with the pseudo-Huber kernel delta^2 (sqrt(1 + |r|^2 / delta^2) - 1).

`PoseModel` holds the constants, `PoseParameters` the learned factors of order one; `pose_terms`
combines them. Units: poses in mm, points in the normalised units of `normalise_points`, so a_0, the
scale, is a negative number near -0.003.

Source: Toso, Campbell, Russell, NeurIPS 2019, section 5; Tome et al., CVPR 2017, 3DV 2018.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice, check_shape

__all__ = [
    "GROUPS",
    "JOINTS",
    "LIMBS",
    "NUM_BASES",
    "NUM_JOINTS",
    "PoseModel",
    "PoseParameters",
    "PoseTerms",
    "constrain",
    "initial_parameters",
    "limb_norm",
    "normalise_points",
    "pose_basis",
    "pose_residual",
    "pose_terms",
    "rotations_about_vertical",
    "trainable",
]

JOINTS = (
    "hip", "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot",
    "spine", "thorax", "neck", "head", "left_shoulder", "left_elbow", "left_wrist",
    "right_shoulder", "right_elbow", "right_wrist",
)  # fmt: skip
NUM_JOINTS = len(JOINTS)
NUM_BASES = 25
NUM_COEFFICIENTS = 1 + 3 + NUM_BASES

LIMBS = (
    (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (9, 10),
    (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
)  # fmt: skip
# The release applies the limbs of a 16-joint skeleton to 17 joints.
LIMBS_OF_RELEASE = (
    (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6), (0, 7), (7, 8), (8, 9), (8, 10),
    (10, 11), (11, 12), (8, 13), (13, 14), (14, 15),
)  # fmt: skip


class PoseModel(NamedTuple):
    """Constants of poses and cameras; nothing in it is learned.

    Attributes:
        mean_poses: (K, 17, 3) mean pose of each component [mm], z up.
        bases: (K, 25, 17, 3) orthonormal.
        precisions: (K, 25) inverse standard deviations of the coefficients, of a pose of unit
            scale in the normalised image.
        noise_precision: (K,) inverse standard deviation of the points, the reprojection's weight.
        cameras: (V, 3, 3) rotations from the world to each camera (x right, y down, z forward).
        limb_norm: () root sum of squared limb lengths of a typical person [mm].
    """

    mean_poses: jax.Array
    bases: jax.Array
    precisions: jax.Array
    noise_precision: jax.Array
    cameras: jax.Array
    limb_norm: jax.Array


class PoseParameters(NamedTuple):
    """Learned parameters: factors on `PoseModel`, most of them one before training.

    Attributes:
        mean_poses: (K, 17, 3) over the mean absolute entry of the model's.
        bases: (K, 25, 17, 3), likewise.
        regularisation: (K, 29, 29) D over its mean absolute entry.
        joint_weights: (K, 17, 2) w of the rows x and y of each joint, the same for all cameras.
        cameras: (V, 3, 3) factors of the entries of the model's cameras.
        rotation_sharpness: (K,) how strongly rotations of low energy are preferred.
        component_sharpness: (K,) the same for components.
        component_offset: (K,) added to the scaled score of a component.
        huber_width: (K,) delta is a tenth of it.
        prior_weight: (K,) c is 3/4 of it, with the robust kernel.
        output_scale: () factor of the reconstructed pose.
        scale_target: () tau is -0.003 of it.
        regularisation_scale: (K,) factor of D.
        reprojection_scale: (K,) factor of s.
    """

    mean_poses: jax.Array
    bases: jax.Array
    regularisation: jax.Array
    joint_weights: jax.Array
    cameras: jax.Array
    rotation_sharpness: jax.Array
    component_sharpness: jax.Array
    component_offset: jax.Array
    huber_width: jax.Array
    prior_weight: jax.Array
    output_scale: jax.Array
    scale_target: jax.Array
    regularisation_scale: jax.Array
    reprojection_scale: jax.Array


GROUPS = {  # of the source's Table 3
    "body_models": ("mean_poses", "bases"),
    "covariance": ("regularisation",),
    "reprojection": ("joint_weights",),
    "cameras": ("cameras",),
    "fusion": ("rotation_sharpness", "component_sharpness", "component_offset"),
    "huber": ("huber_width", "prior_weight"),
    "scaling": ("output_scale", "scale_target", "regularisation_scale", "reprojection_scale"),
}


class PoseTerms(NamedTuple):
    """The quantities in the energy's formula, from parameters and model.

    Attributes:
        basis: (K, 29, 17, 3) B_0..28.
        prior: (K, 29, 29) D.
        target: () tau.
        weights: (K, 17, 2) s w.
        cameras: (V, 3, 3) C.
        width: (K,) delta.
        prior_weight: (K,) c.
    """

    basis: jax.Array
    prior: jax.Array
    target: jax.Array
    weights: jax.Array
    cameras: jax.Array
    width: jax.Array
    prior_weight: jax.Array


def initial_parameters(model: PoseModel, *, compatibility: bool = False) -> PoseParameters:
    """Parameters before training, derived from the model.

    Args:
        model: K components, V cameras.
        compatibility: the release's values: D at its own scale, the reprojection at ten times its
            own, offsets of one, output scale 0.97. By default D is at ten times its scale, the
            reprojection at its own, the offsets are zero and the output scale is one.
    """
    _check_model(model)
    num, dtype = model.mean_poses.shape[0], model.mean_poses.dtype
    prior = _initial_prior(model)
    ones = jnp.ones((num,), dtype)
    return PoseParameters(
        mean_poses=model.mean_poses / _size(model.mean_poses),
        bases=model.bases / _size(model.bases),
        regularisation=prior / _size(prior),
        joint_weights=jnp.ones((num, NUM_JOINTS, 2), dtype),
        cameras=jnp.ones_like(model.cameras),
        rotation_sharpness=ones,
        component_sharpness=ones,
        component_offset=(1 + 1e-7) * ones if compatibility else 0 * ones,
        huber_width=ones,
        prior_weight=ones,
        output_scale=jnp.asarray(0.97, dtype) if compatibility else jnp.ones((), dtype),
        scale_target=jnp.ones((), dtype),
        regularisation_scale=ones if compatibility else 10 * ones,
        reprojection_scale=10 * ones if compatibility else ones,
    )


def _size(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(x))


def _initial_prior(model: PoseModel) -> jax.Array:
    """(K, 29, 29) diagonal: 0 for scale, 1e-5 for translations, then `precisions`."""
    num, dtype = model.precisions.shape[0], model.precisions.dtype
    first = jnp.broadcast_to(jnp.asarray([0, 1e-5, 1e-5, 1e-5], dtype), (num, 4))
    return jax.vmap(jnp.diag)(jnp.concatenate([first, model.precisions], axis=1))


def _check_model(model: PoseModel) -> None:
    num = jnp.shape(model.mean_poses)[0] if jnp.ndim(model.mean_poses) else 0
    check_shape("model.mean_poses", model.mean_poses, (num, NUM_JOINTS, 3), "K mean poses.")
    check_shape("model.bases", model.bases, (num, NUM_BASES, NUM_JOINTS, 3))
    check_shape("model.precisions", model.precisions, (num, NUM_BASES))
    check_shape("model.noise_precision", model.noise_precision, (num,))
    check_shape("model.cameras", model.cameras, (None, 3, 3))


def pose_basis(mean_poses: jax.Array, bases: jax.Array, model: PoseModel) -> jax.Array:
    """(K, 29, 17, 3) mean poses, translations and bases [mm], from factors on a model's.

    Args:
        mean_poses: (K, 17, 3) over the mean absolute entry of the model's.
        bases: (K, 25, 17, 3), likewise.
        model: of K components.
    """
    translations = jnp.eye(3, dtype=mean_poses.dtype)[:, None]
    parts = [
        _size(model.mean_poses) * mean_poses[:, None],
        jnp.broadcast_to(translations, (len(mean_poses), 3, NUM_JOINTS, 3)),
        _size(model.bases) * bases,
    ]
    return jnp.concatenate(parts, axis=1)


def pose_terms(
    parameters: PoseParameters, model: PoseModel, *, compatibility: bool = False
) -> PoseTerms:
    """The quantities of the energy.

    Args:
        parameters: of K components and V cameras.
        model: the same K and V.
        compatibility: delta from `prior_weight` and c from `huber_width`, as the release does.

    Raises:
        ValueError: parameters and model differ in their components or cameras.
    """
    _check_model(model)
    for name in ("mean_poses", "bases", "cameras"):
        got, want = getattr(parameters, name).shape, getattr(model, name).shape
        if got != want:
            hint = "Pass the model that they were learned for."
            raise argument_error(f"parameters.{name}", f"expected {want}", got, hint)
    size = _size(_initial_prior(model))
    width, weight = parameters.huber_width, parameters.prior_weight
    if compatibility:
        width, weight = weight, width
    scale = model.noise_precision * parameters.reprojection_scale
    return PoseTerms(
        basis=pose_basis(parameters.mean_poses, parameters.bases, model),
        prior=size * parameters.regularisation_scale[:, None, None] * parameters.regularisation,
        target=-0.003 * parameters.scale_target,
        weights=scale[:, None, None] * parameters.joint_weights,
        cameras=parameters.cameras * model.cameras,
        width=0.1 * width,
        prior_weight=0.75 * weight,
    )


def trainable(groups: Any = tuple(GROUPS)) -> PoseParameters:
    """A tree of booleans, True for the parameters of the given groups.

    Raises:
        ValueError: a name that is not in `GROUPS`.
    """
    for group in groups:
        check_choice("groups", group, tuple(GROUPS))
    names = {name for group in groups for name in GROUPS[group]}
    return PoseParameters(*(name in names for name in PoseParameters._fields))  # pyright: ignore


# `constrain` clips these parameters to [lower, upper].
_BOUNDS = {
    "joint_weights": (1e-3, 1e5),
    "rotation_sharpness": (1e-5, 1e3),
    "component_sharpness": (1e-5, 1e3),
    "regularisation": (-5.0, 5.0),
    "huber_width": (1e-3, 5.0),
    "prior_weight": (1e-3, 5.0),
}


def constrain(parameters: PoseParameters, *, compatibility: bool = False) -> PoseParameters:
    """The parameters within the bounds of the source.

    Args:
        parameters: any.
        compatibility: clip the factors of D to [-5, 5] as the release does, although initial ones
            reach a hundred and are then lost; False: leave D unchanged.
    """
    bounds = dict(_BOUNDS)
    if not compatibility:
        del bounds["regularisation"]
    clipped = {name: jnp.clip(getattr(parameters, name), *bound) for name, bound in bounds.items()}
    return parameters._replace(**clipped)


def rotations_about_vertical(angles: jax.Array) -> jax.Array:
    """(R, 3, 3) R(t) = [[sin, cos, 0], [-cos, sin, 0], [0, 0, 1]] of angles (R,) [rad]."""
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    zero, one = jnp.zeros_like(sin), jnp.ones_like(sin)
    rows = [[sin, cos, zero], [-cos, sin, zero], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def normalise_points(
    points: jax.Array, visible: jax.Array, *, compatibility: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Points of each view, centred at their mean, upright and scaled to height 2.

    Args:
        points: (..., V, 17, 2) x right, y down [px].
        visible: (..., V, 17) bool; a point that is not finite counts as not visible.
        compatibility: centre and scale every view by the first view's mask, as the release does.

    Returns:
        Points (..., V, 17, 2) without a unit, x left and y up, zero where not visible (unless
        `compatibility`); and visibility (..., V, 17) bool, all False in a view whose points have
        no height.
    """
    check_shape("points", points, (None, NUM_JOINTS, 2), f"{NUM_JOINTS} joints, x and y [px].")
    check_shape("visible", visible, (points.shape[-3], NUM_JOINTS), "One flag per joint and view.")
    finite = jnp.all(jnp.isfinite(points), axis=-1)
    points, visible = jnp.where(finite[..., None], points, 0), visible & finite
    shared = jnp.broadcast_to(visible[..., :1, :], visible.shape) if compatibility else visible
    mask = shared[..., None]
    count = jnp.sum(mask, axis=-2, keepdims=True)
    mean = jnp.sum(jnp.where(mask, points, 0), axis=-2, keepdims=True) / jnp.maximum(count, 1)
    heights = (
        jnp.where(shared, points[..., 1], jnp.inf),
        jnp.where(shared, points[..., 1], -jnp.inf),
    )
    half = (jnp.max(heights[1], axis=-1) - jnp.min(heights[0], axis=-1)) / 2  # (..., V) [px]
    tall = jnp.any(shared, axis=-1) & (half > 0)
    half = jnp.where(tall, half, 1)[..., None, None]
    seen = visible & tall[..., None]
    normalised = (mean - points) / half
    return normalised if compatibility else jnp.where(seen[..., None], normalised, 0), seen


def limb_norm(poses: jax.Array, *, compatibility: bool = False) -> jax.Array:
    """(...) root sum of squared limb lengths of poses (..., 17, 3), in their unit.

    Args:
        poses: (..., 17, 3).
        compatibility: the release's limbs, which do not match the joints.
    """
    check_shape("poses", poses, (NUM_JOINTS, 3), f"{NUM_JOINTS} joints x, y, z.")
    first, second = zip(*(LIMBS_OF_RELEASE if compatibility else LIMBS), strict=True)
    limbs = poses[..., list(first), :] - poses[..., list(second), :]
    return jnp.sqrt(jnp.sum(limbs**2, axis=(-2, -1)))


def pose_residual(
    pose: dict[str, jax.Array],
    terms: PoseTerms,
    rotation: jax.Array,
    points: jax.Array,
    visible: jax.Array,
    ridge: float = 0.0,
) -> dict[str, jax.Array]:
    """The residuals of the energy of one frame, one component and one rotation.

    E = 1/2 sum of squares, with the robust kernel, if any, on "reprojection".

    Args:
        pose: `coefficients` a (29,) and `joints` q (17, 3) [mm / scale].
        terms: of one component (without the axis K).
        rotation: (3, 3).
        points: (V, 17, 2), normalised.
        visible: (V, 17) bool.
        ridge: weight of the term 1/2 ridge (|a|^2 + |q|^2).

    Returns:
        `model` (17, 3), `reprojection` (V, 17, 2), `prior` (29,); with a ridge, `ridge` (80,).
    """
    coefficients, joints = pose["coefficients"], pose["joints"]
    seen = jnp.einsum("vab,bc,jc->vja", terms.cameras[:, :2], rotation, joints)
    weights = terms.weights * visible[..., None]
    rows = {
        "model": jnp.einsum("i,ija->ja", coefficients, terms.basis) - joints,
        "reprojection": weights * (seen - points),
        "prior": jnp.sqrt(terms.prior_weight)
        * (terms.prior @ coefficients).at[0].add(-terms.target),
    }
    if ridge:
        everything = jnp.concatenate([coefficients, joints.ravel()])
        rows["ridge"] = math.sqrt(ridge) * everything
    return rows
