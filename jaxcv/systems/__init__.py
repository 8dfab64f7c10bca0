"""One pure entry point per task, put together from the rooms of the library."""

from jaxcv.systems.tracker_fusion import FusedBox, fuse_boxes, fuse_frame

__all__ = ["FusedBox", "fuse_boxes", "fuse_frame"]
