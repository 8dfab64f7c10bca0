"""The accuracy of a result on the test problems: `digits` and `nature`."""

import numpy as np

__all__ = ["SOLVED", "digits", "nature"]

SOLVED = 6  # digits that a solved problem has
_REDUCTION = 1e-8
_MAX_DIGITS = 15.0


def _unit(minimum, start):
    return max(abs(minimum), _REDUCTION * (start - minimum), 1e-300)


def digits(value: float, start: float, minima: tuple[float, ...]) -> float:
    """Correct digits of an energy, against the nearest listed minimum f*; from 0 to 15.

        -log10(|f - f*| / max(|f*|, 1e-8 (f(start) - f*)))

    The second term is for f* = 0: six digits are then 1e-14 of the energy at the start. The
    measure does not change when the energy is multiplied by a number.
    """
    if not np.isfinite(value):
        return 0.0
    error = min(abs(value - minimum) / _unit(minimum, start) for minimum in minima)
    return float(np.clip(-np.log10(max(error, 1e-300)), 0, _MAX_DIGITS))


def nature(
    value: float, gradient: np.ndarray, hessian: np.ndarray, start: float, minima: tuple[float, ...]
) -> str:
    """What kind of point a result is: `listed`, `minimum` (not listed), `saddle` or `none`.

    A point is stationary where a Newton step, with the absolute eigenvalues of the scaled Hessian,
    predicts a decrease below the sixth digit. Its Hessian must then be positive semi-definite to
    rounding. Both conditions are invariant to the scale of each unknown.
    """
    if digits(value, start, minima) >= SOLVED:
        return "listed"
    if not (np.isfinite(value) and np.all(np.isfinite(gradient)) and np.all(np.isfinite(hessian))):
        return "none"
    scale = np.sqrt(np.abs(np.diag(hessian)))
    scale = 1 / np.where(scale > 0, scale, 1)
    eigenvalues, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    floor = 1e-14 * max(np.max(np.abs(eigenvalues)), 1e-300)
    components = vectors.T @ (scale * gradient)
    decrease = np.sum(components**2 / np.maximum(np.abs(eigenvalues), floor)) / 2
    if decrease > 10.0**-SOLVED * _unit(value, start):
        return "none"
    return "saddle" if eigenvalues[0] < -1e-10 * max(eigenvalues[-1], floor) else "minimum"
