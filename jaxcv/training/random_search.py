"""Random search in rounds: ranges shrink around the best samples.

Source: Kazakos, MSc thesis, 2017, section 4.4.1; Bergstra and Bengio, JMLR 2012.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_choice

__all__ = ["SearchRange", "draw_settings", "shrink_ranges"]

SCALES = ("linear", "log", "log_complement")
_BEST = 0.2  # fraction of the samples that spans the next range
_PADDING = 0.1  # on each side, over the current width
_LEAST = 0.1  # smallest width, over the first


class SearchRange(NamedTuple):
    """The range of a setting, sampled uniformly on its scale.

    Attributes:
        lower: lower bound.
        upper: upper bound.
        scale: `linear`, `log`, or `log_complement`, the logarithm of 1 - x (for a momentum).
    """

    lower: float
    upper: float
    scale: str = "linear"

    def to_scale(self, x: Any) -> np.ndarray:
        """Maps values to the scale."""
        x = np.asarray(x, float)
        if self.scale == "log":
            return np.log10(x)
        return -np.log10(1 - x) if self.scale == "log_complement" else x

    def of_scale(self, s: Any) -> np.ndarray:
        """The inverse of `to_scale`."""
        s = np.asarray(s, float)
        if self.scale == "log":
            return 10.0**s
        return 1 - 10.0**-s if self.scale == "log_complement" else s

    def ends(self) -> tuple[float, float]:
        """Both ends on the scale."""
        return float(self.to_scale(self.lower)), float(self.to_scale(self.upper))


def _check(ranges: Mapping[str, SearchRange]) -> None:
    for name, one in ranges.items():
        check_choice(f"{name}.scale", one.scale, SCALES)
        with np.errstate(all="ignore"):
            lower, upper = one.ends()
        if not (np.isfinite([lower, upper]).all() and lower < upper):
            expected = f"expected two numbers in order that the scale {one.scale!r} can show"
            raise argument_error(name, expected, (one.lower, one.upper))


def draw_settings(
    rng: np.random.Generator, ranges: Mapping[str, SearchRange], count: int
) -> dict[str, np.ndarray]:
    """Samples `count` settings, name -> (count,)."""
    _check(ranges)
    out = {}
    for name, one in ranges.items():
        lower, upper = one.ends()
        out[name] = np.clip(one.of_scale(rng.uniform(lower, upper, count)), one.lower, one.upper)
    return out


def shrink_ranges(
    ranges: Mapping[str, SearchRange],
    first: Mapping[str, SearchRange],
    settings: Mapping[str, np.ndarray],
    scores: np.ndarray,
) -> dict[str, SearchRange]:
    """The ranges of the next round: the span of the best fifth of the samples, padded.

    Padding is a tenth of the current width on each side, on the scale. Ranges narrower than a tenth
    of the first are widened, then clipped to the first; without a finite score nothing changes.

    Args:
        ranges: of this round.
        first: of the first round.
        settings: name -> (K,) of this round.
        scores: (K,), lower is better; nan or inf: diverged.
    """
    _check(ranges)
    scores = np.where(np.isfinite(scores), scores, np.inf)
    order = np.argsort(scores, kind="stable")
    best = order[: max(2, round(_BEST * len(scores)))]
    best = best[np.isfinite(scores[best])]
    if not len(best):
        return dict(ranges)
    out = {}
    for name, one in ranges.items():
        low, high = one.ends()
        first_low, first_high = first[name].ends()
        own = one.to_scale(settings[name])[best]
        start, end = own.min() - _PADDING * (high - low), own.max() + _PADDING * (high - low)
        short = max(0.0, _LEAST * (first_high - first_low) - (end - start))
        start, end = start - 0.5 * short, end + 0.5 * short
        start, end = max(start, first_low), min(end, first_high)
        lower, upper = (float(x) for x in one.of_scale([start, end]))
        out[name] = SearchRange(max(lower, first[name].lower), min(upper, first[name].upper),
                                one.scale)  # fmt: skip
    return out
