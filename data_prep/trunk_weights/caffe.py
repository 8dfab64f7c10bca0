"""Converts the .caffemodel of a CaffeNet (e.g. Hybrid-CNN) without Caffe.

The file is a protocol buffer. The fields of names and weights are declared here, for both
generations of layers, and parsed by Google's library:

    NetParameter      layers = 2 (V1LayerParameter), layer = 100 (LayerParameter)
    V1LayerParameter  name = 4, blobs = 6          LayerParameter  name = 1, blobs = 7
    BlobProto         num, channels, height, width = 1 to 4, data = 5 (packed), shape = 7 (dim = 1)

Caffe's images are BGR, 0 to 255, less a mean. The first layer is converted to RGB images that are
standardised by `MEAN` and `DEVIATION`, as the networks here expect.
"""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from data_prep.trunk_weights.alexnet import check_trunk
from jaxcv.checks import argument_error
from jaxcv.io.files import check_file
from jaxcv.io.networks import write_tree
from jaxcv.models.relative_pose import DEVIATION, MEAN

__all__ = ["convert_caffemodel"]

_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
_CAFFE_MEAN = (123.68, 116.779, 103.939)  # RGB, ImageNet's mean in the model zoo
_HINT = "Give the .caffemodel of a CaffeNet or AlexNet with the layers conv1 to conv5."


@functools.cache
def _net_parameter() -> Any:
    """The message class NetParameter, with only the fields that are read."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="jaxcv_caffe.proto", package="jaxcv_caffe")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for label, number, kind, repeated in fields:
            own = made.field.add(name=label, number=number)
            own.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in ("string", "int32", "int64", "float"):
                own.type = getattr(field, f"TYPE_{kind.upper()}")
                own.options.packed = bool(repeated and kind != "string")
            else:
                own.type, own.type_name = field.TYPE_MESSAGE, f".jaxcv_caffe.{kind}"

    file.syntax = "proto2"
    message("BlobShape", ("dim", 1, "int64", True))
    sizes = [
        (n, k, "int32", False) for k, n in enumerate(("num", "channels", "height", "width"), 1)
    ]
    blob = ("data", 5, "float", True), ("shape", 7, "BlobShape", False)
    message("BlobProto", *sizes, *blob)
    message("V1Layer", ("name", 4, "string", False), ("blobs", 6, "BlobProto", True))
    message("Layer", ("name", 1, "string", False), ("blobs", 7, "BlobProto", True))
    message("NetParameter", ("layers", 2, "V1Layer", True), ("layer", 100, "Layer", True))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxcv_caffe.NetParameter"))


def _array(blob: Any) -> np.ndarray:
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    return np.asarray(blob.data, np.float32).reshape(shape)


def convert_caffemodel(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    mean: tuple[float, float, float] = _CAFFE_MEAN,
) -> dict[str, Any]:
    """Writes the backbone's weights for `jaxcv.models.relative_pose.with_trunk`, and returns them.

    Args:
        source: the .caffemodel.
        path: the safetensors file to write.
        mean: RGB mean, 0 to 255, that was subtracted from the model's training images.

    Raises:
        ValueError: an unreadable file, missing layers, or wrong shapes; nothing is written.
    """
    expected = "expected a .caffemodel"
    try:
        check_file(source)
        net = _net_parameter().FromString(pathlib.Path(source).read_bytes())
    except Exception as error:  # OSError, and protobuf's DecodeError, no ValueError
        raise argument_error(str(source), expected, str(error), _HINT) from error
    found = {layer.name: layer.blobs for layer in [*net.layers, *net.layer] if layer.blobs}
    missing = [name for name in _LAYERS if name not in found]
    if missing:
        expected = f"expected the layers {missing} with weights"
        raise argument_error(str(source), expected, sorted(found)[:12] or "none", _HINT)
    tree = {}
    try:
        for k, name in enumerate(_LAYERS):
            kernel, bias = (_array(blob) for blob in found[name][:2])
            tree[f"convolutions_{k}"] = {
                "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias.ravel()
            }  # fmt: skip
    except ValueError as error:
        raise argument_error(str(source), expected, str(error), _HINT) from error
    check_trunk(str(source), tree, "caffenet", _HINT)
    first = tree["convolutions_0"]
    kernel = first["kernel"][:, :, ::-1].astype(float)  # BGR to RGB
    # For a standardised x, Caffe's input is 255 (DEVIATION x + MEAN) - mean.
    shift = 255 * np.asarray(MEAN) - np.asarray(mean)
    first["bias"] = (first["bias"] + np.einsum("hwcf,c->f", kernel, shift)).astype(np.float32)
    scaled = kernel * (255 * np.asarray(DEVIATION))[:, None]
    first["kernel"] = scaled.astype(np.float32)
    write_tree(path, tree, {"trunk": "caffenet"})
    return tree
