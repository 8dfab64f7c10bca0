"""Measures the time of a call."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["seconds_per_call"]


def seconds_per_call(call: Callable, *args: Any, repeats: int = 20, limit: float = 20.0) -> float:
    """Median wall time of `call(*args)` after a warm-up, in at most about `limit` seconds."""
    jax.block_until_ready(call(*args))
    times, begin = [], time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - begin < limit):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        times.append(time.perf_counter() - start)
    return float(np.median(times))
