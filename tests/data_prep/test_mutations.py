"""Damaged inputs of every reader: an answer or one line that names the file, never more.

A mutation changes bytes, numbers, JSON or what lies under a name, of one file. What is still read
must hold finite numbers wherever the format has no way to say "unknown".
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from PIL import Image

from data_prep.basel_faces import builder as faces
from data_prep.demon import list_pairs, read_view
from data_prep.human36m import find_layout, read_sequence
from data_prep.nyu_hand import parser as nyu
from data_prep.posed_images import dtu, landmarks
from data_prep.posed_images.views import labels, read_image
from data_prep.trunk_weights import convert_alexnet
from data_prep.vot_results import find_layout as find_vot
from data_prep.vot_results import prepare as prepare_vot
from data_prep.vot_results import read_sequence as read_vot
from experiments import runner
from experiments.robust_mean.prediction import read_samples
from experiments.runner import run, saved
from jaxcv.data.hand import joints_of_pixels, read_predictions, write_predictions
from jaxcv.data.pipelines import load_tracker_sequences
from jaxcv.data.stereo import read_folder
from jaxcv.io.colmap import read_colmap
from jaxcv.io.gltf_hand import read_skinned_hand
from jaxcv.io.networks import Model
from jaxcv.io.pictures import read_rgb
from jaxcv.io.posed_folder import read_posed_folder
from jaxcv.systems.models import load_model, save_model
from jaxcv.systems.tracker_fusion import initial_parameters
from tests.data.test_skinned_hand import write_glb
from tests.data.test_stereo import write_folder as write_stereo
from tests.data_prep import test_posed_images as posed
from tests.data_prep.test_basel_faces import write_faces
from tests.data_prep.test_demon import write_file as write_demon
from tests.data_prep.test_human36m import write_copy
from tests.data_prep.test_trunk_weights import write_pickle
from tests.experiments import toy_experiment as toy
from tests.io.test_colmap import rows_of, write_binary

SECONDS = 20  # after which a reader counts as hung


def with_images(read):
    """Reads views, their labels and their images."""

    def whole(root):
        views, pairs = read(root)
        pairs = np.zeros((0, 2), int) if pairs is None else pairs
        for path, k in zip(views.files, views.intrinsics, strict=True):
            read_image(path, k, (6, 8))
        made = labels(views, pairs)
        return views.intrinsics, views.rotation, views.translation, made.rotation, made.direction

    return whole


def write_vot(root):
    sequence = root / "sequences" / "ball"
    sequence.mkdir(parents=True)
    (root / "sequences" / "list.txt").write_text("ball\n")
    (sequence / "groundtruth.txt").write_text("1,2,30,40\n2,2,30,40\n3,1,3,1,9,9,2,8\n0\n")
    for tracker in ("KCF", "Staple"):
        out = root / "results" / tracker / "unsupervised" / "ball"
        out.mkdir(parents=True)
        (out / "ball_001.txt").write_text("1\n2,3,30.5,40\n0\n4,4,20,30\n")


def write_prepared(root):
    write_vot(root / "in")
    builder = prepare_vot(root / "in", root / "out")
    shutil.move(builder.data_dir, root / "set")
    for name in ("in", "out"):
        shutil.rmtree(root / name)


def read_nyu(root):
    found = nyu.read_labels(root / "joint_data.mat")
    depth, color = nyu.frame_files(root, 1, 1)
    return found.joints, nyu.read_depth(depth), nyu.read_color(color)


def write_nyu(root):
    rng = np.random.default_rng(0)
    pixels = np.array([300.0, 200.0, 750.0]) + rng.uniform(-60, 60, (3, 2, 36, 3))
    joints = {"joint_uvd": pixels, "joint_xyz": joints_of_pixels(pixels)}
    scipy.io.savemat(root / "joint_data.mat", joints)
    depth = nyu.encode_depth(rng.integers(500, 2500, (12, 16)))
    Image.fromarray(depth).save(root / "depth_1_0000001.png")
    Image.fromarray(depth[..., ::-1].copy()).save(root / "rgb_1_0000001.png")


def read_demon(root):
    path = root / "rgbd_test.h5"
    views = [read_view(path, pair.group, view) for pair in list_pairs(path) for view in pair[1:]]
    return [(view.intrinsics, view.rotation, view.translation) for view in views]


def write_h36m(root):
    write_copy(root, subjects=("S1",), frames=4)


def read_h36m(root):
    layout = find_layout(root)
    return [read_sequence(layout, one) for one in layout.sequences]


def read_faces(root):
    folders = itertools.chain(*faces.found_batches(root))
    tables = [faces.read_factors(each / "factors.csv") for each in folders]
    return [np.array(list(table.values())) for table in tables]


def write_toy(root):
    runner.train(toy.EXPERIMENT, toy.Config(steps=4), root)
    for name in ("figures", "checkpoints"):
        shutil.rmtree(root / name)
    (root / "results.json").unlink()


def read_toy(root):
    """What an evaluation and `load` read of a training; a loss may be nan there."""
    config = run.saved_config(toy.EXPERIMENT, root, {})
    trained = saved.read_runs(root, toy.EXPERIMENT.name)
    model = saved.model_of(root, toy.EXPERIMENT, config, None)
    return [each.params for each in trained.values()], model.params


def write_pictures(root):
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    for kind in ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm"):
        Image.fromarray(pixels).save(root / f"a.{kind}")


def read_pictures(root):
    return [read_rgb(root / f"a.{kind}") for kind in ("png", "jpg", "webp", "tiff", "bmp", "gif")]


def write_hands(root):
    write_predictions(root / "a.txt", np.random.default_rng(0).uniform(1, 400, (3, 14, 3)))


def write_samples(root):
    (root / "a.txt").write_text("1.5\n-2\n3e2\n")


def write_colmap_binary(root):
    posed.write_colmap(root)
    write_binary(root, rows_of(root))
    for path in root.glob("*.txt"):
        path.unlink()


def write_model(root):
    save_model(
        root / "a.safetensors", Model(initial_parameters(3), {}, {"system": "tracker_fusion"})
    )


# name -> (writes a folder, reads it and returns what must be finite)
READERS = {
    "stereo folder": (
        write_stereo,
        lambda root: tuple(read_folder(root, (24, 32)))[:4],
    ),
    "posed folder": (posed.write_folder, with_images(read_posed_folder)),
    "colmap": (posed.write_colmap, with_images(read_colmap)),
    "COLMAP binary": (write_colmap_binary, with_images(read_colmap)),
    "landmarks": (lambda root: posed.write_landmark(root / "a"), with_images(landmarks.read)),
    "dtu": (lambda root: posed.write_dtu(root, *posed.cameras(3), posed.K), with_images(dtu.read)),
    "glTF hand": (
        lambda root: write_glb(root / "a.glb"),
        lambda root: read_skinned_hand(root / "a.glb"),
    ),
    "VOT": (write_vot, lambda root: read_vot(find_vot(root), "ball")),
    "prepared": (write_prepared, lambda root: tuple(load_tracker_sequences(root / "set"))[2:]),
    "NYU": (write_nyu, read_nyu),
    "DeMoN": (lambda root: write_demon(root / "rgbd_test.h5", groups=("a",)), read_demon),
    "Human3.6M": (write_h36m, read_h36m),
    "face model": (lambda root: write_faces(root, count=1, batch=2), read_faces),
    "pickled trunk": (
        lambda root: write_pickle(root / "a.ckpt"),
        lambda root: convert_alexnet(root / "a.ckpt", root / ".out", sha256=None),
    ),
    "joints": (write_hands, lambda root: read_predictions(root / "a.txt")),
    "samples": (write_samples, lambda root: read_samples(str(root))),
    "model": (write_model, lambda root: load_model(root / "a.safetensors").params),
    "pictures": (write_pictures, read_pictures),
    "work folder": (write_toy, read_toy),
}
TOKENS = (
    "nan", "-inf", "1e400", "-1", "0", "1e30", "", "a", "9" * 5000, "true", "null", "1_0", "\0",
    "٣",
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 10**400, 1e300, float("nan"), "", "a", "../x", "a\0b", "x" * 5000, [], {},
    [[]], {"a": 1},
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@contextlib.contextmanager
def no_hang():
    def stop(*_):
        raise TimeoutError("the reader hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            root = tmp_path_factory.mktemp("reader") / "in"
            root.mkdir()
            READERS[name][0](root)
            files = sorted(path for path in root.rglob("*") if path.is_file())
            made[name] = root, {path: path.read_bytes() for path in files}
        return made[name]

    return of


def changed_bytes(draw, content):
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(1, 16))
        kind = draw(st.sampled_from(("set", "cut", "drop", "insert", "zero", "double")))
        part = content[at : at + length]
        new = {
            "set": draw(st.binary(min_size=1, max_size=4)), "drop": b"", "zero": bytes(len(part)),
            "insert": part + draw(st.binary(max_size=8)), "double": part + part, "cut": b"",
        }[kind]  # fmt: skip
        content[at : None if kind == "cut" else at + (length if kind != "set" else len(new))] = new
    return bytes(content)


def changed_number(draw, content):
    found = [match.span() for match in NUMBER.finditer(content)]
    if not found:
        return changed_bytes(draw, content)
    start, end = draw(st.sampled_from(found))
    return content[:start] + draw(st.sampled_from(TOKENS)).encode() + content[end:]


def changed_json(draw, content):
    """One value of a JSON text replaced or left out, nested without end, or another top."""
    try:
        tree = json.loads(content)
    except ValueError:
        return changed_number(draw, content)
    if not isinstance(tree, (dict, list)):
        return changed_number(draw, content)
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from((b"[" * 5000 + b"]" * 5000, b"[]", b"3", b"null", b'{"a":1}')))
    places: list[tuple] = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(tree)
    if not places:
        return changed_bytes(draw, content)
    node, key = draw(st.sampled_from(places))
    if draw(st.booleans()):
        node[key] = draw(st.sampled_from(VALUES))
    else:
        del node[key]
    return json.dumps(tree).encode()


def another_thing(draw, path):
    """What may lie under a name instead of the file."""
    path.unlink()
    kind = draw(st.sampled_from(("nothing", "pipe", "folder", "loop", "nowhere", "empty")))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("loop", "nowhere"):
        path.symlink_to(path if kind == "loop" else path.with_name("nowhere"))
    elif kind == "empty":
        path.touch()


def restore(path, content):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(content)


def check(folders, name, draw):
    root, files = folders(name)
    path = draw(st.sampled_from(sorted(files)))
    how = draw(st.sampled_from((changed_bytes, changed_number, changed_json, another_thing)))
    if how is another_thing:
        another_thing(draw, path)
    else:
        path.write_bytes(how(draw, files[path]))
    try:
        with no_hang():
            found = READERS[name][1](root)
    except ValueError as error:
        message = str(error)
        assert "\n" not in message, message
        assert message.startswith("`"), message
        assert "expected" in message, message
        assert len(message) < 3000, message
        return
    finally:
        restore(path, files[path])
    for leaf in jax.tree.leaves(found):
        if np.issubdtype(np.asarray(leaf).dtype, np.floating):
            assert np.isfinite(leaf).all(), name


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_is_whole_is_read(folders, name):
    root, _ = folders(name)
    READERS[name][1](root)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_inputs_are_read_or_refused_in_one_line(folders, data):
    quick = sorted(set(READERS) - {"prepared", "Human3.6M", "DeMoN", "work folder", "NYU"})
    check(folders, data.draw(st.sampled_from(quick)), data.draw)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_two_thousand_damaged_inputs(folders, name):
    @settings(max_examples=120)
    @given(data=st.data())
    def each(data):
        check(folders, name, data.draw)

    each()
