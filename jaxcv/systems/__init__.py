"""One pure entry point per task, put together from the rooms of the library."""

from jaxcv.systems.graphics_files import load_graphics_network, save_graphics_network
from jaxcv.systems.hand_files import load_hand_network, save_hand_network
from jaxcv.systems.hand_pose import HandCrop, HandEstimate, predict_hand, preprocess
from jaxcv.systems.hand_refinement import RefinedHand, refine_hand
from jaxcv.systems.human_pose import Reconstruction, reconstruct_pose
from jaxcv.systems.inverse_graphics import Rendering, render_latents
from jaxcv.systems.pose_model import (
    fit_pose_model,
    load_pose_model,
    load_pose_parameters,
    load_pose_readout,
    save_pose_parameters,
)
from jaxcv.systems.relative_pose_files import (
    load_relative_pose_network,
    save_relative_pose_network,
)
from jaxcv.systems.relative_refinement import RefinedPose, refine_relative_pose
from jaxcv.systems.stereo import (
    StereoEstimate,
    StereoNetwork,
    estimate_depth_and_motion,
)
from jaxcv.systems.stereo_files import load_stereo_network, save_stereo_network
from jaxcv.systems.tracker_fusion import FusedBox, fuse_boxes, fuse_frame
from jaxcv.systems.two_view import RelativePose, relative_pose

__all__ = [
    "FusedBox",
    "HandCrop",
    "HandEstimate",
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
    "load_graphics_network",
    "load_hand_network",
    "load_pose_model",
    "load_pose_parameters",
    "load_pose_readout",
    "load_relative_pose_network",
    "load_stereo_network",
    "predict_hand",
    "preprocess",
    "reconstruct_pose",
    "refine_hand",
    "refine_relative_pose",
    "relative_pose",
    "render_latents",
    "save_graphics_network",
    "save_hand_network",
    "save_pose_parameters",
    "save_relative_pose_network",
    "save_stereo_network",
]
