"""One pure entry point per task, built from the other packages."""

from jaxcv.systems.curve_fitting import curve_fitting_arrays, fit_curves
from jaxcv.systems.depth_and_motion import estimate_depth_and_motion, monocular_stereo_arrays
from jaxcv.systems.exports import register_systems
from jaxcv.systems.hand_pose import (
    HandCrop,
    HandEstimate,
    hand_pose_arrays,
    predict_hand,
    preprocess,
)
from jaxcv.systems.hand_refinement import RefinedHand, refine_hand
from jaxcv.systems.human_pose import Reconstruction, human_pose_arrays, reconstruct_pose
from jaxcv.systems.inverse_graphics import Rendering, inverse_graphics_arrays, render_latents
from jaxcv.systems.models import Model, load_model, save_model
from jaxcv.systems.pose_model import (
    fit_pose_model,
    load_pose_model,
    load_pose_parameters,
    load_pose_readout,
    save_pose_parameters,
)
from jaxcv.systems.pretrained import load_pretrained
from jaxcv.systems.relative_refinement import RefinedPose, refine_relative_pose
from jaxcv.systems.robust_location import robust_mean, robust_mean_arrays
from jaxcv.systems.stereo import StereoEstimate, StereoNetwork
from jaxcv.systems.tracker_fusion import FusedBox, fuse_boxes, fuse_frame, tracker_fusion_arrays
from jaxcv.systems.two_view import RelativePose, relative_pose

__all__ = [
    "FusedBox",
    "HandCrop",
    "HandEstimate",
    "Model",
    "Reconstruction",
    "RefinedHand",
    "RefinedPose",
    "RelativePose",
    "Rendering",
    "StereoEstimate",
    "StereoNetwork",
    "curve_fitting_arrays",
    "estimate_depth_and_motion",
    "fit_curves",
    "fit_pose_model",
    "fuse_boxes",
    "fuse_frame",
    "hand_pose_arrays",
    "human_pose_arrays",
    "inverse_graphics_arrays",
    "load_model",
    "load_pose_model",
    "load_pose_parameters",
    "load_pose_readout",
    "load_pretrained",
    "monocular_stereo_arrays",
    "predict_hand",
    "preprocess",
    "reconstruct_pose",
    "refine_hand",
    "refine_relative_pose",
    "relative_pose",
    "render_latents",
    "robust_mean",
    "robust_mean_arrays",
    "save_model",
    "save_pose_parameters",
    "tracker_fusion_arrays",
]

register_systems()
