"""Comparisons of rows: the best rates of each, and relative changes with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.hand_pose.config import RATES, variants
from experiments.hand_pose.data import unit_mm
from experiments.runner.statistics import change_over_seeds
from jaxcv.metrics.tracking import paired_bootstrap

__all__ = ["COMPARED", "best_rows", "changes", "pairs"]

COMPARED = (  # (a, b): error of a / error of b - 1
    ("net2", "net1"), ("net3", "net2"), ("net4", "net2"), ("net4", "net3"), ("net5", "net4"),
    ("net6", "net5"), ("net6", "net4"), ("net6", "net1"), ("net7", "net1"), ("net8", "net1"),
    ("net9", "net2"), ("net7wide", "net7"), ("net7wide", "net1"), ("net8wide", "net8"),
    ("net8wide", "net1"), ("net8wide", "net6"), ("net9wide", "net9"), ("net9wide", "net2"),
    ("anchors", "net6"), ("rgb", "net6"), ("rgbd", "net6"), ("fusepred", "net6"),
    ("fusepred_learned", "net6"), ("fuse_conv", "net6"), ("fuse_conv", "rgbd"),
    ("fuse_conv", "fusepred"), ("fuse_conv", "fusepred_learned"), ("rgbd", "fusepred"),
    ("rgbd", "fusepred_learned"), ("fusepred_learned", "fusepred"),
    ("fusepred_learned", "fusepred_inverse_error"), ("fuse_max", "fuse_conv"),
    ("fuse_sum", "fuse_conv"), ("fuse_concat", "fuse_conv"), ("fuse_mean", "fuse_conv"),
    ("refined", "net6"), ("refined_undamped", "net6"), ("refined_untrained", "net6"),
    ("refined", "refined_untrained"), ("refined", "refined_undamped"),
)  # fmt: skip
METRICS = ("valid_loss", "mean_error_mm", "unseen_mean_error_mm")
_RESAMPLES = 1000


def _without_rates(ending: str) -> str:
    """The ending of a variant without its rates: variants that share it form a group."""
    parts = [part for part in ending.split("+")[1:] if part.partition("=")[0] not in RATES]
    return "".join(f"+{part}" for part in parts)


def _stems(kept: Mapping[str, Any]) -> list[str]:
    """Rows without their endings, in order."""
    names = (key.partition("/")[0].partition("+")[0] for key in kept)
    return list(dict.fromkeys(name for name in names if name != "mean_pose"))


def best_rows(
    config: Any, kept: Mapping[str, list[float]]
) -> tuple[dict[str, str], dict[str, float]]:
    """For networks trained at several rates, `<network>_best<ending>` -> the row of least loss.

    The loss is that of the validation, a mean over the seeds. Other rows that are made of the
    networks have none.

    Args:
        config: the settings.
        kept: `<row>/<metric>` -> values of the seeds.

    Returns:
        The rows, and metrics: the rates of each, and `at_end`, 1 if the best of three values or
        more of a rate is the lowest or highest, so that the grid should be longer.
    """
    groups: dict[str, dict[str, Any]] = {}
    for ending, own in variants(config).items():
        groups.setdefault(_without_rates(ending), {})[ending] = own
    rows, out = {}, {}
    for stem in _stems(kept):
        for group, members in groups.items():
            losses = {
                ending: np.mean(kept[f"{stem}{ending}/valid_loss"]) * unit_mm(own) ** 2
                for ending, own in members.items()
                if f"{stem}{ending}/valid_loss" in kept
            }
            finite = {ending: x for ending, x in losses.items() if np.isfinite(x)}
            if len(losses) < 2 or not finite:
                continue
            chosen, name = min(finite, key=lambda ending: finite[ending]), f"{stem}_best{group}"
            rows[name] = f"{stem}{chosen}"
            ends = []
            for rate in RATES:
                values = sorted({getattr(own, rate) for own in members.values()})
                value = getattr(members[chosen], rate)
                if len(values) > 1:
                    out[f"{name}/{rate}"] = value
                if len(values) > 2:
                    ends.append(value in (values[0], values[-1]))
            out |= {f"{name}/at_end": float(any(ends))} if ends else {}
    return rows, out


def pairs(config: Any, names: set[str]) -> list[tuple[str, str]]:
    """Rows to compare: COMPARED in every variant and at the best rates, and variants of a row."""
    endings = list(variants(config))
    groups = list(dict.fromkeys(map(_without_rates, endings)))
    out = [(f"{a}{e}", f"{b}{e}") for a, b in COMPARED for e in endings]
    out += [(f"{a}_best{g}", f"{b}_best{g}") for a, b in COMPARED for g in groups]
    base = endings[0]
    for stem in dict.fromkeys(name.partition("+")[0] for name in sorted(names)):
        out += [(f"{stem}{e}", f"{stem}{base}") for e in endings[1:]]
        stem = stem.removesuffix("_best")
        at_best = lambda g, s=stem: f"{s}_best{g}" if f"{s}_best{g}" in names else f"{s}{g}"
        out += [(at_best(g), at_best(groups[0])) for g in groups[1:]]
    known = dict.fromkeys(pair for pair in out if pair[0] != pair[1] and set(pair) <= names)
    return [pair for pair in known if "mean_pose" not in pair[0]]


def changes(
    config: Any,
    kept: Mapping[str, list[float]],
    errors: Mapping[str, Mapping[str, np.ndarray]],
    best: Mapping[str, str],
) -> dict[str, Any]:
    """`<a>_over_<b>/<metric>_change` and so on, of all `pairs`.

    `low` and `high` are the ends of the 95% interval over seeds. With one seed, `frames_low` and
    `frames_high` are those of a paired bootstrap over the test frames: they say nothing of how
    much another training would differ.

    Args:
        config: the settings.
        kept: `<row>/<metric>` -> values of the seeds.
        errors: row -> test -> errors (N, J) [mm] of the first seed.
        best: of `best_rows`.
    """
    out: dict[str, Any] = {}
    names = {key.partition("/")[0] for key in kept}
    units = {ending: unit_mm(own) for ending, own in variants(config).items()}
    unit = lambda name: units["".join(best.get(name, name).partition("+")[1:])]
    for a, b in pairs(config, names):
        for metric in METRICS:
            keys = [f"{name}/{metric}" for name in (a, b)]
            comparable = metric != "valid_loss" or unit(a) == unit(b)
            if comparable and all(key in kept for key in keys):
                found = change_over_seeds(*(kept[key] for key in keys))
                out |= {f"{a}_over_{b}/{metric}_{k}": v for k, v in found.items()}
        if len(kept[f"{a}/mean_error_mm"]) == 1:
            out |= _over_frames(f"{a}_over_{b}", errors[a], errors[b])
    return out


def _over_frames(name: str, one: Any, other: Any) -> dict[str, float]:
    out = {}
    for test, prefix in (("seen", ""), ("unseen", "unseen_")):
        first, second = one[test].mean(axis=1), other[test].mean(axis=1)
        if first.shape == second.shape:
            found = paired_bootstrap(first, second, np.ones(len(first)), num_resamples=_RESAMPLES)
            key = f"{name}/{prefix}mean_error_mm_frames"
            out[f"{key}_low"] = found.low / float(second.mean())
            out[f"{key}_high"] = found.high / float(second.mean())
    return out
