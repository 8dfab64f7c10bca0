"""The training loop of one run: chunks of steps, log points, checkpoints, resuming."""

import dataclasses
import itertools
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.runner import records, settings
from experiments.runner.metrics_file import MetricsFile
from experiments.runner.trials import count_of
from jaxcv import training
from jaxcv.checks import argument_error, check_choice

__all__ = ["Interrupted", "PreparedRun", "begun_from", "log_points", "train_run"]

_logger = logging.getLogger(__name__)

_SUMMARIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda values: values.mean(axis=0),
    "last": lambda values: values[-1],
    "min": lambda values: values.min(axis=0),
    "max": lambda values: values.max(axis=0),
    "sum": lambda values: values.sum(axis=0),
}
_STACK_BYTES = 256 * 2**20  # upper bound of the host batches of one device call
_SECONDS_PER_LINE = 10.0  # between two plain progress lines


@dataclasses.dataclass
class PreparedRun:
    """A run with its trials, its checkpoints and its initial parameters."""

    name: str
    run: Any
    trials: Mapping[str, np.ndarray]
    checkpoints: training.Checkpoints
    before: Any = None
    lengthened: bool = False

    def __post_init__(self):
        run = self.run
        bounds = {"steps": (run.steps, 0), "log_every": (run.log_every, 1)}
        bounds["checkpoint_every"] = (run.checkpoint_every, 1)
        bounds["steps_per_call"] = (1 if run.steps_per_call is None else run.steps_per_call, 1)
        for field, (value, lower) in bounds.items():
            if value < lower:
                raise argument_error(f"{self.name}.{field}", f"expected at least {lower}", value)
        for metric, kind in run.summaries.items():
            check_choice(f"{self.name}.summaries[{metric!r}]", kind, tuple(_SUMMARIES))
        self.sweep = training.Sweep(
            run.init,
            run.loss,
            run.optimizer,
            hyperparameters=run.hyperparameters,
            project=run.project,
            validate=run.validate,
            plateau=run.plateau,
            sequential=run.sequential,
        )
        if run.plateau is not None and run.validate is None:
            raise argument_error(f"{self.name}.plateau", "expected a `validate` with it", None)

    def finished(self, state: training.TrainState) -> bool:
        """Whether nothing is left to train."""
        return int(state.step) >= self.run.steps or self.sweep.stopped(state)


def begun_from(
    started: Mapping[str, Any], name: str, run: Any, trials: Mapping[str, np.ndarray]
) -> tuple[Any, Any]:
    """The run with an `init` that returns given parameters, and the parameters.

    They are those of the run of the same name in `started`, or of its only run.

    Raises:
        FolderError: there is no such run, or its parameters have other shapes or trials.
    """
    hint = "Give --init_from a training of the same networks."
    source = started.get(name) or (next(iter(started.values())) if len(started) == 1 else None)
    if source is None:
        expected = f"expected a run {name!r}, or a single one"
        raise records.folder_error("init_from", expected, f"the runs {sorted(started)}", hint)
    own = training.Sweep(run.init, run.loss, run.optimizer, hyperparameters=run.hyperparameters)
    want, params = own.shapes(trials).params, source.params
    count, other = count_of(trials), count_of(source.trials)
    if other == 1 and count > 1:
        params = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), count, axis=0), params)
    expected, got = training.leaf_shapes(want), training.leaf_shapes(params)
    differing = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
    if differing:
        one = differing[0]
        rule = f"expected params{one} of {name!r} to be {expected.get(one, 'nothing')}"
        raise records.folder_error("init_from", rule, got.get(one, "nothing"), hint)
    return dataclasses.replace(run, init=lambda key, trial, before: before), params


def log_points(run: Any, start: int = 0) -> Iterator[tuple[int, int]]:
    """(first step, last step) of each interval between log points after `start`.

    Log points are the multiples of `log_every` and the end. They do not depend on `start`, so a
    resumed training computes the same chunks as an undisturbed one.
    """
    while start < run.steps:
        end = min((start // run.log_every + 1) * run.log_every, run.steps)
        yield start, end
        start = end


def train_run(prepared: PreparedRun, metrics_file: MetricsFile) -> tuple[Any, float]:
    """Trains a run from its last checkpoint to its end.

    Returns:
        The params with their axis of trials, and the seconds spent, including earlier processes.
    """
    run, trials, sweep = prepared.run, prepared.trials, prepared.sweep
    shapes = sweep.shapes(trials, prepared.before)
    held = sum(float(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    settings.check_memory(f"the parameters of {prepared.name!r} and their optimiser", 2 * held)
    restored = prepared.checkpoints.restore(shapes, repair=True)
    begin, before = (restored.step, restored.seconds) if restored else (0, 0.0)
    written = [end for _, end in log_points(run) if end <= begin]
    metrics_file.cut(prepared.name, begin, written, lengthened=prepared.lengthened)
    if restored:
        metrics_file.check_digest(prepared.name, restored.note)
    if restored and prepared.finished(restored.state):
        _logger.info("%s: finished before, %d steps", prepared.name, begin)
        return jax.device_put(sweep.result(restored.state)), before
    if restored:
        _logger.info("%s: goes on from step %d", prepared.name, begin)
    start = time.perf_counter()
    whole = jax.device_put(restored.state) if restored else sweep.init(trials, prepared.before)
    state = sweep.unpacked(whole)
    data = jax.device_put(run.data)
    checkpoint_every = -(-run.checkpoint_every // run.log_every) * run.log_every

    feed = _Feed(run, begin)
    diverged = np.zeros(count_of(trials), bool)
    with (
        _Progress(prepared.name, begin, run.steps) as progress,
        _Interruption(prepared.name) as stop,
    ):
        for first, end in log_points(run, begin):
            chunks = []
            while first < end:
                length, batch = feed.take()
                batch = data if run.batches is None else batch
                state, metrics = sweep.run(
                    state, trials, batch, length=length, stacked=run.batches is not None
                )
                chunks.append(metrics)
                first += length
                feed.prepare()  # on the host, while the device computes
            values = _summarise(jax.device_get(chunks), run.summaries)
            whole = sweep.packed(state)
            if run.validate is not None:
                values |= _validate(prepared, whole.params, data, values)
                whole = sweep.observe(whole, values)
                state = sweep.unpacked(whole)
            metrics_file.append(prepared.name, end, values)
            lost = ~np.isfinite(values["loss"])
            if np.any(lost & ~diverged):
                which = np.flatnonzero(lost & ~diverged).tolist()
                _logger.warning(
                    "%s: loss not finite at step %d, trials %s", prepared.name, end, which
                )
            diverged |= lost
            finished = prepared.finished(whole)
            if end % checkpoint_every == 0 or finished or stop.wanted:
                seconds = before + time.perf_counter() - start
                note = metrics_file.digest(prepared.name)
                prepared.checkpoints.save(whole, seconds=seconds, note=note)
            progress.update(end, values["loss"])
            if finished:
                break
            if stop.wanted:
                raise Interrupted(f"{prepared.name} is saved at step {end} of {run.steps}")
    if run.steps == 0:
        prepared.checkpoints.save(whole, note=metrics_file.digest(prepared.name))
    return sweep.result(whole), before + time.perf_counter() - start


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a training; its state is saved."""


class _Interruption:
    """The first Ctrl-C stops the training at the next log point, the second one at once."""

    def __init__(self, name: str):
        self.wanted = False
        self._name, self._before = name, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_):
        self.wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _logger.info("%s: stops at the next log point and saves; Ctrl-C stops now", self._name)


class _Feed:
    """Plans the device calls; stacks the batches of the next call while the device computes."""

    def __init__(self, run: Any, begin: int):
        self._run = run
        length = run.steps_per_call or run.log_every
        if run.batches is not None and begin < run.steps and run.steps_per_call is None:
            # The size at step 0, so that the chunks do not depend on where a run resumes.
            sizes = [np.asarray(leaf).nbytes for leaf in jax.tree.leaves(run.batches(0))]
            length = max(1, min(length, _STACK_BYTES // max(1, sum(sizes))))
        self._length = _largest_divisor(run.log_every, length)
        self._calls = self._plan(begin)
        self._next: tuple[int, Any] | None = None
        self.prepare()

    def _plan(self, begin: int) -> Iterator[tuple[int, int]]:
        for first, end in log_points(self._run, begin):
            for start in range(first, end, self._length):
                yield start, min(self._length, end - start)

    def prepare(self) -> None:
        """Makes the batches of the next call."""
        self._next = None
        for start, length in itertools.islice(self._calls, 1):
            batch = None
            if self._run.batches is not None:
                batches = [self._run.batches(step) for step in range(start, start + length)]
                batch = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
            self._next = length, batch

    def take(self) -> tuple[int, Any]:
        """(length, batches) of the next call."""
        assert self._next is not None
        return self._next


def _largest_divisor(number: int, at_most: int) -> int:
    """A divisor, so that all calls have one length: another length is compiled again."""
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)


def _summarise(chunks: list[dict], summaries: Mapping[str, str]) -> dict[str, np.ndarray]:
    """One number per metric and trial, from those of every step, (steps, M)."""
    unknown = sorted(summaries.keys() - chunks[0].keys())
    if unknown:
        expected = f"expected names among the metrics {sorted(chunks[0])}"
        raise argument_error("summaries", expected, unknown)
    out = {}
    for name in chunks[0]:
        values = np.concatenate([chunk[name] for chunk in chunks]).astype(np.float64)
        out[name] = _SUMMARIES[({"skipped": "sum"} | dict(summaries)).get(name, "mean")](values)
    return out


def _validate(
    prepared: PreparedRun, params: Any, data: Any, taken: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    values = jax.device_get(prepared.sweep.validate(params, data, prepared.trials))
    same = sorted(values.keys() & taken.keys())
    if same:
        raise argument_error(
            "validate", "these metrics are those of the loss", same, "Rename them."
        )
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


class _Progress:
    """A progress bar on a terminal; elsewhere a line every 10 seconds."""

    def __init__(self, name: str, begin: int, steps: int):
        self._name, self._steps, self._bar = name, steps, None
        self._spoke = self._begun = time.monotonic()
        self._begin = begin
        if sys.stderr.isatty():
            from tqdm.auto import tqdm

            self._bar = tqdm(desc=name, initial=begin, total=steps, unit="step")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def update(self, step: int, loss: np.ndarray) -> None:
        """Shows the step and the best loss among the trials."""
        finite = loss[np.isfinite(loss)]
        text = f"{finite.min():.4g}" if finite.size else "not finite"
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {text}", refresh=False)
            self._bar.update(step - self._bar.n)
        elif step == self._steps or time.monotonic() - self._spoke >= _SECONDS_PER_LINE:
            self._spoke = time.monotonic()
            rate = (self._spoke - self._begun) / max(1, step - self._begin)
            left = "" if step == self._steps else f", {_duration(rate * (self._steps - step))} left"
            _logger.info("%s: step %d of %d, loss %s%s", self._name, step, self._steps, text, left)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
