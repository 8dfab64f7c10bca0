"""The monocular stereo on a few small pairs: stages, rows, files, a folder of one's own."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import monocular_stereo, runner
from experiments.monocular_stereo import config as settings
from experiments.monocular_stereo import training
from experiments.runner import saved
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.models.ls_net import Size
from jaxcv.systems import estimate_depth_and_motion

TINY = Size((4, 4, 4, 4, 4), (3, 3, 3), 4, (4, 4), 4, 4, 4, 4)
CONFIG = settings.Config(
    steps=2, num_train=8, num_test=4, height=32, width=48, iterations=2, few=1, batch_size=1,
    stages=(1.0, 1.0, 0.5, 0.5, 0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monocular_stereo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.SIZES, "small", TINY)
        yield folder, monocular_stereo.train(CONFIG, folder)


@pytest.mark.slow
def test_rows_files_and_figures(trained):
    folder, _ = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    rows = ("constant", "oracle", "init", "sift", "flow", "klt", "lm", "lm_prior", "lsnet_1")
    for row in rows:
        for name in ("l1_inv", "sc_inv", "l1_rel", "rotation_deg", "translation_deg"):
            assert np.isfinite(metrics[f"{row}/{name}"][0]), (row, name)
    assert metrics["oracle/rotation_deg"][0] < 0.01
    assert metrics["constant/translation_deg"] == [90]
    for name in ("depths", "residuals", "upscaled", "iterations", "time", "table"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_stage_learns_only_its_part(trained):
    folder, _ = trained
    runs = saved.read_runs(folder, "monocular_stereo")
    stages = [stage for stage in settings.STAGES if CONFIG.joint or stage != "joint"]
    names = [settings.run_name("lsnet", stage, 0) for stage in stages]
    assert list(runs) == names
    for before, after, stage in zip(names, names[1:], stages[1:], strict=False):
        for part in ("initial", "solver", "upscaler"):
            pair = (jax.tree.leaves(runs[name].params[part]) for name in (before, after))
            same = all(np.array_equal(a, b) for a, b in zip(*pair, strict=True))
            new = part in training.LEARNED[stage] or (stage, part) == ("few", "solver")
            assert same != new, (stage, part)


@pytest.mark.slow
def test_pairs_of_ones_own(trained, tmp_path):
    """Predicted without a truth, by a network in a file, as the entry point does."""
    folder, _ = trained
    pairs = generate_pairs(jax.random.key(9), 2, (32, 48))
    entries = []
    for i in range(2):
        for name, image in (("a", pairs.target[i]), ("b", pairs.source[i])):
            Image.fromarray((255 * image).astype(np.uint8)).save(tmp_path / f"{name}{i}.png")
        entries.append({"target": f"a{i}.png", "source": f"b{i}.png"})
    k = pairs.intrinsics[0].astype(float).tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"intrinsics": k, "pairs": entries}))
    config = dataclasses.replace(CONFIG, data="folder", data_dir=str(tmp_path))
    out = runner.predict(monocular_stereo.EXPERIMENT, config, tmp_path / "out", folder)
    params, settings, _ = monocular_stereo.load(folder)
    image = lambda name: np.asarray(Image.open(tmp_path / name), np.float32) / 255
    found = estimate_depth_and_motion(
        image("a1.png"), image("b1.png"), np.float32(k), params, **settings
    )
    with np.load(out / "depths.npz") as depths:
        np.testing.assert_allclose(depths["depth"][1], 1 / found.full, rtol=1e-3)
        np.testing.assert_allclose(depths["motion"][1], found.motion[0], atol=1e-4)


def test_stages_follow_each_other_and_rows_share_the_first_guess():
    config = dataclasses.replace(CONFIG, ablations=True, num_seeds=2)
    pairs = generate_pairs(jax.random.key(0), 2, (32, 48))
    data = training.Data(lambda: pairs, pairs)
    runs = training.runs(config, data)
    rows = settings.rows(config)
    assert {"shown_algorithm_1", "shown_gradient", "through_encoding", "refinement"} < set(rows)
    assert len(runs) == 2 * (1 + 3 + 2) + len(rows) - 2
    before = {"initial": None, "few": "lsnet.initial"}
    for name, one in runs.items():
        row, stage, seed = name.split(".")
        want = before.get(stage, f"{row}.{'all' if stage == 'upscale' else 'few'}")
        assert one.init_from == (want and f"{want}.{seed}")
        batch, again = one.batches(3), one.batches(3)
        jax.tree.map(np.testing.assert_array_equal, tuple(batch), tuple(again))
    together = training.runs(dataclasses.replace(config, joint=True), data)
    assert together["lsnet.upscale.seed=1"].init_from == "lsnet.joint.seed=1"
    first = runs["lsnet.initial.seed=0"].batches(0), runs["lsnet.initial.seed=1"].batches(0)
    assert not np.array_equal(first[0].target, first[1].target)


@pytest.mark.slow
def test_mirrored_pairs_are_pairs():
    pairs = generate_pairs(jax.random.key(9), 3, (32, 48))
    which = np.array([True, False, True])
    turned = training.mirrored(pairs, which)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[1], b[1]), tuple(turned), tuple(pairs)
    )
    residual = lambda p: np.asarray(_mean_residual(p))
    np.testing.assert_allclose(residual(turned), residual(pairs), atol=1e-5)
    back = training.mirrored(turned, which)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), tuple(back), tuple(pairs)
    )


@jax.jit
def _mean_residual(pairs):
    from jaxcv.energies.photometric import photometric_terms

    def one(target, source, k, motion, depth):
        terms = photometric_terms(1 / depth, motion, target, source, k)
        return abs(terms.residual).sum() / terms.visible.sum()

    return jax.vmap(one)(*pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 30}, r"`height`: expected multiples of eight, got \(30, 48\)"),
        ({"stages": (1.0,)}, r"`stages`: expected 5 numbers, for initial, few"),
        ({"data": "folder"}, r"`data_dir`: --data=folder needs a folder"),
    ],
)
def test_wrong_settings(tmp_path, change, message):
    with pytest.raises(runner.DataError, match=message):
        monocular_stereo.train(dataclasses.replace(CONFIG, **change), tmp_path / "w")
