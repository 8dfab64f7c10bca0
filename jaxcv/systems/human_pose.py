"""A 3-D human pose from the 2-D joints that calibrated cameras see."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import argument_error, check_choice, check_floating, check_shape
from jaxcv.energies.human_pose import (
    NUM_JOINTS,
    PoseModel,
    PoseParameters,
    initial_parameters,
    normalise_points,
    pose_terms,
    rotations_about_vertical,
)
from jaxcv.energies.human_pose import limb_norm as norm_of_limbs
from jaxcv.energies.human_pose_readout import PoseReadout, pose_readout
from jaxcv.energies.human_pose_search import search
from jaxcv.io.networks import Model
from jaxcv.linear.damping import Damping
from jaxcv.systems.arguments import takes_model

__all__ = ["Reconstruction", "human_pose_arrays", "reconstruct_pose"]

# Scale of the sharpness parameters: scores differ in the third digit.
_SHARPNESS = {True: 5000.0, False: 56000.0}  # with and without a free pose
_CHUNK = 8  # frames per chunk, so that a chunk fits in the cache


class Reconstruction(NamedTuple):
    """A fused pose, and its components.

    Attributes:
        joints: (..., 17, 3) x, y and z up [mm], about the origin; nan where no joint is visible
            in any view. Differentiable in the parameters.
        component_weights: (..., K) of the fusion, summing to one.
        scores: (..., K) lowest score of each component.
        angles: (..., K) rotation about the vertical with that score [rad].
        slopes: (..., K) norm of the energy's gradient there; 0 at a minimum.
    """

    joints: jax.Array
    component_weights: jax.Array
    scores: jax.Array
    angles: jax.Array
    slopes: jax.Array


def human_pose_arrays(
    params: Mapping[str, Any],
    points: jax.Array,
    visible: jax.Array,
    limb_norm: jax.Array,
    *,
    settings: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """`reconstruct_pose` on arrays alone: for jit, vmap, grad and export.

    Args:
        params: `model`, `parameters`, and `readout` for the monocular variant.
        points: (..., V, 17, 2) [px].
        visible: (..., V, 17) bool.
        limb_norm: (...) [mm].
        settings: what differs from the defaults of `reconstruct_pose`.

    Returns:
        The fields of `Reconstruction`.
    """
    found = reconstruct_pose(
        points, params["model"], params["parameters"], readout=params.get("readout"),
        visible=visible, limb_norm=limb_norm, **settings,
    )  # fmt: skip
    return found._asdict()


def _arguments(model: Model) -> dict[str, Any]:
    return {**model.params, **model.settings}


@takes_model("human_pose", "model", split=_arguments)
@functools.partial(
    jax.jit,
    static_argnames=(
        "robust", "free_pose", "gradient", "selection", "num_rotations", "passes", "compatibility",
    ),
)  # fmt: skip
def reconstruct_pose(
    points: Any,
    model: PoseModel,
    parameters: PoseParameters | None = None,
    *,
    readout: PoseReadout | None = None,
    visible: Any = None,
    limb_norm: Any = None,
    robust: bool = True,
    free_pose: bool = True,
    gradient: str = "unrolled",
    selection: str = "soft",
    num_rotations: int = 100,
    passes: int = 3,
    damping: Damping = Damping(0.0),  # noqa: B008
    compatibility: bool = False,
) -> Reconstruction:
    """Minimises the pose energy for every component and rotation, and fuses the minimisers.

        q_k   = -sum_t softmax_t(-5000 r_k (score_kt - min_t score_kt)) R_t q_kt / |its limbs|
        joints = output_scale * limb_norm * q / |limbs of q|,   q = sum_k w_k q_k
        w_k   ~ exp(-|5000 c_k (S_k - min S) + offset_k|),      S_k = min_t score_kt / 2

    Without a free pose, 56000 replaces 5000. Use 64-bit floats: the factors are large.

    Args:
        points: (..., V, 17, 2) joints in each of V views, x right, y down [px], in the order of
            `jaxcv.energies.human_pose.JOINTS`. A joint that is not finite is not visible.
        model: with V cameras; or a `jaxcv.io.Model`, e.g. `load_pretrained("pose_people")`, which
            also gives parameters, readout and settings. What is given beside it replaces its own.
        parameters: the learned ones; None: those of the model.
        readout: of the monocular variant, one view without a free pose: separate arrays map
            coefficients to a pose, which is then drawn to the detections.
        visible: (..., V, 17) bool; all by default. A joint visible in no view follows the model.
        limb_norm: (...) root sum of squared limb lengths of the person [mm]; None: the model's.
            Images do not determine it: the views are scaled orthographic.
        robust: pseudo-Huber kernel on the points, by `passes` of reweighting; else least squares.
        free_pose: True: the pose may leave the model, as with several cameras. False: it stays in
            the model, as in the monocular variant (whose prior has regularisation_scale 5.2 and
            which uses robust=False).
        gradient: `unrolled` differentiates the passes; `implicit` adds two Newton steps and takes
            the damped implicit gradient at the minimum, with less time and memory.
        selection: `soft` is the formula above; `hard` takes the best rotation of the best
            component.
        num_rotations: about the vertical, evenly spaced.
        passes: of reweighting.
        damping: of the implicit gradient.
        compatibility: follow the released code where it differs from the paper or from its own
            intent: limbs, the robust kernel's constants, normalisation by the first view's mask.

    Raises:
        ValueError: points that are not (..., V, 17, 2), another number of views than the model's
            cameras, parameters of another model, invalid settings.

    Source: Toso, Campbell, Russell, NeurIPS 2019.
    """
    points = jnp.asarray(points)
    check_choice("gradient", gradient, ("unrolled", "implicit"))
    check_choice("selection", selection, ("soft", "hard"))
    check_floating("points", points)
    check_shape("points", points, (None, NUM_JOINTS, 2), "V views of 17 joints, x and y [px].")
    num_views = points.shape[-3]
    if num_rotations < 1 or passes < 0:
        expected = "expected one rotation or more, and no negative number of passes"
        raise argument_error("num_rotations, passes", expected, (num_rotations, passes))
    if gradient == "implicit" and not free_pose:
        expected = "the implicit gradient is that of the energy with a free pose"
        raise argument_error("gradient", expected, "'implicit'", "Use gradient='unrolled'.")
    if readout is not None and (free_pose or num_views != 1):
        expected = "a readout is for one view and free_pose=False"
        raise argument_error("readout", expected, f"{num_views} views, free_pose={free_pose}")
    if damping.order != 1 or damping.relative or damping.mode == "tikhonov":
        expected = "expected order 1, absolute, mode 'shift' or 'plain' (the energy is convex)"
        raise argument_error("damping", expected, damping)
    if model.cameras.shape[0] != num_views:
        hint = "Give one camera a view: model._replace(cameras=...)."
        expected = f"expected {num_views} cameras for {num_views} views"
        raise argument_error("model.cameras", expected, model.cameras.shape, hint)
    if parameters is None:
        parameters = initial_parameters(model, compatibility=compatibility)
    batch = points.shape[:-3]
    if 0 in batch:
        raise argument_error("points", "expected one frame or more", points.shape)
    given = {"visible": (visible, points.shape[:-1]), "limb_norm": (limb_norm, batch)}
    for name, (value, shape) in given.items():
        got = () if value is None else jnp.shape(value)
        if len(got) > len(shape) or any(
            a not in (1, b) for a, b in zip(reversed(got), reversed(shape), strict=False)
        ):
            raise argument_error(name, f"expected {shape}, or what broadcasts to it", got)
    visible = jnp.broadcast_to(True if visible is None else visible, points.shape[:-1]).astype(bool)
    points, visible = normalise_points(points, visible, compatibility=compatibility)
    points, visible = (
        points.reshape(-1, *points.shape[-3:]),
        visible.reshape(-1, *visible.shape[-2:]),
    )
    some = jnp.any(visible, axis=(1, 2))
    # A frame without visible joints is singular: solve a view of the model in its place.
    visible = visible | ~some[:, None, None]
    points = jnp.where(some[:, None, None, None], points, _any_view(model))

    terms = pose_terms(parameters, model, compatibility=compatibility)
    angles = 2 * jnp.pi * jnp.arange(num_rotations, dtype=points.dtype) / num_rotations
    find = functools.partial(
        search, angles=angles, robust=robust, passes=passes, free_pose=free_pose,
        gradient=gradient, damping=damping.value, compatibility=compatibility,
    )  # fmt: skip
    found = _over_components(find, terms, points, visible)
    if readout is not None:
        rotations = rotations_about_vertical(angles)
        read = pose_readout(
            readout, model, model.cameras[0], found.coefficients, rotations, points[:, 0],
            visible[:, 0],
        )  # fmt: skip
        found = found._replace(joints=read)
    fused = _fuse(parameters, found, angles, free_pose, selection, compatibility)
    norm = model.limb_norm if limb_norm is None else jnp.asarray(limb_norm)
    norm = jnp.broadcast_to(norm, batch).reshape(-1, 1, 1)
    joints = parameters.output_scale * norm * fused.joints
    joints = jnp.where(some[:, None, None], joints, jnp.nan)
    fused = fused._replace(joints=joints)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), fused)


def _any_view(model):
    """The first mean pose in the V views, (V, 17, 2)."""
    seen = jnp.einsum("vab,jb->vja", model.cameras[:, :2], model.mean_poses[0])
    return jax.lax.stop_gradient(-0.003 * seen)


def _over_components(find, terms, points, visible):
    """`find` for every component, in chunks of frames: (F, K, R, ...)."""
    shared = {"target": None, "cameras": None}
    split = terms._replace(**shared)

    def frames(chunk):
        def component(own):
            own = own._replace(target=terms.target, cameras=terms.cameras)
            return find(own, points=chunk[0], visible=chunk[1])

        found = jax.lax.map(component, split)
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)

    num = points.shape[0]  # symbolic in an export
    size = min(_CHUNK, num) if isinstance(num, int) else _CHUNK
    chunks = (num + size - 1) // size
    padded = chunks * size

    def cut(x):
        x = x if padded == num else x[jnp.arange(padded) % num]
        return x.reshape(chunks, size, *x.shape[1:])

    def joined(x):
        x = x.reshape(padded, *x.shape[2:])
        return x if padded == num else x[jnp.arange(num)]

    found = jax.lax.map(frames, (cut(points), cut(visible)))
    return jax.tree.map(joined, found)


def _fuse(parameters, found, angles, free_pose, selection, compatibility):
    """A `Reconstruction` with joints of unit limb norm."""
    size = lambda x: norm_of_limbs(x, compatibility=compatibility)[..., None, None]
    poses = -found.joints / size(found.joints)  # (F, K, R, 17, 3)
    lowest = jnp.min(found.score, axis=-1)  # (F, K)
    best = jnp.argmin(found.score, axis=-1)
    sharpness = _SHARPNESS[free_pose] * jnp.abs(parameters.rotation_sharpness)
    shares = jax.nn.softmax(-sharpness[:, None] * (found.score - lowest[..., None]), axis=-1)
    half = lowest / 2
    rise = (
        _SHARPNESS[free_pose]
        * parameters.component_sharpness
        * (half - jnp.min(half, axis=-1, keepdims=True))
    )
    exponents = -jnp.abs(rise + parameters.component_offset)
    weights = jax.nn.softmax(exponents, axis=-1)
    if selection == "hard":
        shares = jax.nn.one_hot(best, shares.shape[-1], dtype=shares.dtype)
        weights = jax.nn.one_hot(
            jnp.argmax(exponents, axis=-1), weights.shape[-1], dtype=shares.dtype
        )
    pose = jnp.einsum("fk,fkr,fkrja->fja", weights, shares, poses)
    slope = jnp.take_along_axis(found.slope, best[..., None], axis=-1)[..., 0]
    return Reconstruction(pose / size(pose), weights, lowest, angles[best], slope)
