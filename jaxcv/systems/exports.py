"""The systems' models as functions of arrays, for `jaxcv.io.export` and the models' cards.

Every function has one symbolic batch size b; the hand's images have any size h, w. The relative
pose is not here yet: its entry belongs into `INTERFACES`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxcv.energies.curves import FAMILIES
from jaxcv.io.interfaces import Input, Interface, register_system
from jaxcv.io.networks import Model
from jaxcv.systems.curve_fitting import curve_fitting_arrays
from jaxcv.systems.depth_and_motion import monocular_stereo_arrays
from jaxcv.systems.hand_pose import hand_pose_arrays
from jaxcv.systems.human_pose import human_pose_arrays
from jaxcv.systems.inverse_graphics import inverse_graphics_arrays
from jaxcv.systems.models import TYPES
from jaxcv.systems.robust_location import robust_mean_arrays
from jaxcv.systems.tracker_fusion import tracker_fusion_arrays

__all__ = ["INTERFACES", "register_systems"]

_UNIT = "[0, 1]"
_BOXES = "x1 < x2, y1 < y2; otherwise not reported"


def _texture(height: int, width: int, shift: float = 0.0) -> np.ndarray:
    """A smooth image (height, width) in [0, 1], shifted by some pixels to the left."""
    v, u = np.mgrid[:height, :width].astype(np.float64)
    u = u + shift
    waves = ((0.31, 0.17), (0.11, -0.23), (-0.53, 0.41), (0.07, 0.05))
    total = np.sum([np.sin(a * u + b * v + i) for i, (a, b) in enumerate(waves)], axis=0)
    return np.asarray(0.5 + total / (2.5 * len(waves)), np.float32)


def _ball(height: int = 120, width: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Depth (height, width) [mm] of a ball of 70 mm at 700 mm before a wall, and K."""
    k = np.array([[240.0, 0, (width - 1) / 2], [0, 240.0, (height - 1) / 2], [0, 0, 1]])
    v, u = np.mgrid[:height, :width]
    square = ((u - k[0, 2]) ** 2 + (v - k[1, 2]) ** 2) * (700 / 240) ** 2
    depth = np.where(square < 70**2, 700 - np.sqrt(np.maximum(70**2 - square, 0)), 1500.0)
    return depth.astype(np.float32), k.astype(np.float32)


def _hand_pose(model: Model) -> Interface:
    colored = any(kind != "depth" for kind in model.settings["network"].images)
    depth, k = _ball()
    inputs = {
        "depth": Input("b, h, w", np.stack([depth, np.roll(depth, 7, axis=1)])),
        "intrinsics": Input("b, 3, 3", np.stack([k, k])),
    }
    if colored:
        color = np.repeat(_texture(*depth.shape)[None, ..., None], 3, axis=-1)
        inputs["color"] = Input("b, h, w, 3", np.concatenate([color, color]))

    def function(params, depth, intrinsics, color=None):
        return hand_pose_arrays(params, depth, intrinsics, settings=model.settings, color=color)

    units = {
        "depth": ("mm", "> 0; 0 or nan: missing"), "intrinsics": ("px", "fx, fy not 0"),
        "color": ("1", _UNIT), "joints": ("mm", "nan where not found"),
        "pixels": ("px", "nan where not found"), "crop": ("px", "nan where not found"),
        "centre": ("mm", "of the cube"), "found": ("", "whether the cube holds a hand"),
    }  # fmt: skip
    return Interface(function, inputs, units, TYPES)


def _inverse_graphics(model: Model) -> Interface:
    side, count = int(model.settings["network"].size.image), len(model.settings["scale"].slope)
    image = _texture(side, side)[..., None]
    given = np.full((2, count), np.nan, np.float32)
    given[1, 0] = 0.5
    inputs = {
        "images": Input(f"b, {side}, {side}, 1", np.stack([image, image])),
        "given": Input(f"b, {count}", given),
    }
    scale = "of the model's settings"
    units = {
        "images": ("1", _UNIT), "given": (scale, "nan: inferred from the image"),
        "code": ("1", ""), "found": (scale, "inferred from the image"),
    }  # fmt: skip
    return Interface(_settled(inverse_graphics_arrays, model.settings), inputs, units, TYPES)


def _monocular_stereo(model: Model) -> Interface:
    config = model.card.get("config", {})
    height, width = int(config.get("height", 48)), int(config.get("width", 64))
    views = [np.repeat(_texture(height, width, s)[..., None], 3, axis=-1) for s in (0.0, 2.0)]
    k = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]], np.float32)
    size = f"{height}, {width}, 3"
    inputs = {
        "target": Input(f"b, {size}", views[0][None]),
        "sources": Input(f"b, 1, {size}", views[1][None, None]),
        "intrinsics": Input("b, 3, 3", k[None]),
    }
    units = {
        "target": ("1", _UNIT), "sources": ("1", _UNIT), "intrinsics": ("px", "fy > 0"),
        "inverse_depth": ("1 / baseline", "[0.001, 10]"), "full": ("1 / baseline", "[0.001, 10]"),
        "motion": ("baseline", "x_source = R x_target + t"),
    }  # fmt: skip
    return Interface(_settled(monocular_stereo_arrays, model.settings), inputs, units, TYPES)


def _curve_fitting(model: Model) -> Interface:
    families = tuple(model.card.get("families", FAMILIES))
    count = 10 * int(model.settings["network"].bins)
    rng, each = np.random.default_rng(0), [FAMILIES[name] for name in families]
    t = np.stack([np.linspace(*family.interval, count) for family in each])
    draw = lambda: np.stack([rng.uniform(f.lower, f.upper, (2, 2)) for f in each])
    values = [
        [f.value(x, t[i]) for x in rows]
        for i, (f, rows) in enumerate(zip(each, draw(), strict=True))
    ]
    y = np.asarray(values) + 0.1 * rng.standard_normal((len(families), 2, count))
    f, n = len(families), count
    inputs = {
        "t": Input(f"{f}, {n}", t.astype(np.float32)),
        "y": Input(f"{f}, b, {n}", y.astype(np.float32)),
        "start": Input(f"{f}, b, 2", draw().astype(np.float32)),
    }
    units = {
        "t": ("1", f"of the families {', '.join(families)}"), "y": ("1", "noisy values"),
        "start": ("1", "first a and b"), "unknowns": ("1", "a and b"), "energy": ("1", ">= 0"),
        "iterates": ("1", "a and b after each step"),
    }  # fmt: skip
    settings = {**model.settings, "families": families}
    return Interface(_settled(curve_fitting_arrays, settings), inputs, units, TYPES)


def _tracker_fusion(model: Model) -> Interface:
    count = model.params.log_width.shape[-1]
    rng = np.random.default_rng(0)
    boxes = np.array([40.0, 30.0, 100.0, 110.0]) + rng.normal(size=(2, count, 4)) * 3
    reported = np.ones((2, count), bool)
    reported[1, 0] = False
    inputs = {
        "boxes": Input(f"b, {count}, 4", boxes.astype(np.float32)),
        "reported": Input(f"b, {count}", reported),
        "first_box": Input("b, 4", np.tile(np.array([40, 30, 100, 110], np.float32), (2, 1))),
        "frame": Input("b", np.array([1, 20], np.int32)),
    }
    units = {
        "boxes": ("px", _BOXES), "reported": ("", ""), "first_box": ("px", _BOXES),
        "frame": ("frames since the start", ">= 1"),
        "box": ("px", "nan if no tracker reports"), "energy": ("1", "of both corners"),
        "min_eigenvalue": ("1 / unit of the frame squared", ""), "converged": ("", ""),
    }  # fmt: skip
    return Interface(_settled(tracker_fusion_arrays, model.settings), inputs, units, TYPES)


def _human_pose(model: Model) -> Interface:
    own = model.params["model"]
    views, dtype = own.cameras.shape[0], np.asarray(own.cameras).dtype
    pose, cameras = np.asarray(own.mean_poses)[0], np.asarray(own.cameras)
    # Scaled orthographic, x right and y down: see `jaxcv.energies.human_pose`.
    points = 500 - 0.2 * np.einsum("vab,jb->vja", cameras[:, :2], pose)
    shape = f"b, {views}, 17"
    norm = float(np.asarray(own.limb_norm))
    inputs = {
        "points": Input(f"{shape}, 2", np.stack([points, points + 5]).astype(dtype)),
        "visible": Input(shape, np.arange(2 * views * 17).reshape(2, views, 17) != 9),
        "limb_norm": Input("b", np.full(2, norm, dtype)),
    }
    units = {
        "points": ("px", "x right, y down; nan: not visible"), "visible": ("", ""),
        "limb_norm": ("mm", "> 0"), "joints": ("mm", "z up; nan where no joint is visible"),
        "component_weights": ("1", _UNIT), "scores": ("1", ""), "angles": ("rad", "[0, 2 pi)"),
        "slopes": ("1", ">= 0"),
    }  # fmt: skip
    return Interface(_settled(human_pose_arrays, model.settings), inputs, units, TYPES)


def _robust_mean(model: Model) -> Interface:
    scale = np.asarray(model.params["scale"])
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(2, 10)), rng.uniform(-20, 20, (2, 30))], axis=1)
    points[1, -1] = np.nan
    inputs = {"points": Input("b, n", points.astype(scale.dtype))}
    units = {
        "points": ("any", "nan: absent"), "mean": ("as the points", "nan without points"),
        "energy": ("1", "<= 0"), "converged": ("", ""),
    }  # fmt: skip
    return Interface(_settled(robust_mean_arrays, model.settings), inputs, units, TYPES)


def _settled(function: Callable, settings: Mapping[str, Any]) -> Callable:
    return functools.partial(function, settings=settings)


INTERFACES: dict[str, Callable[[Model], Interface]] = {
    "curve_fitting": _curve_fitting,
    "hand_pose": _hand_pose,
    "human_pose": _human_pose,
    "inverse_graphics": _inverse_graphics,
    "monocular_stereo": _monocular_stereo,
    "robust_mean": _robust_mean,
    "tracker_fusion": _tracker_fusion,
}


def register_systems() -> None:
    """Makes the systems known to `jaxcv.io.export`."""
    for system, interface in INTERFACES.items():
        register_system(system, interface)
