"""The tracker fusion on small data: honesty of the splits, other folders, bad input."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from experiments import runner, tracker_fusion
from experiments.tracker_fusion import baselines, evaluation, minima, network, training
from experiments.tracker_fusion import config as settings
from experiments.tracker_fusion import data as sequences_of

CONFIG = settings.Config(
    num_sequences=10, num_frames=14, num_trackers=5, steps=12, batch_size=16, strength=(1e-3, 1e-1)
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracker_fusion")
    return folder, tracker_fusion.train(CONFIG, folder)


def plain_iou(a, b):
    """Of boxes (left, top, right, bottom)."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0), axis=-1)
    area = lambda box: np.prod(box[..., 2:] - box[..., :2], axis=-1)
    return common / (area(a) + area(b) - common)


def write_vot(root, data, *, rename=None, drop=()):
    """Writes sequences in VOT layout; `rename` gives them other names."""
    sequences = data.sequences
    names = [rename(name) if rename else name for name in sequences.names]
    (root / "sequences").mkdir(parents=True)
    (root / "sequences" / "list.txt").write_text("\n".join(names) + "\n")
    line = lambda b: f"{b[0]},{b[1]},{b[2] - b[0]},{b[3] - b[1]}"
    for s, name in enumerate(names):
        (root / "sequences" / name).mkdir()
        truth = [line(b) for b in sequences.ground_truth[s, : sequences.lengths[s]]]
        (root / "sequences" / name / "groundtruth.txt").write_text("\n".join(truth) + "\n")
        for k, tracker in enumerate(sequences.trackers):
            if tracker in drop:
                continue
            lines = ["1"] + [
                line(sequences.boxes[s, t, k]) if sequences.reported[s, t, k] else "0"
                for t in range(1, sequences.lengths[s])
            ]
            path = root / "results" / tracker / "unsupervised" / name
            path.mkdir(parents=True)
            (path / f"{name}_001.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_the_results_have_every_row(trained):
    folder, results = trained
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    data = sequences_of.load(CONFIG)
    rows = [*data.sequences.trackers, "mean", "median", "oracle", "rbf", "undamped", "learned"]
    assert all(f"{name}/{metric}" in metrics for name in rows for metric in ("iou", "iou_frames"))
    frames = data.frames
    shown = np.where(frames.reported[..., None], frames.boxes, np.nan).astype(float)
    each = np.nan_to_num(plain_iou(shown, frames.ground_truth[:, None].astype(float)))
    known = dict(zip(data.sequences.trackers, each.T, strict=True)) | {
        "oracle": each.max(axis=1),
        "mean": plain_iou(np.nanmean(shown, axis=1), frames.ground_truth),
        "median": plain_iou(np.nanmedian(shown, axis=1), frames.ground_truth),
    }
    for name, ious in known.items():
        np.testing.assert_allclose(metrics[f"{name}/iou"], ious.mean(), atol=1e-6, err_msg=name)
    assert max(metrics[f"{name}/iou"] for name in rows) == metrics["oracle/iou"]
    assert metrics["learned_minus_rbf/low"] <= metrics["learned_minus_rbf/iou"]
    assert metrics["learned_minus_rbf/iou"] <= metrics["learned_minus_rbf/high"]
    assert results["source"]["learned/iou"] == 0.496
    for name in ("energy_maps", "success", "iou", "parameters", "training"):
        assert (folder / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_no_model_is_trained_or_chosen_on_the_sequences_that_it_is_tested_on():
    data = sequences_of.load(CONFIG)
    folds = sequences_of.metadata(CONFIG, data)["folds"]
    fold = sequences_of.fold_of_frames(folds, data)
    masks = sequences_of.split_masks(CONFIG, data)
    for f in range(5):
        assert not np.any(masks[f] & ((fold == f) | (fold == (f + 1) % 5)))
        assert not np.any(masks[5 + f] & (fold == f))
        assert np.any(masks[5 + f] & (fold == (f + 1) % 5))
    assert masks[10].all()
    test = sequences_of.frame_thirds(CONFIG, data)
    assert np.array_equal(masks[11], ~test)
    runs = training.runs(CONFIG, data)
    table, count = runs["learned.final"].data["table"], runs["learned.final"].data["count"]
    for number, mask in enumerate(masks):
        assert np.array_equal(np.sort(table[number, : count[number]]), np.flatnonzero(mask))


def test_the_choice_for_a_fold_never_saw_it():
    """Validation scores that only fold f could have raised do not change the choice for f."""
    config = dataclasses.replace(CONFIG, strength=(1.0, 2.0))
    shape = (2, settings.NUM_FOLDS)

    def models(own, following):
        history = {"own_iou": own.reshape(1, -1), "next_iou": following.reshape(1, -1)}
        rows = 2 * 7
        params = {
            "fusion": training.equal_width(3, np.ones(rows)),
            "rbf_width": np.ones(rows),
        }
        trials = {"split": np.tile(np.arange(5, 12), 2)}
        final = runner.TrainedRun(params, {}, trials, {})
        choose = runner.TrainedRun(params, history, trials, {})
        trained = {"learned.choose": choose, "learned.final": final}
        return evaluation.chosen_models(config, trained, "learned").strength

    base = np.full(shape, 0.5)
    for f in range(5):
        own, following = base.copy(), base.copy()
        own[1, f] = 0.9  # the model without f, f + 1 scored on f
        following[1, (f - 1) % 5] = 0.9  # the model without f - 1, f scored on f
        assert models(own, following)[f] == 1.0
        own, following = base.copy(), base.copy()
        own[1, (f - 1) % 5] = following[1, f] = 0.9
        assert models(own, following)[f] == 2.0


@pytest.mark.slow
def test_another_folder_is_scored_by_the_model_of_all_sequences(trained, tmp_path):
    folder, results = trained
    data = sequences_of.load(CONFIG)
    same = write_vot(tmp_path / "same", data)
    other = write_vot(tmp_path / "other", data, rename=lambda name: f"new_{name}")
    scored = {}
    for name, root in (("same", same), ("other", other)):
        config = dataclasses.replace(
            CONFIG, data="vot", data_dir=str(root), cache_dir=str(tmp_path / "cache")
        )
        scored[name] = runner.evaluate(
            tracker_fusion.EXPERIMENT, config, tmp_path / f"out_{name}", folder
        )["metrics"]
        assert (tmp_path / f"out_{name}" / "results.json").exists()
    for key in ("mean/iou", "median/iou", "oracle/iou", "accurate_1/iou"):
        assert scored["same"][key] == pytest.approx(results["metrics"][key], abs=1e-4)
        assert scored["other"][key] == pytest.approx(results["metrics"][key], abs=1e-4)
    # Known names are scored by the fold that has not seen them, as in the training.
    assert scored["same"]["learned/iou"] == pytest.approx(
        results["metrics"]["learned/iou"], abs=1e-4
    )
    assert "learned/iou_frames" not in scored["other"]


@pytest.mark.slow
def test_predictions_are_results_in_the_same_layout(trained, tmp_path):
    from data_prep.vot_results import read_regions

    folder, results = trained
    runner.predict(tracker_fusion.EXPERIMENT, None, tmp_path, folder)
    data = sequences_of.load(CONFIG)
    ious = []
    from jaxcv.metrics.tracking import box_iou

    for s, name in enumerate(data.sequences.names):
        path = tmp_path / "results" / "jaxcv" / "unsupervised" / name / f"{name}_001.txt"
        regions = read_regions(path)
        assert len(regions.corners) == data.sequences.lengths[s]
        index = data.frames.frame[data.frames.sequence == s]
        ious.append(box_iou(regions.corners[index], data.sequences.ground_truth[s, index]))
    found = float(np.concatenate(ious).mean())
    assert found == pytest.approx(results["metrics"]["learned/iou"], abs=1e-3)


@pytest.mark.slow
def test_a_folder_of_other_trackers_is_refused(trained, tmp_path):
    folder, _ = trained
    root = write_vot(tmp_path / "vot", sequences_of.load(CONFIG), drop=("accurate_1",))
    config = dataclasses.replace(
        CONFIG, data="vot", data_dir=str(root), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(runner.DataError, match=r"`trackers`: the model in .* was trained with"):
        runner.evaluate(tracker_fusion.EXPERIMENT, config, tmp_path / "out", folder)
    assert not (tmp_path / "out" / "results.json").exists()


def test_bad_data_stop_before_anything_is_written(tmp_path):
    data = sequences_of.load(CONFIG)
    root = write_vot(tmp_path / "vot", data)
    victim = root / "results" / "accurate_1" / "unsupervised" / data.sequences.names[0]
    path = next(victim.glob("*.txt"))
    lines = path.read_text().split("\n")
    lines[4] = "1,2,nan,4"
    path.write_text("\n".join(lines))
    config = dataclasses.replace(
        CONFIG, data="vot", data_dir=str(root), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(runner.DataError, match=r"_001.txt:5`?: expected finite numbers"):
        tracker_fusion.train(config, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    with pytest.raises(runner.DataError, match="needs a folder"):
        sequences_of.load(dataclasses.replace(config, data_dir=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(runner.DataError, match="empty"):
        sequences_of.load(dataclasses.replace(config, data_dir=str(tmp_path / "empty")))


@pytest.mark.slow
@pytest.mark.real_data
def test_learned_weights_beat_equal_ones_on_real_sequences(tmp_path):
    root = os.environ.get("JAXCV_REAL_DATA")
    if not root:
        pytest.skip("JAXCV_REAL_DATA is not set")
    config = settings.Config(
        data="vot",
        data_dir=str(pathlib.Path(root) / "tracker_fusion"),
        cache_dir=str(tmp_path / "cache"),
    )
    metrics = tracker_fusion.train(config, tmp_path / "out")["metrics"]
    assert metrics["rbf/iou"] > metrics["median/iou"] > metrics["mean/iou"]
    assert metrics["learned_minus_rbf/low"] > -0.002


@pytest.mark.slow
def test_learned_weights_beat_equal_ones_on_generated_sequences(tmp_path):
    metrics = tracker_fusion.train(settings.Config(), tmp_path)["metrics"]
    assert metrics["rbf/iou"] > metrics["median/iou"] > metrics["mean/iou"]
    assert metrics["learned_minus_rbf/iou"] > 0.03


def test_the_paper_preset_is_the_published_configuration():
    config = settings.PRESETS["paper"]
    rows = settings.methods(config)
    for name, value in (("learned", 0.1), ("undamped", 0.0)):
        row = rows[name]
        assert (row.damping.value, row.damping.mode, row.damping.order) == (value, "plain", 1)
        assert not row.normalised
        assert row.loss == "pixels"
        assert row.solver.solver.max_steps == 10
        assert row.solver.damping == row.damping
    assert config.strength == (0.0,)
    data = sequences_of.load(CONFIG)
    own = dataclasses.replace(config, data="synthetic", num_sequences=10, num_frames=14)
    assert sorted(training.runs(own, data)) == ["learned.final", "undamped.final"]
    boxes = np.asarray([[0.0, 0, 10, 10]])
    loss = training.distances(config, "pixels", boxes, boxes + np.array([[1.0, -2, 3, 400]]))
    np.testing.assert_allclose(loss, [406.0])


def test_one_split_tests_a_share_of_the_frames_and_never_trains_on_it():
    config = dataclasses.replace(CONFIG, num_sequences=30, test_share=1 / 3)
    data = sequences_of.load(config)
    folds = sequences_of.folds_of(config)
    fold = sequences_of.fold_of_frames(sequences_of.metadata(config, data)["folds"], data)
    assert folds.tested == (0,)
    assert abs(np.mean(fold == 0) - 1 / 3) < 0.04
    masks = sequences_of.split_masks(config, data)
    for number in (0, 2, folds.final[0]):  # the models that score or choose for fold 0
        assert not np.any(masks[number] & (fold == 0))
    assert np.array_equal(masks[0], fold == 2)
    assert np.array_equal(evaluation.model_of_fold(config, [0, 1, 2, -1]), [0, -1, -1, 1])


def test_conditions_are_all_combinations():
    rows = settings.methods(settings.PRESETS["conditions"])
    found = {
        (r.forward, r.energy, r.loss, r.damping.value, r.learning_rate)
        for name, r in rows.items()
        if name not in settings.METHODS
    }
    assert len(found) == 32
    assert {r.damping.mode for name, r in rows.items() if name not in settings.METHODS} == {"plain"}


def test_a_draw_hides_all_trackers_but_the_subset():
    config = dataclasses.replace(CONFIG, subset=3)
    data = sequences_of.load(config)
    used = [
        tuple(np.flatnonzero(sequences_of.drawn(config, data, i).frames.reported.any(axis=0)))
        for i in range(4)
    ]
    assert {len(own) for own in used} == {3}
    assert len(set(used)) > 1
    with pytest.raises(runner.DataError, match="`subset`: expected at most 5"):
        sequences_of.drawn(dataclasses.replace(config, subset=6), data, 0)


def test_weighted_median():
    values = np.array([[[1.0], [5.0], [2.0], [np.nan]], [[3.0], [np.nan], [np.nan], [9.0]]])
    weights = np.array([1.0, 3.0, 1.0, 0.5])
    np.testing.assert_allclose(baselines.weighted_median(values, weights), [[5.0], [3.0]])
    equal = baselines.weighted_median(np.random.default_rng(0).normal(size=(9, 5, 4)), np.ones(5))
    np.testing.assert_allclose(
        equal, np.median(np.random.default_rng(0).normal(size=(9, 5, 4)), axis=1)
    )


def test_minima_of_far_and_near_centres():
    """Two groups of trackers give two minima; one group gives one, at its mean."""
    boxes = np.zeros((1, 4, 4), np.float32)
    boxes[0] = [[0, 0, 100, 100], [0, 0, 100, 100], [0, 0, 100, 100], [300, 0, 400, 100]]
    data = sequences_of.load(CONFIG)
    frames = sequences_of.taken(data, [0]).frames._replace(
        boxes=boxes, reported=np.ones((1, 4), bool), ground_truth=boxes[:, 0], initial=boxes[:, 0]
    )
    data = data._replace(frames=frames)
    models = training.equal_width(4, [0.3])
    ((left, right),) = minima.minima_of_frames(models, [0], data)
    np.testing.assert_allclose(left, [[0, 0], [300, 0]], atol=0.1)
    np.testing.assert_allclose(right, [[100, 100], [400, 100]], atol=0.1)
    points = np.array([[0.0, 0], [0, 0.05], [3, 0]])
    np.testing.assert_allclose(
        minima.distinct(points, np.array([1.0, 0.0, 2.0]), 0.1), [[0, 0.05], [3, 0]]
    )


def test_the_set_network_does_not_depend_on_the_order_of_the_trackers():
    import jax

    data = sequences_of.load(CONFIG)
    frame = jax.tree.map(lambda leaf: leaf[0], sequences_of.tracker_frames(data.frames))
    sets = network.SetNetwork()
    params = jax.jit(sets.init)(jax.random.key(0), frame)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    order = np.array([3, 1, 4, 0, 2])
    mixed = frame._replace(boxes=frame.boxes[order], reported=frame.reported[order])
    tracker = params["params"]["tracker"]
    permuted = {"params": params["params"] | {"tracker": tracker[order]}}
    apply = jax.jit(sets.apply)
    np.testing.assert_allclose(apply(permuted, mixed), apply(params, frame), rtol=1e-4)
    scaled = frame._replace(boxes=2 * frame.boxes + 7, first_box=2 * frame.first_box + 7)
    np.testing.assert_allclose(
        apply(params, scaled), 2 * np.asarray(apply(params, frame)) + 7, rtol=1e-3, atol=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["conditions", "competitors", "draws"])
def test_further_rows_of_the_presets(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "LEAVES", (3, 7))
    monkeypatch.setattr(baselines, "TREES", (3, 10))
    monkeypatch.setattr(network, "SETTINGS", ((1e-2, 1e-2), (1e-3, 1e-1)))
    kept = {k: settings.ABLATIONS["conditions"][k] for k in (
        "damped_lbfgs_raw_pixels_0.05", "undamped_lbfgs_raw_pixels_0.05",
    )}  # fmt: skip
    monkeypatch.setitem(settings.ABLATIONS, "conditions", kept)
    draws = {f"draw_{i}": settings.Method(draw=i) for i in range(2)}
    monkeypatch.setitem(settings.ABLATIONS, "draws", draws)
    config = dataclasses.replace(
        settings.PRESETS[preset], data="synthetic", num_sequences=10, num_frames=14, num_trackers=5,
        steps=8, batch_size=16, network_steps=8, subset=3,
        minima=40 if preset == "competitors" else 0,
    )  # fmt: skip
    metrics = tracker_fusion.train(config, tmp_path)["metrics"]
    figures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    if preset == "conditions":
        for name in kept:
            assert metrics[f"{name}/trainings"] == 7
            assert 0 <= metrics[f"{name}/failures"] <= 7
        assert "conditions" in figures
    elif preset == "competitors":
        for name in ("boosted_trees", "set_network", "best_in_training", "weighted_median"):
            assert 0.2 < metrics[f"{name}/iou"] <= metrics["oracle/iou"] + 0.1
            assert f"learned_minus_{name}/low" in metrics
            assert f"{name}/iou_frames" in metrics
        assert metrics["untrained/minima"] >= 1
        assert metrics["learned/poor_minima"] <= metrics["learned/minima"]
        assert "minima" in figures
    else:
        assert len(metrics["draws_minus_best_tracker/iou"]) == 2
        assert metrics["draw_0/iou"] <= metrics["oracle/iou"]


@pytest.mark.slow
def test_first_steps_of_the_paper_preset_at_full_size(tmp_path):
    """72 trackers and 60 sequences in VOT layout, batches of 1,024; the loss falls."""
    made = dataclasses.replace(CONFIG, num_sequences=60, num_frames=20, num_trackers=72)
    root = write_vot(tmp_path / "vot", sequences_of.load(made))
    config = dataclasses.replace(
        settings.PRESETS["paper"], data_dir=str(root), cache_dir=str(tmp_path / "cache"), steps=20
    )
    metrics = tracker_fusion.train(config, tmp_path / "out")["metrics"]
    assert np.isfinite(metrics["learned/iou"])
    assert metrics["learned/skipped"] == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    losses = [np.mean(json.loads(x)["loss"]) for x in lines if '"learned.final"' in x]
    assert losses[-1] < losses[0]
