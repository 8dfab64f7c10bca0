"""Synthetic tracker results: a moving object, a distractor, and a population of trackers.

The object moves smoothly through a 640 x 480 image while its size changes; sequences differ in
difficulty. At random moments something happens to the object (an occlusion, a blur, a sudden
move), and trackers may then fail: more often in difficult sequences, late in a sequence, and if
they are fragile. Trackers come in families that share part of their errors, as methods built on
the same features do. A tracker's bias, skill and failure mode are the same in all sequences.

This is a simulation of behaviour, not a sample from an energy model: no tracker is an unbiased
observation with a known noise. The constants were tuned by hand until the untrained baselines
ranked as on real results (mean, median, mode of equal RBFs near the best tracker, oracle). This
ranking is therefore an input, not a finding; no learned method was run during the tuning.
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxcv.checks import argument_error
from jaxcv.data.tracker_fusion import TrackerSequences, pad_sequences

__all__ = ["FAMILIES", "generate"]

_IMAGE = np.array([640.0, 480.0])  # width, height [px]
_SIZE_RANGE = (20.0, 150.0)  # of the true boxes, sqrt(w h) [px]

# Parameters of a family. noise: of the centre, in object sizes, and of the log size. lag:
# frames behind the object. drift: of the centre, in object sizes per square root of a frame (an
# uncorrected random walk). log_scale: mean and spread of log(reported size / true size).
# follow: fraction of a change of size that is followed. robust: resistance to events. failure:
# what happens after a failure.
FAMILIES: dict[str, dict] = {
    "accurate": dict(noise=0.03, lag=0.1, drift=0.003, log_scale=(-0.04, 0.05), follow=0.95,
                     robust=0.75, failure="distractor"),
    "drifting": dict(noise=0.06, lag=0.3, drift=0.050, log_scale=(0.0, 0.08), follow=0.2,
                     robust=0.3, failure="freeze"),
    "lagging": dict(noise=0.06, lag=2.5, drift=0.010, log_scale=(0.0, 0.08), follow=0.2,
                    robust=0.4, failure="freeze"),
    "undersized": dict(noise=0.04, lag=0.2, drift=0.004, log_scale=(-0.30, 0.10), follow=0.85,
                       robust=0.85, failure="shrink"),
    "jumping": dict(noise=0.04, lag=0.2, drift=0.004, log_scale=(0.05, 0.06), follow=0.5,
                    robust=0.2, failure="distractor"),
    "failing": dict(noise=0.07, lag=0.5, drift=0.010, log_scale=(0.05, 0.15), follow=0.0,
                    robust=0.1, failure="explode"),
}  # fmt: skip

# Families of the trackers in order, repeated cyclically.
_ORDER = ("accurate", "drifting", "undersized", "lagging", "accurate", "jumping", "undersized",
          "failing")  # fmt: skip


class _Trackers(NamedTuple):
    """K trackers; arrays of length K unless stated."""

    names: tuple[str, ...]
    family: np.ndarray  # index into FAMILIES
    failure: np.ndarray  # names of failure modes
    noise: np.ndarray
    lag: np.ndarray  # [frames]
    drift: np.ndarray
    log_scale: np.ndarray  # (K, 2) of width and height
    follow: np.ndarray
    robust: np.ndarray


class _Scene(NamedTuple):
    """One sequence of n frames."""

    centre: np.ndarray  # (n, 2) [px]
    log_side: np.ndarray  # (n, 2) log of width and height [log px]
    distractor: np.ndarray  # (n, 2) centre of the distractor [px]
    distractor_log_side: np.ndarray  # (2,)
    events: np.ndarray  # (n,) severity in 0..1, zero in most frames
    difficulty: float  # 0..1


def generate(
    key: jax.Array | int,
    *,
    num_sequences: int = 40,
    num_frames: int = 60,
    num_trackers: int = 12,
    missing_rate: float = 0.02,
    dtype: type = np.float32,
) -> TrackerSequences:
    """Results of `num_trackers` trackers on `num_sequences` sequences.

    True boxes measure 20 to 150 px. Sequences have two thirds of `num_frames` to all of them.
    Trackers take the families in the order of `_ORDER` and are named after them. The same
    arguments give the same arrays; sequence s does not depend on `num_sequences`.

    Args:
        key: a PRNG key, or a seed for one.
        num_sequences: S, at least 1.
        num_frames: T, the longest possible sequence, at least 3.
        num_trackers: K, at least 1.
        missing_rate: chance per frame that a tracker that has lost the object reports nothing.
        dtype: of the boxes, float32 or float64.

    Returns:
        `TrackerSequences`; T is the longest length drawn.

    Raises:
        ValueError: a number is out of range.
    """
    for name, value, low in (
        ("num_sequences", num_sequences, 1),
        ("num_frames", num_frames, 3),
        ("num_trackers", num_trackers, 1),
    ):
        if value < low:
            raise argument_error(name, f"expected at least {low}", value)
    if not 0 <= missing_rate <= 1:
        raise argument_error("missing_rate", "expected a probability", missing_rate)
    if isinstance(key, (int, np.integer)):
        key = jax.random.key(int(key))
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    trackers = _draw_trackers(np.random.default_rng([*words, 0]), num_trackers)
    names, truths, boxes, reported = [], [], [], []
    for s in range(num_sequences):
        rng = np.random.default_rng([*words, 1, s])
        scene = _draw_scene(rng, int(rng.integers(-(-2 * num_frames // 3), num_frames + 1)))
        report, given = _track(rng, trackers, scene, missing_rate)
        names.append(f"sequence_{s:03d}")
        truths.append(_corners(scene.centre, scene.log_side))
        boxes.append(report)
        reported.append(given)
    return pad_sequences(names, trackers.names, truths, boxes, reported, dtype=dtype)


def _draw_trackers(rng: np.random.Generator, num: int) -> _Trackers:
    labels = list(FAMILIES)
    family = np.array([labels.index(_ORDER[k % len(_ORDER)]) for k in range(num)])
    kinds = [FAMILIES[labels[f]] for f in family]

    def each(name: str) -> np.ndarray:
        return np.array([kind[name] for kind in kinds])

    spread = np.exp(0.25 * rng.standard_normal((3, num)))  # within a family
    mean, width = each("log_scale").T
    shared = mean + width * rng.standard_normal(num)
    return _Trackers(
        names=tuple(f"{labels[f]}_{np.sum(family[:k] == f) + 1}" for k, f in enumerate(family)),
        family=family,
        failure=each("failure"),
        noise=each("noise") * spread[0],
        lag=each("lag") * spread[1],
        drift=each("drift") * spread[2],
        log_scale=shared[:, None] + 0.04 * rng.standard_normal((num, 2)),
        follow=np.clip(each("follow") + 0.1 * rng.standard_normal(num), 0, 1),
        robust=np.clip(each("robust") + 0.15 * rng.standard_normal(num), 0, 1),
    )


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], memory: float) -> np.ndarray:
    """Stationary first-order process along axis 0, of unit variance."""
    noise = rng.standard_normal(shape)
    out = np.empty(shape)
    out[0] = noise[0]
    for t in range(1, shape[0]):
        out[t] = memory * out[t - 1] + np.sqrt(1 - memory**2) * noise[t]
    return out


def _draw_scene(rng: np.random.Generator, n: int) -> _Scene:
    difficulty = float(rng.beta(1.2, 1.6))
    size = np.exp(rng.uniform(np.log(25), np.log(110)))
    events = (rng.random(n) < 0.02 + 0.05 * difficulty) * rng.uniform(0.3, 1, n)
    events[:3] = 0

    # Centre: smooth velocity, kicks at events, a weak spring towards the image's centre.
    speed = size * (0.015 + 0.1 * difficulty)  # [px / frame]
    swing = speed * _smooth(rng, (n, 2), 0.9)
    kick = events[:, None] * difficulty * size * 0.5 * rng.standard_normal((n, 2))
    centre = np.empty((n, 2))
    centre[0] = _IMAGE * rng.uniform(0.3, 0.7, 2)
    for t in range(1, n):
        pull = 0.02 * (_IMAGE / 2 - centre[t - 1]) * (1 + difficulty) / 2
        centre[t] = centre[t - 1] + swing[t] + pull + kick[t]

    # Size: random walks of scale and aspect; reflected into the range of sizes.
    rate = 0.015 + 0.045 * difficulty
    walk = np.cumsum(rate * _smooth(rng, (n,), 0.8)) + np.log(size)
    low, high = np.log(_SIZE_RANGE)
    folded = low + np.abs((walk - low + (high - low)) % (2 * (high - low)) - (high - low))
    aspect = 0.3 * rng.standard_normal() + np.cumsum(0.4 * rate * _smooth(rng, (n,), 0.8))
    log_side = folded[:, None] + 0.5 * np.stack([-aspect, aspect], axis=-1)

    # One distractor, on its own path beside the object's.
    angle = rng.uniform(0, 2 * np.pi)
    offset = size * rng.uniform(0.9, 2.5) * np.array([np.cos(angle), np.sin(angle)])
    own = size * 0.4 * _smooth(rng, (n, 2), 0.95)
    side = log_side[0] + 0.25 * rng.standard_normal(2)
    return _Scene(centre, log_side, centre + offset + own, side, events, difficulty)


def _track(
    rng: np.random.Generator, trackers: _Trackers, scene: _Scene, missing_rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, K, 4) [px] and whether they were reported (n, K)."""
    n, k = len(scene.events), len(trackers.names)

    # Errors around the object: half of the variance is shared within the family.
    shared = _smooth(rng, (n, len(FAMILIES), 4), 0.9)[:, trackers.family]
    unit = np.sqrt(0.5) * shared + np.sqrt(0.5) * _smooth(rng, (n, k, 4), 0.8)
    hard = 0.6 + 0.9 * scene.difficulty
    noise = trackers.noise[:, None] * hard * unit
    drift_shared = rng.standard_normal((n, len(FAMILIES), 2))[:, trackers.family]
    drift = np.sqrt(0.4) * drift_shared + np.sqrt(0.6) * rng.standard_normal((n, k, 2))
    drift = np.cumsum(trackers.drift[:, None] * hard * drift, axis=0)

    # Box of a tracker that has not lost the object; the size bias sets in gradually.
    t = np.arange(n)
    past = np.clip(t[:, None] - trackers.lag, 0, None)  # (n, K), a time in frames
    behind = np.stack([np.interp(past, t, scene.centre[:, i]) for i in range(2)], axis=-1)
    size = np.exp(scene.log_side.mean(-1))  # (n,) [px]
    on_centre = behind + size[:, None, None] * (noise[..., :2] + drift)
    change = scene.log_side - scene.log_side[0]
    onset = 1 - np.exp(-t / 8.0)
    on_side = (
        scene.log_side[0]
        + trackers.follow[:, None] * change[:, None]
        + onset[:, None, None] * trackers.log_scale
        + noise[..., 2:]
    )

    centre, side = np.empty((n, k, 2)), np.empty((n, k, 2))
    centre[0], side[0] = scene.centre[0], scene.log_side[0]
    reported = np.zeros((n, k), bool)
    lost = np.zeros(k, bool)
    heading = np.zeros((k, 2))
    for i in range(1, n):
        # All trackers share an event; failure depends on robustness and time.
        pressure = scene.events[i] * (0.5 + scene.difficulty) * (0.7 + 0.6 * i / (i + 30))
        chance = np.clip(1.4 * pressure - 0.9 * trackers.robust, 0.05 * pressure, 1)
        chance += 0.002 * scene.difficulty
        fails = ~lost & (rng.random(k) < chance)
        heading[fails] = 0.03 * size[i] * rng.standard_normal((int(fails.sum()), 2))
        lost |= fails
        # A robust tracker recovers the object when it is near the tracker's box.
        distance = np.linalg.norm(centre[i - 1] - scene.centre[i], axis=-1) / size[i]
        found = lost & (rng.random(k) < 0.12 * trackers.robust * np.exp(-(distance**2)))
        lost &= ~found

        c, s = centre[i - 1].copy(), side[i - 1].copy()
        wander = rng.standard_normal((k, 2))
        grow = rng.standard_normal(k)
        jump = trackers.failure == "distractor"
        c[jump] += 0.6 * (scene.distractor[i] - c[jump]) + 0.08 * size[i] * wander[jump]
        s[jump] += 0.3 * (scene.distractor_log_side + trackers.log_scale[jump] - s[jump])
        freeze = trackers.failure == "freeze"
        c[freeze] += 0.03 * size[i] * wander[freeze]
        shrink = trackers.failure == "shrink"
        c[shrink] += heading[shrink] + 0.02 * size[i] * wander[shrink]
        s[shrink] -= 0.04
        explode = trackers.failure == "explode"
        c[explode] += 2 * heading[explode] + 0.08 * size[i] * wander[explode]
        s[explode] += (0.05 + 0.08 * grow[explode])[:, None]
        s = np.clip(s, scene.log_side[0] - 1.2, scene.log_side[0] + 1.2)
        centre[i] = np.where(lost[:, None], c, on_centre[i])
        side[i] = np.where(lost[:, None], s, on_side[i])
        reported[i] = ~lost | (rng.random(k) >= missing_rate)
    return _corners(centre, side), reported


def _corners(centre: np.ndarray, log_side: np.ndarray) -> np.ndarray:
    half = 0.5 * np.exp(log_side)
    return np.concatenate([centre - half, centre + half], axis=-1)
