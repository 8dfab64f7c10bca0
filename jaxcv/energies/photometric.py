"""The photometric residual between two views, its Jacobian and its normal equations.

    r = m (I_t(u, v) - I_s(u', v')),   E = 1/2 sum r^2

Inverse depth z and motion T map a pixel to u', v' in the source; m is 1 if it is visible there
(`jaxcv.geometry.warp`). With gx = -m (I_u fx), gy = -m (I_u s + I_v fy), a = X/Z, b = Y/Z and
c = -(gx a + gy b), the rows of the Jacobian are

    dr/dz = (gx t_1 + gy t_2 + c t_3) / Z
    dr/dv = (gx, gy, c) z / Z,   dr/dw = (X, Y, Z)/Z x (gx, gy, c)

for T <- exp((v, w)) T. A pixel has one depth, so J^T J is an arrow: diagonal in the depths, and six
unknowns of the motion for each source. With one grey residual per pixel, the depths absorb any
motion: the Schur complement of the undamped motion block is zero. Colour gives rank 5: no image
distinguishes (z, t) from (c z, t / c). A prior on the depths gives rank 6.

Source: Clark et al., "LS-Net", ECCV 2018, eq. 5 to 8, in inverse depth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcv.checks import check_shape
from jaxcv.geometry import se3
from jaxcv.geometry.camera import pixel_rays
from jaxcv.geometry.warp import bilinear, warp_pixels
from jaxcv.linear.arrow import ArrowMatrix, ArrowStructure

__all__ = [
    "ArrowTerms",
    "PhotometricTerms",
    "add_sources",
    "additive",
    "arrow_terms",
    "common_depth_step",
    "damped_step",
    "photometric_terms",
]


class PhotometricTerms(NamedTuple):
    """Residuals of one source, and their derivatives.

    Attributes:
        residual: (H, W, C); 0 where not visible, as are the derivatives.
        depth: (H, W, C), dr/dz of the pixel's own inverse depth.
        motion: (H, W, C, 6), dr/d(v, w).
        visible: (H, W) bool.
    """

    residual: jax.Array
    depth: jax.Array
    motion: jax.Array
    visible: jax.Array


class ArrowTerms(NamedTuple):
    """J^T J and J^T r, summed over the channels.

    Attributes:
        depth: (H, W), the diagonal of the depths.
        border: (H, W, 6), or (S, H, W, 6) for S sources.
        motion: (6, 6), or (S, 6, 6).
        depth_gradient: (H, W).
        motion_gradient: (6,), or (S, 6).
    """

    depth: jax.Array
    border: jax.Array
    motion: jax.Array
    depth_gradient: jax.Array
    motion_gradient: jax.Array


def photometric_terms(
    inverse_depth: jax.Array,
    motion: jax.Array,
    target: jax.Array,
    source: jax.Array,
    intrinsics: jax.Array,
    source_intrinsics: jax.Array | None = None,
) -> PhotometricTerms:
    """Residuals of one source and their analytic Jacobian for T <- exp((v, w)) T.

    Args:
        inverse_depth: (H, W) of the target's pixels, in the inverse unit of the translation.
        motion: (4, 4), target to source.
        target: (H, W, C), grey has C = 1.
        source: (H', W', C).
        intrinsics: (3, 3) of the target.
        source_intrinsics: (3, 3) of the source; None: those of the target.
    """
    check_shape("target", target, (*inverse_depth.shape, source.shape[-1]))
    k = intrinsics if source_intrinsics is None else source_intrinsics
    rays = pixel_rays(intrinsics, *inverse_depth.shape)
    warp = warp_pixels(inverse_depth, motion, rays, k, (source.shape[0], source.shape[1]))
    seen, du, dv = bilinear(source, warp.u, warp.v)
    mask = warp.visible[..., None].astype(seen.dtype)
    x = warp.points / warp.points[..., 2:]
    a, b = x[..., 0, None], x[..., 1, None]
    gx, gy = -mask * du * k[0, 0], -mask * (du * k[0, 1] + dv * k[1, 1])
    gz = -(gx * a + gy * b)
    over, t = 1 / warp.points[..., 2, None], motion[:3, 3]
    depth = (gx * t[0] + gy * t[1] + gz * t[2]) * over
    far = inverse_depth[..., None] * over
    turn = (b * gz - gy, gx - a * gz, a * gy - b * gx)
    jacobian = jnp.stack([gx * far, gy * far, gz * far, *turn], axis=-1)
    return PhotometricTerms(mask * (target - seen), depth, jacobian, warp.visible)


def additive(terms: PhotometricTerms, xi: jax.Array) -> PhotometricTerms:
    """The terms with the Jacobian for xi <- xi + d in T = exp(xi), as in eq. 8.

    Args:
        terms: at T = exp(xi).
        xi: (6,).
    """
    return terms._replace(motion=terms.motion @ se3.left_jacobian(xi))


def arrow_terms(terms: PhotometricTerms, width: float | None = None) -> ArrowTerms:
    """J^T J and J^T r of one source.

    Args:
        terms: residuals and rows of the Jacobian.
        width: c of the Cauchy weights 1 / (1 + (r / c)^2) of iteratively reweighted least squares;
            None: all weights are 1.
    """
    r, z, p = terms.residual, terms.depth, terms.motion
    if width is not None:
        root = jax.lax.rsqrt(1 + (r / width) ** 2)
        r, z, p = root * r, root * z, root[..., None] * p
    flat = p.reshape(-1, 6)
    return ArrowTerms(
        depth=jnp.sum(z * z, axis=-1),
        border=jnp.sum(z[..., None] * p, axis=-2),
        motion=flat.T @ flat,
        depth_gradient=jnp.sum(z * r, axis=-1),
        motion_gradient=r.reshape(-1) @ flat,
    )


def add_sources(terms: ArrowTerms) -> ArrowTerms:
    """The joint system of S sources, from their terms stacked along a first axis."""
    depth, gradient = jnp.sum(terms.depth, axis=0), jnp.sum(terms.depth_gradient, axis=0)
    return terms._replace(depth=depth, depth_gradient=gradient)


def damped_step(
    terms: ArrowTerms,
    damping: jax.Array | float,
    prior_weight: jax.Array | float = 0.0,
    away: jax.Array | float = 0.0,
    *,
    depth: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Levenberg-Marquardt step of depths (H, W) and motions (S, 6), with depths eliminated.

        (J^T J + w I_z + lambda diag) p = -(J^T r + w (z - z_0))

    Args:
        terms: of S sources (`add_sources`).
        damping: lambda, relative to the diagonal.
        prior_weight: w.
        away: (H, W) z - z_0.
        depth: whether to step the depths; if not, only the motions.
    """
    count, pixels = terms.motion.shape[0], terms.depth.size
    tiny = 1e-8
    local = ((1 + damping) * (terms.depth + prior_weight) + tiny).reshape(pixels, 1, 1)
    border = jnp.moveaxis(terms.border.reshape(count, pixels, 6), 0, 1).reshape(pixels, 1, -1)
    border = border if depth else jnp.zeros_like(border)
    shared = jax.scipy.linalg.block_diag(*terms.motion)
    diagonal = jnp.diagonal(shared)
    shared = shared + jnp.diag(damping * diagonal + tiny * (1 + jnp.max(diagonal)))
    gradient = (terms.depth_gradient + prior_weight * away).ravel()
    right = jnp.concatenate([gradient, terms.motion_gradient.ravel()])
    structure = ArrowStructure(((0, pixels, True), (pixels, pixels + 6 * count, False)), 1)
    step = -structure.solve(structure.factor(ArrowMatrix(local, border, shared)), right)
    move = step[:pixels].reshape(terms.depth.shape)
    return (move if depth else jnp.zeros_like(move)), step[pixels:].reshape(count, 6)


def common_depth_step(terms: ArrowTerms, radius: int, damping: jax.Array | float) -> jax.Array:
    """Gauss-Newton step (H, W) of one depth change common to the window around each pixel.

    Args:
        terms: only their depth part is used.
        radius: the window has 2 radius + 1 pixels per side.
        damping: added to the window's sum of squares.
    """
    side = 2 * radius + 1
    total = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (side, side), (1, 1), "SAME")
    return -total(terms.depth_gradient) / (total(terms.depth) + damping)
