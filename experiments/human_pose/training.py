"""Settings, data and training of the human pose energy."""

import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from jaxcv import Damping
from jaxcv.data.human_pose import PoseFrames
from jaxcv.data.synthetic.human_pose import generate
from jaxcv.energies.human_pose import (
    GROUPS,
    NUM_BASES,
    NUM_JOINTS,
    PoseModel,
    PoseParameters,
    constrain,
    initial_parameters,
    limb_norm,
    trainable,
)
from jaxcv.metrics.pose import mpjpe
from jaxcv.systems import fit_pose_model, reconstruct_pose


class Method(NamedTuple):
    """Settings of a trained row: kernel, groups of parameters, gradient, fusion."""

    robust: bool
    groups: tuple[str, ...]
    gradient: str = "implicit"
    selection: str = "soft"


METHODS = {
    "body_model": Method(False, ("body_models",)),
    "l2": Method(False, tuple(GROUPS)),
    "huber": Method(True, tuple(GROUPS)),
}
ABLATIONS = {  # for the largest number of cameras only
    "huber_weights": Method(True, ("scaling", "fusion", "huber")),
    "huber_body_model": Method(True, ("body_models",)),
    "huber_unrolled": Method(True, tuple(GROUPS), "unrolled"),
    "huber_selected": Method(True, tuple(GROUPS), selection="hard"),
}
MORE = {  # trained by --method alone
    # The paper's second row: mu, e, sigma and W_c, here the camera matrices C.
    "body_and_cameras": Method(False, ("body_models", "covariance", "cameras")),
}
GRID = {  # of the baseline's grid search, with each kernel
    "reprojection_scale": (1.0, 3.0, 10.0, 30.0),
    "regularisation_scale": (3.0, 10.0, 30.0, 100.0, 300.0),
}
GRID_FRAMES, EVALUATED_AT_ONCE = 48, 96
SOURCE = {  # the paper, on Human3.6M with real detections; its energy for one camera is another one
    "baseline/multicamera_mpjpe_mm": 91.8,
    "body_and_cameras/multicamera_mpjpe_mm": 57.8,
    "l2/multicamera_mpjpe_mm": 47.7,
    "huber/multicamera_mpjpe_mm": 46.1,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the human pose; every field is a flag."""

    data: str = runner.flag(
        "synthetic", "Generated people, or Human3.6M.", choices=("synthetic", "human36m")
    )
    data_dir: str | None = runner.flag(
        None, "Folder of Human3.6M; data_prep/README.md has its layout.", of_data=True
    )
    cache_dir: str | None = runner.flag(
        None, "Folder for prepared data; none: jaxcv in the user's cache folder.", of_data=True
    )
    steps: int = runner.flag(300, "Optimiser steps.", lower=1)
    seed: int = runner.flag(
        0, "Seed of data, clustering and batches.", lower=0, upper=2**31 - 1, of_data=True
    )
    num_seeds: int = runner.flag(1, "Number of seeds, from --seed on.", lower=1, upper=100)
    views: tuple[int, ...] = runner.flag(
        (4, 1), "Numbers of cameras; each is trained and scored.", lower=1, upper=64
    )
    groups: tuple[str, ...] = runner.flag(
        (),
        "Groups of parameters to learn, in one row, instead of the usual rows.",
        choices=tuple(GROUPS),
    )
    huber: bool = runner.flag(False, "Robust kernel in the row of --groups.")
    ablations: bool = runner.flag(False, "Also train rows with fewer parameters, other gradients.")
    method: tuple[str, ...] = runner.flag(
        (), "Rows to train; none: the usual rows.", choices=(*METHODS, *ABLATIONS, *MORE)
    )
    num_subjects: int = runner.flag(
        8, "Generated people; a quarter of them are test subjects.", lower=4, of_data=True
    )
    clips: int = runner.flag(2, "Generated clips per person and action.", lower=1, of_data=True)
    frames: int = runner.flag(12, "Frames per generated clip.", lower=1, of_data=True)
    num_components: int = runner.flag(3, "Components of the mixture.", lower=1, upper=100)
    num_rotations: int = runner.flag(100, "Rotations in the search.", lower=4, upper=10_000)
    batch_size: int = runner.flag(8, "Frames per step.", lower=1)
    learning_rate: float = runner.flag(0.05, "Adam learning rate (cosine decay to 0).", lower=0.0)
    epsilon: float = runner.flag(0.1, "Adam epsilon.", lower=0.0)
    damping: float = runner.flag(1e-3, "Damping of the implicit gradient.", lower=0.0)
    stride: int = runner.flag(5, "Stride over the frames of real data.", lower=1, of_data=True)
    evaluated: int = runner.flag(0, "Test frames, at most; 0: all.", lower=0, of_data=True)


PRESETS = {
    "default": Config(),
    "study": Config(steps=600, num_seeds=3, ablations=True, clips=3),
    # Each kernel against its own baseline.
    "kernels": Config(
        steps=600, num_seeds=3, clips=3, views=(4,),
        method=("body_model", "body_and_cameras", "l2", "huber_body_model", "huber"),
    ),
    # As in the released code: batches of four, twenty passes over some 78,000 training frames.
    "paper": Config(
        data="human36m", steps=390_000, batch_size=4, views=(4, 1), damping=0.0
    ),
}  # fmt: skip


def memory(config: Config) -> dict[str, float]:
    """Bytes of the generated points, and of the candidates that a batch minimises."""
    frames = 10.0 * config.num_seeds * config.num_subjects * config.clips * config.frames
    candidates = config.batch_size * config.num_components * config.num_rotations
    own = 0.0 if config.data != "synthetic" else frames * max(4, *config.views) * 17 * 8 * 8
    return {"frames": own, "batch_size": candidates * 200 * 8.0}


class Data(NamedTuple):
    """For each seed the frames, and a mask of the test frames."""

    seeds: tuple[PoseFrames, ...]
    test: tuple[np.ndarray, ...]


def load(config: Config) -> Data:
    """Generated people, new ones for each seed; or Human3.6M, the same for all seeds."""
    if config.data == "synthetic":
        sets = tuple(
            generate(
                jax.random.key(config.seed + s),
                num_subjects=config.num_subjects,
                clips=config.clips,
                frames=config.frames,
                num_views=max(4, *config.views),
            )
            for s in range(config.num_seeds)
        )
        quarter = config.num_subjects - max(1, config.num_subjects // 4)
        return Data(sets, tuple(frames.subject >= quarter for frames in sets))
    from data_prep.human36m import TEST_SUBJECTS, prepare_frames

    if config.data_dir is None:
        raise runner.data_error(
            "data_dir", "--data=human36m needs a folder", "none", "Name it: --data_dir=DIR."
        )
    with runner.data_errors():
        frames = prepare_frames(config.data_dir, config.cache_dir, stride=config.stride)
    if max(config.views) > frames.cameras.shape[1]:
        expected = f"expected at most {frames.cameras.shape[1]}, the cameras of the data"
        raise runner.data_error("views", expected, config.views, "Name fewer: --views=4.")
    names = [i for i, name in enumerate(frames.subjects) if name in TEST_SUBJECTS]
    test = np.isin(frames.subject, names)
    return Data((frames,) * config.num_seeds, (test,) * config.num_seeds)


def metadata(config: Config, data: Data) -> dict[str, Any]:
    """The names of the test subjects."""
    frames, test = data.seeds[0], data.test[0]
    return {"test_subjects": [frames.subjects[i] for i in np.unique(frames.subject[test])]}


class Batch(NamedTuple):
    """Frames on the device: points (N, V, 17, 2) [px], visible, joints about their mean [mm]."""

    points: jax.Array
    visible: jax.Array
    joints: jax.Array
    limb_norm: jax.Array


def batch_of(frames: PoseFrames, views: int) -> Batch:
    """Frames as seen by the first `views` cameras."""
    joints = jnp.asarray(frames.joints - frames.joints.mean(axis=1, keepdims=True))
    return Batch(
        jnp.asarray(frames.points[:, :views]),
        jnp.asarray(frames.visible[:, :views]),
        joints,
        limb_norm(joints),
    )


def methods(config: Config, views: int) -> dict[str, Method]:
    """The rows that are trained."""
    if config.groups:
        return {"custom": Method(config.huber, config.groups)}
    if config.method:
        return {name: (METHODS | ABLATIONS | MORE)[name] for name in config.method}
    more = ABLATIONS if config.ablations and views == max(config.views) else {}
    return METHODS | more


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run for each number of cameras, row and seed."""
    out = {}
    for s, (frames, test) in enumerate(zip(data.seeds, data.test, strict=True)):
        train = frames.take(~test)
        for views in config.views:
            batch = batch_of(train, views)
            start = _start(config, train, batch, config.seed + s)
            for name, method in methods(config, views).items():
                out[run_name(name, views, s)] = runner.Run(
                    init=functools.partial(_init, start=start, method=method),
                    loss=functools.partial(_loss, config=config, method=method),
                    optimizer=functools.partial(_optimizer, config, method),
                    hyperparameters=(),
                    trials={"seed": np.array([config.seed + s])},
                    steps=config.steps,
                    data=batch,
                    project=_project,
                    summaries={"gradient_norm": "max"},
                    log_every=min(25, config.steps),
                    checkpoint_every=min(100, config.steps),
                )
    return out


def run_name(method: str, views: int, seed: int) -> str:
    """Name of the run of a row."""
    return f"{method}.views={views}.seed={seed}"


def _start(config: Config, train: PoseFrames, batch: Batch, seed: int) -> dict[str, Any]:
    """The fitted model and the best of the grid; arrays of ones if there are no poses to fit."""
    k, views = config.num_components, batch.points.shape[1]
    try:
        cameras = train.cameras[np.unique(train.subject), :views]
        model = fit_pose_model(train.joints, cameras, num_components=k, seed=seed)
    except ValueError as error:
        if len(train.joints):  # without poses, a trained model is evaluated
            expected, hint = "expected more poses to train on", "Give more frames or subjects."
            raise runner.data_error("data", expected, str(error), hint) from error
        model = PoseModel(
            jnp.ones((k, NUM_JOINTS, 3)), jnp.ones((k, NUM_BASES, NUM_JOINTS, 3)),
            jnp.ones((k, NUM_BASES)), jnp.ones(k), jnp.ones((views, 3, 3)), jnp.ones(()),
        )  # fmt: skip
        none = initial_parameters(model)
        return {"model": model, "l2": none, "huber": none, "robust": jnp.asarray(1.0)}
    return {"model": model} | grid_search(config, model, batch)


def grid_search(config: Config, model: PoseModel, batch: Batch) -> dict[str, Any]:
    """The best of `GRID` for each kernel on some training frames, and the better kernel."""
    chosen = np.linspace(0, len(batch.joints) - 1, min(GRID_FRAMES, len(batch.joints))).astype(int)
    some = jax.tree.map(lambda leaf: leaf[chosen], batch)
    start = initial_parameters(model)
    out, lowest = {}, []
    for robust in (False, True):
        tried = []
        for values in itertools.product(*GRID.values()):
            pair = zip(GRID, values, strict=True)
            parameters = start._replace(
                **{name: jnp.full_like(getattr(start, name), x) for name, x in pair}
            )
            error = np.mean(errors(config, model, parameters, some, robust=robust))
            tried.append((float(error), parameters))
        best = min(tried, key=lambda one: one[0])
        out["huber" if robust else "l2"] = best[1]
        lowest.append(best[0])
    return out | {"robust": jnp.asarray(float(lowest[1] < lowest[0]))}


def errors(
    config: Config, model: PoseModel, parameters: PoseParameters, batch: Batch, **settings: Any
) -> np.ndarray:
    """(N,) mean joint errors [mm], with the true limb norm unless `settings` say otherwise."""
    return mpjpe(poses(config, model, parameters, batch, **settings), batch.joints)


def poses(
    config: Config, model: PoseModel, parameters: PoseParameters, batch: Batch, **settings: Any
) -> np.ndarray:
    """(N, 17, 3) reconstructions [mm], EVALUATED_AT_ONCE frames at a time."""
    settings = {"limb_norm": batch.limb_norm, "num_rotations": config.num_rotations} | settings
    norms = settings.pop("limb_norm")
    out = []
    for i in range(0, len(batch.joints), EVALUATED_AT_ONCE):
        rows = slice(i, i + EVALUATED_AT_ONCE)
        norm = None if norms is None else norms[rows]
        found = reconstruct_pose(
            batch.points[rows], model, parameters, visible=batch.visible[rows], limb_norm=norm,
            **settings,
        )  # fmt: skip
        out.append(np.asarray(found.joints))
    return np.concatenate(out)


def _optimizer(config: Config, method: Method) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    learned = trainable(method.groups)
    names = jax.tree.map(lambda flag: "learned" if flag else "fixed", learned)
    labels = lambda params: {
        name: names if name == "parameters" else jax.tree.map(lambda _: "fixed", leaf)
        for name, leaf in params.items()
    }
    adam = optax.adam(rate, eps=config.epsilon)
    return optax.multi_transform({"learned": adam, "fixed": optax.set_to_zero()}, labels)


def _init(key, trial, *, start: dict[str, Any], method: Method):
    """The parameters to learn, and constants: the model, the baselines, and the better kernel."""
    del key, trial
    start = jax.tree.map(jnp.asarray, start)
    return {"parameters": start["huber" if method.robust else "l2"]} | start


def _loss(params, batch: Batch, key, trial, *, config: Config, method: Method):
    """Mean joint error [mm] of a few frames."""
    del trial
    rows = jax.random.randint(key, (config.batch_size,), 0, len(batch.joints))
    some = jax.tree.map(lambda leaf: leaf[rows], batch)
    fixed = jax.lax.stop_gradient(params["model"])
    found = reconstruct_pose(
        some.points, fixed, params["parameters"], visible=some.visible, limb_norm=some.limb_norm,
        robust=method.robust, gradient=method.gradient, selection=method.selection,
        num_rotations=config.num_rotations, damping=Damping(config.damping),
    )  # fmt: skip
    away = found.joints - some.joints
    known = jnp.all(jnp.isfinite(found.joints), axis=(1, 2))  # if any joint is visible
    square = jnp.sum(jnp.where(known[:, None, None], away, 0) ** 2, axis=-1)
    distance = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)
    error = jnp.sum(distance) / (NUM_JOINTS * jnp.maximum(jnp.sum(known), 1))
    return error, {
        "slope": jnp.max(found.slopes),
        "largest_weight": jnp.mean(jnp.max(found.component_weights, -1)),
    }


def _project(params):
    return params | {"parameters": constrain(params["parameters"])}
