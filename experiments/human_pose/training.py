"""Training of the human pose energy."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import runner
from experiments.human_pose import baselines, network
from experiments.human_pose.config import GRID, MONOCULAR_GRID, Config, Method, methods
from experiments.human_pose.data import Batch, Data, batch_of
from jaxcv import Damping
from jaxcv.data.human_pose import PoseFrames
from jaxcv.energies.human_pose import (
    NUM_BASES,
    NUM_JOINTS,
    PoseModel,
    PoseParameters,
    constrain,
    initial_parameters,
    trainable,
)
from jaxcv.energies.human_pose_readout import initial_readout
from jaxcv.metrics.pose import mpjpe
from jaxcv.systems import fit_pose_model, reconstruct_pose
from jaxcv.systems.pose_model import load_pose_model

GRID_FRAMES, EVALUATED_AT_ONCE = 48, 96


def runs(config: Config, data: Data) -> dict[str, runner.Run]:
    """One run for each number of cameras, row and seed."""
    out = {}
    for s, (frames, test) in enumerate(zip(data.seeds, data.test, strict=True)):
        train = frames.take(~test)
        for views in config.views:
            batch = batch_of(train, views, compatibility=config.compatibility)
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
                    project=functools.partial(_project, config=config),
                    summaries={"gradient_norm": "max"},
                    log_every=min(25, config.steps),
                    checkpoint_every=min(100, config.steps),
                )
            if config.competitors:
                out |= network.runs(config, train, views, s)
    return out


def run_name(method: str, views: int, seed: int) -> str:
    """Name of the run of a row."""
    return f"{method}.views={views}.seed={seed}"


def _start(config: Config, train: PoseFrames, batch: Batch, seed: int) -> dict[str, Any]:
    """The fitted model and the best of the grid; arrays of ones if there are no poses to fit.

    With `--start=released` the model and parameters of the release instead. Where they are trained
    or compared, `monocular` are the parameters of the energy for one camera, and `other_...` the
    baseline that was tuned on detections with another error model.
    """
    k, views = config.num_components, batch.points.shape[1]
    if config.start == "released":
        return _released_start(config, views)
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
    start = {"model": model} | grid_search(config, model, batch)
    if trains_monocular(config, views):
        own = {"free_pose": False, "robust": False, "readout": initial_readout(model)}
        start["monocular"] = _best_of(MONOCULAR_GRID, config, model, _few(batch), **own)[1]
    other = baselines.redetected(train, seed) if config.competitors else None
    if other is not None:
        found = grid_search(config, model, batch_of(other, views))
        start |= {f"other_{name}": value for name, value in found.items()}
    return start


def trains_monocular(config: Config, views: int) -> bool:
    """Whether the energy for one camera is trained."""
    return any(not method.free_pose for method in methods(config, views).values())


def _released_start(config: Config, views: int) -> dict[str, Any]:
    """The released mixture and cameras, the parameters before training, and squares."""
    for name in ("model_file", "cameras_file"):
        if getattr(config, name) is None:
            expected, hint = "--start=released needs the file", f"Name it: --{name}=FILE."
            raise runner.data_error(name, expected, "none", hint)
    with runner.data_errors():
        model = load_pose_model(
            str(config.model_file), str(config.cameras_file), num_components=config.num_components
        )
    model = model._replace(cameras=model.cameras[:views])
    first = initial_parameters(model, compatibility=config.compatibility)
    start = {"model": model, "l2": first, "huber": first, "robust": jnp.asarray(0.0)}
    if trains_monocular(config, views):
        ones = jnp.ones_like(first.reprojection_scale)
        start["monocular"] = first._replace(  # as in the release, whose offsets begin at 0 here
            component_offset=0 * ones, reprojection_scale=ones, regularisation_scale=5.2 * ones
        )
    return start


def _few(batch: Batch) -> Batch:
    """Evenly spaced frames for a grid search."""
    chosen = np.linspace(0, len(batch.joints) - 1, min(GRID_FRAMES, len(batch.joints))).astype(int)
    return jax.tree.map(lambda leaf: leaf[chosen], batch)


def grid_search(config: Config, model: PoseModel, batch: Batch) -> dict[str, Any]:
    """The best of `GRID` for each kernel on some training frames, and the better kernel."""
    some = _few(batch)
    least, l2 = _best_of(GRID, config, model, some, robust=False)
    lower, huber = _best_of(GRID, config, model, some, robust=True)
    return {"l2": l2, "huber": huber, "robust": jnp.asarray(float(lower < least))}


def _best_of(
    grid: Mapping[str, tuple[float, ...]],
    config: Config,
    model: PoseModel,
    batch: Batch,
    **settings: Any,
) -> tuple[float, PoseParameters]:
    """The lowest mean error of a grid, and its parameters."""
    start = initial_parameters(model)
    tried = []
    for values in itertools.product(*grid.values()):
        pair = zip(grid, values, strict=True)
        parameters = start._replace(
            **{name: jnp.full_like(getattr(start, name), x) for name, x in pair}
        )
        error = np.mean(errors(config, model, parameters, batch, **settings))
        tried.append((float(error), parameters))
    return min(tried, key=lambda one: one[0])


def errors(
    config: Config, model: PoseModel, parameters: PoseParameters, batch: Batch, **settings: Any
) -> np.ndarray:
    """(N,) mean joint errors [mm], with the true limb norm unless `settings` say otherwise."""
    return mpjpe(poses(config, model, parameters, batch, **settings), batch.joints)


def poses(
    config: Config, model: PoseModel, parameters: PoseParameters, batch: Batch, **settings: Any
) -> np.ndarray:
    """(N, 17, 3) reconstructions [mm], EVALUATED_AT_ONCE frames at a time."""
    settings = {
        "limb_norm": batch.limb_norm, "num_rotations": config.num_rotations,
        "compatibility": config.compatibility,
    } | settings  # fmt: skip
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
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
    learned = trainable(method.groups)
    names = jax.tree.map(lambda flag: "learned" if flag else "fixed", learned)
    labels = lambda params: {
        name: names
        if name == "parameters"
        else jax.tree.map(lambda _: "learned" if name == "readout" else "fixed", leaf)  # noqa: B023
        for name, leaf in params.items()
    }
    adam = optax.adam(rate, eps=config.epsilon)
    return optax.multi_transform({"learned": adam, "fixed": optax.set_to_zero()}, labels)


def _init(key, trial, *, start: dict[str, Any], method: Method):
    """The parameters to learn, and constants: the model, the baselines, and the better kernel."""
    del key, trial
    start = jax.tree.map(jnp.asarray, start)
    if not method.free_pose:
        readout = initial_readout(start["model"])
        return {"parameters": start["monocular"], "readout": readout} | start
    return {"parameters": start["huber" if method.robust else "l2"]} | start


def _loss(params, batch: Batch, key, trial, *, config: Config, method: Method):
    """Mean joint error [mm] of a few frames."""
    del trial
    rows = jax.random.randint(key, (config.batch_size,), 0, len(batch.joints))
    some = jax.tree.map(lambda leaf: leaf[rows], batch)
    fixed = jax.lax.stop_gradient(params["model"])
    found = reconstruct_pose(
        some.points, fixed, params["parameters"], visible=some.visible, limb_norm=some.limb_norm,
        robust=method.robust, gradient=method.gradient or config.gradient,
        selection=method.selection, num_rotations=config.num_rotations,
        free_pose=method.free_pose, readout=params.get("readout"),
        damping=Damping(config.damping if method.damping is None else method.damping),
        compatibility=config.compatibility,
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


def _project(params, *, config: Config):
    # The release's clip of the prior is that of its energy for several cameras.
    clips_prior = config.compatibility and "readout" not in params
    out = params | {"parameters": constrain(params["parameters"], compatibility=clips_prior)}
    if "readout" in params:
        readout = params["readout"]
        out["readout"] = readout._replace(warp=jnp.clip(readout.warp, 1e-5, 1.0))
    return out
