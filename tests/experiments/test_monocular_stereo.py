"""The monocular stereo on a few small pairs: stages, rows, files, a folder of one's own."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import monocular_stereo, runner
from experiments.monocular_stereo import config as settings
from experiments.monocular_stereo import (
    dense_stereo,
    evaluation,
    figures,
    marquardt,
    scores,
    training,
)
from experiments.runner import saved
from jaxcv.data.synthetic.stereo import generate_pairs
from jaxcv.geometry import so3
from jaxcv.models.ls_net import Size
from jaxcv.systems import estimate_depth_and_motion
from jaxcv.systems.stereo import init_stereo_network

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
        patch.setattr(training, "TUNING_PAIRS", 4)
        patch.setattr(marquardt, "DAMPINGS", (1e-2, 1.0, 1e1))
        patch.setattr(marquardt, "PRIORS", (1e1, 1e3, 1e5))
        yield folder, monocular_stereo.train(CONFIG, folder)


@pytest.mark.slow
def test_rows_files_and_figures(trained):
    folder, _ = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    rows = ("constant", "oracle", "init", "sift", "flow", "klt", "lm", "lm_prior", "lsnet_1",
            "lsnet_bilinear", "lsnet_bicubic", "lsnet_upscaled", "lsnet_epsilon_0.01",
            "proposals_1", "sgm_true", "sgm_sift", "sweep_flow")  # fmt: skip
    for row in rows:
        for name in ("l1_inv", "sc_inv", "l1_rel", "rotation_deg", "translation_deg"):
            assert np.isfinite(metrics[f"{row}/{name}"][0]), (row, name)
    assert metrics["oracle/rotation_deg"][0] < 0.01
    assert metrics["constant/translation_deg"] == [90]
    for row in ("lsnet_1", "lm", "lm_prior", "proposals_1"):
        assert 0 < metrics[f"{row}/energy"][0] < 1
        assert 0 <= metrics[f"{row}/energy_falls"][0] <= 1
    assert metrics["lsnet_epsilon_0.01/iterations"][0] <= CONFIG.iterations
    assert metrics["lsnet/parameters"] > metrics["lsnet/solver_parameters"] > 0
    for name in ("depths", "residuals", "upscaled", "iterations", "time", "table", "blocks"):
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


@functools.cache
def pair(shape=(32, 48), count=2, key=9):
    return generate_pairs(jax.random.key(key), count, shape)


def test_the_published_preset_is_the_published_configuration():
    """11,438,470 parameters in the paper; the sizes of the layers are ours."""
    config = settings.PRESETS["paper"]
    network = settings.network_of(config)
    count = lambda network: sum(
        leaf.size
        for leaf in jax.tree.leaves(
            jax.eval_shape(lambda: init_stereo_network(jax.random.key(0), network))
        )
    )
    assert count(network) == 11_464_319
    assert count(network._replace(encoding="gradient", rays=True)) == 11_478_655
    assert abs(count(network) / 11_438_470 - 1) < 0.003
    assert (network.update, network.residual, network.encoding) == ("additive", "grey", "paper")
    assert not (network.rays)
    assert not (network.unit)
    assert not (network.match_exposure)
    assert (network.num_steps, config.reduction, config.log_weight) == (15, "sum", 0)
    row = settings.rows(config)["lsnet"]
    assert row.stages == ("few", "upscale")
    assert settings.in_stage(config, network, "few").num_steps == 15


@pytest.mark.slow
def test_the_loss_is_a_sum_or_a_mean_over_iterations():
    config = dataclasses.replace(CONFIG, reduction="sum", iterations=3)
    network = settings.network_of(config)._replace(size=TINY, encoding="algorithm_1")
    params = init_stereo_network(jax.random.key(0), network)
    batch = jax.tree.map(np.asarray, pair())

    def loss(config):
        run = lambda: training._loss(
            params, batch, None, None, config=config, network=network, stage="all"
        )[0]
        return float(jax.jit(run)())

    mean = loss(dataclasses.replace(config, reduction="mean"))
    assert loss(config) == pytest.approx(3 * mean, rel=1e-5)


def test_other_rows_have_equal_steps():
    names = ("jacobian", "recurrent_refinement", "no_priors", "additive", "at_once")
    config = dataclasses.replace(CONFIG, rows=names, stages=(1.0, 0.5, 1.5, 0.0, 0.5), steps=4)
    rows, data = settings.rows(config), training.Data(pair, pair())
    assert rows["lsnet"].stages == ("few", "all", "upscale")
    assert rows["jacobian"].network.encoding == "gradient_motion"
    assert rows["no_priors"].log_weight == 0
    assert not (rows["no_priors"].network.unit)
    assert not (rows["no_priors"].network.match_exposure)
    runs = training.runs(config, data)
    assert runs["at_once.together.seed=0"].init_from is None
    assert runs["at_once.together.seed=0"].steps == 4 + 2 + 6
    for name in ("lsnet", "jacobian", "recurrent_refinement", "no_priors", "additive"):
        assert [runs[f"{name}.{stage}.seed=0"].steps for stage in ("few", "all")] == [2, 6]


@pytest.mark.slow
def test_the_first_steps_of_the_published_preset():
    """At full size with one pair a step: 20 steps of the guess, one of the solver."""
    config = dataclasses.replace(
        settings.PRESETS["paper"], num_train=4, batch_size=1, steps=20,
        stages=(1.0, 0.05, 0.0, 0.0, 0.05),
    )  # fmt: skip
    pairs = pair((192, 256), 4)
    runs = training.runs(config, training.Data(lambda: pairs, pairs))
    before = None
    for name in ("lsnet.initial.seed=0", "lsnet.few.seed=0"):
        run, losses = runs[name], []
        init = lambda: run.init(jax.random.key(0), {}, before)  # noqa: B023
        params, optimizer = jax.jit(init)(), run.optimizer()
        state = optimizer.init(params)

        @jax.jit
        def step(params, state, batch, run=run, optimizer=optimizer):
            own = jax.value_and_grad(run.loss, has_aux=True)
            (loss, _), gradient = own(params, batch, jax.random.key(0), {})
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state, loss

        for i in range(run.steps):
            params, state, loss = step(params, state, run.batches(i))
            losses.append(float(loss))
        assert len(losses) == (20 if before is None else 1)
        assert np.isfinite(losses).all()
        before = params


def test_rectified_views_share_rows_and_disparities_are_inverse_depths():
    rng = np.random.default_rng(0)
    k = np.array([[100.0, 0, 60], [0, 110, 40], [0, 0, 1]])
    for direction in ([1, 0.1, 0.2], [-0.3, 1, 0.1], [-1, -1, 0.5]):
        motion = np.eye(4)
        angle = 0.1 * rng.standard_normal(3)
        motion[:3, :3] = np.asarray(so3.exp(np.float32(angle)), float)
        centre = np.array(direction) / np.linalg.norm(direction)
        motion[:3, 3] = -motion[:3, :3] @ centre
        views = dense_stereo.rectify(k, motion, (80, 120))
        assert views is not None
        points = rng.uniform([-1, -1, 4], [1, 1, 9], (20, 3))
        images = [points, points @ motion[:3, :3].T + motion[:3, 3]]
        seen = [h @ k @ x.T for h, x in zip(views.homographies, images, strict=True)]
        first, second = (x[:2] / x[2] for x in seen)
        np.testing.assert_allclose(first[1], second[1], atol=1e-4)
        depth = (points @ views.turn.T)[:, 2]
        np.testing.assert_allclose(first[0] - second[0], views.intrinsics[0, 0] / depth, rtol=1e-4)
    motion[:3, 3] = -motion[:3, :3] @ np.array([0.0, 0, 1])
    assert dense_stereo.rectify(k, motion, (80, 120)) is None  # forward


@pytest.mark.slow
def test_dense_stereo_finds_the_depth_of_a_pair_with_the_true_motion():
    pairs = pair((96, 128), 1, key=1)
    inverse = 1 / pairs.depth
    limits = np.quantile(inverse, [0.001, 0.999])
    constant = np.mean(np.abs(inverse - np.median(inverse)))
    for depth in (
        dense_stereo.sweep(pairs, pairs.motion, limits, 3),
        dense_stereo.semi_global(pairs, pairs.motion, limits, 3, 1.0),
    ):
        assert np.median(np.abs(1 / depth - inverse)) < 0.2 * constant


def test_scores_at_edges_and_in_larger_images():
    depth = np.full((1, 16, 24), 2.0)
    depth[:, :, 12:] = 4.0
    edges = scores.depth_edges(depth)
    assert edges[0, :, 9:15].all()
    assert not edges[0, :, :9].any()
    assert not edges[0, :, 15:].any()
    truth = scores.Truth(depth, edges, np.eye(4)[None])
    wrong = np.where(edges, 2 * depth, depth)
    own = scores.errors(scores.Found(wrong, np.eye(4)[None]), truth._replace(motion=MOTION))
    assert own["l1_rel_edges"] == 1
    assert own["l1_rel_elsewhere"] == 0
    np.testing.assert_allclose(own["off"], edges.mean())
    large = np.repeat(np.repeat(depth, 2, 1), 2, 2)
    small = scores.errors(
        scores.Found(large, np.eye(4)[None]), truth._replace(motion=MOTION), scale=2
    )
    assert small["l1_rel"] == 0


MOTION = np.eye(4)[None] + np.pad(np.ones((1, 3, 1)), ((0, 0), (0, 1), (3, 0)))


def test_interpolated_depths_of_a_plane_are_exact_inside():
    """Inverse depth is linear over the image of a plane; block centres are at 1.5, 5.5, ..."""
    v, u = np.mgrid[:32, :48]
    plane = 0.1 + 0.001 * u + 0.002 * v
    small = plane.reshape(8, 4, 12, 4).mean((1, 3))[None]
    for method in ("linear", "cubic"):
        found = 1 / evaluation.enlarged(small, method)
        np.testing.assert_allclose(found[0, 8:-8, 8:-8], plane[8:-8, 8:-8], rtol=1e-5)


@pytest.mark.slow
def test_the_energy_is_lowest_near_the_truth_and_counts_visible_pixels_alone():
    pairs = pair((64, 96), 2)
    truth = scores.true_energies(pairs)
    z = np.asarray(1 / training.quarter_depth(pairs.depth), np.float32)
    turned = np.asarray(pairs.motion, np.float32) @ np.diag([-1.0, -1, 1, 1]).astype(np.float32)
    motions = np.stack([np.asarray(pairs.motion, np.float32), turned])
    energy, visible = scores.energies(pairs, np.stack([z, z]), motions)
    np.testing.assert_allclose(energy[0], truth, rtol=1e-5)
    assert np.all(energy[0] < 0.5 * energy[1])
    assert np.all((visible > 0) & (visible <= 1))


def test_blocks_of_the_jacobian():
    """The paper's Fig. 2: a diagonal and six columns; J^T J is an arrow."""
    jacobian = figures.blocks_of(pair())
    assert jacobian.shape == (48, 54)
    square = jacobian.T @ jacobian
    off = square[:48, :48] - np.diag(np.diag(square)[:48])
    assert not off.any()
    assert square[:48, 48:].any()
    assert square[48:, 48:].all()
