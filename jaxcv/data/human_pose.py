"""Human poses in several cameras: frames, their checks, and the arrays of a released model.

Layout of a released model (HDF5, float64; K components, joints last)::

    model_parameters.h5   mu_<K> (K, 3, 17), e_<K> (K, 25, 3, 17), sigma_<K> (K, 26)
    avg_cameras.h5        cams (4, 3, 3)
    trained_model.h5      mean_pose, base_vectors, sigma_variance, joint_weights, cameras, ...

Source: the files of the released code of Toso, Campbell, Russell, NeurIPS 2019.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error
from jaxcv.geometry.camera import check_rotations

__all__ = [
    "PoseFrames",
    "check_frames",
]

NUM_JOINTS = 17


class PoseFrames(NamedTuple):
    """N frames of people in V cameras; NumPy arrays.

    Attributes:
        points: (N, V, 17, 2) detected joints, x right, y down [px].
        visible: (N, V, 17) bool, mask of detections.
        joints: (N, 17, 3) true joints in the world, z up [mm].
        cameras: (S, V, 3, 3) rotations from the world to the cameras of each subject.
        subject: (N,) int, index into `subjects` and `cameras`.
        action: (N,) int, index into `actions`.
        subjects: S names.
        actions: names.
        centres: (S, V, 3) centres of the cameras in the world [mm]; None: not known.
        intrinsics: (S, V, 3, 3) [px], of pinhole cameras; None: not known.
    """

    points: np.ndarray
    visible: np.ndarray
    joints: np.ndarray
    cameras: np.ndarray
    subject: np.ndarray
    action: np.ndarray
    subjects: tuple[str, ...]
    actions: tuple[str, ...]
    centres: np.ndarray | None = None
    intrinsics: np.ndarray | None = None

    def take(self, index: Any) -> "PoseFrames":
        """The frames selected by indices or a mask (N,)."""
        return self._replace(
            points=self.points[index],
            visible=self.visible[index],
            joints=self.joints[index],
            subject=self.subject[index],
            action=self.action[index],
        )


def check_frames(frames: PoseFrames) -> None:
    """Raises ValueError unless the values meet the rules of `PoseFrames`.

    Points may be nan or inf if they are not visible. A wrong order or axis of the joints shows if
    the head is below the feet in most frames.
    """
    num = len(frames.joints)
    num_views = frames.cameras.shape[1] if np.ndim(frames.cameras) == 4 else 0
    shapes = {
        "points": (num, num_views, NUM_JOINTS, 2),
        "visible": (num, num_views, NUM_JOINTS),
        "joints": (num, NUM_JOINTS, 3),
        "cameras": (len(frames.subjects), num_views, 3, 3),
        "subject": (num,),
        "action": (num,),
    }
    for name, shape in shapes.items():
        got = np.shape(getattr(frames, name))
        if got != shape or 0 in shape:
            hint = "N frames of 17 joints in V views, S subjects with V cameras each."
            raise argument_error(f"frames.{name}", f"expected {shape}, not empty", got, hint)
    check_rotations("frames.cameras", frames.cameras)
    for name in ("subject", "action"):
        index, names = getattr(frames, name), getattr(frames, name + "s")
        if np.any((index < 0) | (index >= len(names))):
            raise argument_error(f"frames.{name}", f"expected 0 to {len(names) - 1}", index)
    bad = np.argwhere(~np.all(np.isfinite(frames.joints), axis=(1, 2)))
    if bad.size:
        raise argument_error(f"frames.joints[{bad[0, 0]}]", "expected finite joints", "NaN or inf")
    seen = np.isfinite(frames.points).all(-1) | ~frames.visible
    if not seen.all():
        where = tuple(int(i) for i in np.argwhere(~seen)[0])
        hint = "Say visible=False for joints that were not detected."
        raise argument_error(f"frames.points{list(where)}", "expected a number", "NaN", hint)
    upright = frames.joints[:, 10, 2] > frames.joints[:, [3, 6], 2].mean(axis=1)
    if np.mean(upright) < 0.5:
        expected = "expected z up, joint 10 the head and joints 3 and 6 the feet"
        got = f"the head below the feet in {np.mean(~upright):.0%} of the frames"
        raise argument_error(
            "frames.joints", expected, got, "See jaxcv.energies.human_pose.JOINTS."
        )
