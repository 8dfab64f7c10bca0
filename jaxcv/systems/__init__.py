"""One pure entry point per task, built from the other packages."""

from jaxcv.systems.hand_pose import HandCrop, HandEstimate, predict_hand, preprocess
from jaxcv.systems.hand_refinement import RefinedHand, refine_hand
from jaxcv.systems.human_pose import Reconstruction, reconstruct_pose
from jaxcv.systems.inverse_graphics import Rendering, render_latents
from jaxcv.systems.models import Model, load_model, save_model
from jaxcv.systems.pose_model import (
    fit_pose_model,
    load_pose_model,
    load_pose_parameters,
    load_pose_readout,
    save_pose_parameters,
)
from jaxcv.systems.relative_refinement import RefinedPose, refine_relative_pose
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    estimate_depth_and_motion,
)
from jaxcv.systems.tracker_fusion import FusedBox, fuse_boxes, fuse_frame
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
    "estimate_depth_and_motion",
    "fit_pose_model",
    "fuse_boxes",
    "fuse_frame",
    "load_model",
    "load_pose_model",
    "load_pose_parameters",
    "load_pose_readout",
    "predict_hand",
    "preprocess",
    "reconstruct_pose",
    "refine_hand",
    "refine_relative_pose",
    "relative_pose",
    "render_latents",
    "save_model",
    "save_pose_parameters",
]
