"""The tracker fusion on small data: honesty of the splits, other folders, bad input."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest

from experiments import runner, tracker_fusion
from experiments.tracker_fusion import evaluation, training

CONFIG = training.Config(
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
    data = training.load(CONFIG)
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
    data = training.load(CONFIG)
    folds = training.metadata(CONFIG, data)["folds"]
    fold = training._fold_of_frames(folds, data)
    masks = training._splits(CONFIG, data)
    for f in range(5):
        assert not np.any(masks[f] & ((fold == f) | (fold == (f + 1) % 5)))
        assert not np.any(masks[5 + f] & (fold == f))
        assert np.any(masks[5 + f] & (fold == (f + 1) % 5))
    assert masks[training.ALL].all()
    test = training._frame_thirds(CONFIG, data)
    assert np.array_equal(masks[training.FRAMES], ~test)
    runs = training.runs(CONFIG, data)
    table, count = runs["learned.final"].data["table"], runs["learned.final"].data["count"]
    for number, mask in enumerate(masks):
        assert np.array_equal(np.sort(table[number, : count[number]]), np.flatnonzero(mask))


def test_the_choice_for_a_fold_never_saw_it():
    """Validation scores that only fold f could have raised do not change the choice for f."""
    config = dataclasses.replace(CONFIG, strength=(1.0, 2.0))
    shape = (2, training.NUM_FOLDS)

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
    data = training.load(CONFIG)
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
    data = training.load(CONFIG)
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
    root = write_vot(tmp_path / "vot", training.load(CONFIG), drop=("accurate_1",))
    config = dataclasses.replace(
        CONFIG, data="vot", data_dir=str(root), cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(runner.DataError, match=r"`trackers`: the model in .* was trained with"):
        runner.evaluate(tracker_fusion.EXPERIMENT, config, tmp_path / "out", folder)
    assert not (tmp_path / "out" / "results.json").exists()


def test_bad_data_stop_before_anything_is_written(tmp_path):
    data = training.load(CONFIG)
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
        training.load(dataclasses.replace(config, data_dir=None))
    (tmp_path / "empty").mkdir()
    with pytest.raises(runner.DataError, match="empty"):
        training.load(dataclasses.replace(config, data_dir=str(tmp_path / "empty")))


@pytest.mark.slow
@pytest.mark.real_data
def test_learned_weights_beat_equal_ones_on_real_sequences(tmp_path):
    root = os.environ.get("JAXCV_REAL_DATA")
    if not root:
        pytest.skip("JAXCV_REAL_DATA is not set")
    config = training.Config(
        data="vot",
        data_dir=str(pathlib.Path(root) / "tracker_fusion"),
        cache_dir=str(tmp_path / "cache"),
    )
    metrics = tracker_fusion.train(config, tmp_path / "out")["metrics"]
    assert metrics["rbf/iou"] > metrics["median/iou"] > metrics["mean/iou"]
    assert metrics["learned_minus_rbf/low"] > -0.002


@pytest.mark.slow
def test_learned_weights_beat_equal_ones_on_generated_sequences(tmp_path):
    metrics = tracker_fusion.train(training.Config(), tmp_path)["metrics"]
    assert metrics["rbf/iou"] > metrics["median/iou"] > metrics["mean/iou"]
    assert metrics["learned_minus_rbf/iou"] > 0.03
