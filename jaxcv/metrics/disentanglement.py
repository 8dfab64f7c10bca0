"""Disentanglement metrics: how well single latents predict single factors. Plain arrays in.

Codes (N, D) are the means of an encoder, D latents each; factors (N, K) are numbers. A factor is
discrete (an identity) if its flag in `discrete` is true, else continuous. Definitions follow
disentanglement_lib where it has them. Implementations of one name differ by orders of magnitude, so
each function states its own definition.

Sources: Eastwood and Williams, ICLR 2018 (DCI); Chen et al., NeurIPS 2018 (MIG); Kumar et al., ICLR
2018 (SAP); Kim and Mnih, ICML 2018 (FactorVAE score); Locatello et al., ICML 2019.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error

__all__ = [
    "DciScore", "NovelViews", "cyclic_correlation", "dci", "distinct_views", "explained",
    "factorvae_score", "mutual_information_gap", "novel_views", "rows_with_a_fixed_factor", "sap",
    "squared_correlations",
]  # fmt: skip

_STILL = 1e-12  # a latent with a variance up to this is constant
_PRUNED = 0.05  # standard deviation below which the FactorVAE score ignores a latent


class DciScore(NamedTuple):
    """Disentanglement, completeness and informativeness in [0, 1], and the importances (D, K)."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


class NovelViews(NamedTuple):
    """Mean squared errors of a scene's other views, decoded from its first view.

    Attributes:
        swap: decoded from the first view's code, with one latent of the other view.
        copy: decoded from the first view's code.
        reconstruction: decoded from the other view's code.
        gain: (copy - swap) / (copy - reconstruction): 1 if only this latent differs; nan where
            the denominator is not large enough for a quotient.
    """

    swap: float
    copy: float
    reconstruction: float
    gain: float


def _checked(
    codes: Any, factors: Any, discrete: Sequence[bool] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, factors = np.asarray(codes, float), np.asarray(factors, float)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 2:
        expected = "expected (N, D), and factors (N, K), with two samples or more"
        raise argument_error("codes", expected, (codes.shape, factors.shape))
    for name, value in (("codes", codes), ("factors", factors)):
        if not np.isfinite(value).all():
            raise argument_error(name, "expected finite values", "nan or inf")
    kinds = np.zeros(factors.shape[1], bool) if discrete is None else np.asarray(discrete, bool)
    if kinds.shape != factors.shape[1:]:
        raise argument_error("discrete", f"expected {factors.shape[1]} truth values", kinds.shape)
    if (np.ptp(factors, axis=0) == 0).any():
        still = np.flatnonzero(np.ptp(factors, axis=0) == 0).tolist()
        raise argument_error("factors", "expected factors that vary", f"constant columns {still}")
    numbered = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    return codes, np.where(kinds, np.stack(numbered, axis=1), factors), kinds


def squared_correlations(codes: Any, factors: Any) -> np.ndarray:
    """Pearson's r^2 of every latent and every factor, (D, K); 0 for constant latents."""
    codes, factors, _ = _checked(codes, factors, None)
    codes, factors = codes - codes.mean(axis=0), factors - factors.mean(axis=0)
    variance = np.outer((codes**2).mean(axis=0), (factors**2).mean(axis=0))
    product = (codes.T @ factors / len(codes)) ** 2
    seen = (codes**2).mean(axis=0)[:, None] > _STILL
    return np.where(seen, product / np.where(seen, variance, 1), 0)


def cyclic_correlation(code: Any, angle: Any) -> float:
    """R^2 of one latent (N,) on cos and sin of an angle (N,) [rad], by least squares.

    Unlike r^2 with the angle itself, it does not depend on where the circle is cut. 0 for a
    constant latent.
    """
    code, angle = np.ravel(code)[:, None], np.ravel(angle)[:, None]
    codes, angles, _ = _checked(code, angle, None)
    z = codes[:, 0] - codes[:, 0].mean()
    if np.mean(z**2) <= _STILL:
        return 0.0
    base = np.c_[np.cos(angles), np.sin(angles), np.ones(len(z))]
    rest = z - base @ np.linalg.lstsq(base, z, rcond=None)[0]
    return float(1 - np.sum(rest**2) / np.sum(z**2))


def explained(
    code: Any, factor: Any, *, period: float | None = None, train_share: float = 0.5, seed: int = 0
) -> float:
    """Held-out R^2, at least 0, of a factor predicted from one latent by gradient-boosted trees.

    Non-linear latents (|azimuth|, jumps) are scored too, not only linear ones.

    Args:
        code: (N,).
        factor: (N,).
        period: of a cyclic factor, scored by the mean R^2 of its cosine and sine.
        train_share: fraction of the samples to fit.
        seed: of the split and the trees.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    code, factor = np.ravel(code)[:, None], np.ravel(factor)[:, None]
    codes, factors, _ = _checked(code, factor, None)
    turn = 2 * np.pi * factors[:, 0] / period if period is not None else None
    goals = [factors[:, 0]] if turn is None else [np.cos(turn), np.sin(turn)]
    train, test = _split(len(codes), train_share, seed)
    scores = []
    for goal in goals:
        model = GradientBoostingRegressor(random_state=seed).fit(codes[train], goal[train])
        scores.append(model.score(codes[test], goal[test]))
    return max(0.0, float(np.mean(scores)))


def _split(count: int, train_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)
    cut = round(train_share * count)
    if min(cut, count - cut) < 2:
        raise argument_error("train_share", "expected two samples or more on each side", cut)
    return order[:cut], order[cut:]


def dci(
    codes: Any,
    factors: Any,
    *,
    discrete: Sequence[bool] | None = None,
    train_share: float = 2 / 3,
    seed: int = 0,
) -> DciScore:
    """Disentanglement, completeness, informativeness by gradient-boosted trees.

    Factor k has one regressor (a classifier if discrete), with importances R[d, k] >= 0. With H the
    entropy of a normalised row or column, to the base of its length,

        disentanglement = sum_d w_d (1 - H(R[d, :])), w_d = sum_k R[d, k] / sum R,
        completeness = sum_k v_k (1 - H(R[:, k])), v_k = sum_d R[d, k] / sum R,

    and informativeness is the mean over factors of the held-out R^2 (accuracy if discrete), each at
    least 0.

    Args:
        codes: (N, D).
        factors: (N, K).
        discrete: (K,).
        train_share: fraction of the samples to fit.
        seed: of the split and the trees.
    """
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    codes, factors, kinds = _checked(codes, factors, discrete)
    train, test = _split(len(codes), train_share, seed)
    importance = np.zeros((codes.shape[1], factors.shape[1]))
    scores = []
    for k, kind in enumerate(kinds):
        model = (GradientBoostingClassifier if kind else GradientBoostingRegressor)(
            random_state=seed
        )
        model.fit(codes[train], factors[train, k])
        importance[:, k] = np.abs(model.feature_importances_)
        scores.append(max(0.0, model.score(codes[test], factors[test, k])))
    total = importance.sum()
    if total == 0:
        return DciScore(0.0, 0.0, float(np.mean(scores)), importance)
    rows = _certainty(importance) @ (importance.sum(axis=1) / total)
    columns = _certainty(importance.T) @ (importance.sum(axis=0) / total)
    return DciScore(float(rows), float(columns), float(np.mean(scores)), importance)


def _certainty(weights: np.ndarray) -> np.ndarray:
    """1 minus the entropy of each normalised row, to the base of its length."""
    if weights.shape[1] == 1:
        return np.ones(len(weights))
    p = weights + 1e-11
    p = p / p.sum(axis=1, keepdims=True)
    return 1 + (p * np.log(p)).sum(axis=1) / np.log(p.shape[1])


def mutual_information_gap(
    codes: Any,
    factors: Any,
    *,
    discrete: Sequence[bool] | None = None,
    bins: int = 20,
    factor_bins: int = 10,
) -> float:
    """MIG: the mean over factors of (I_1 - I_2) / H, from histograms.

    I_1 >= I_2 are the two largest mutual informations [nats] of a latent and the factor, H is the
    factor's entropy. Latents are cut into `bins` of equal width, continuous factors into
    `factor_bins`.
    """
    from sklearn.metrics import mutual_info_score

    codes, factors, kinds = _checked(codes, factors, discrete)
    if codes.shape[1] < 2:
        raise argument_error("codes", "expected two entries or more", codes.shape)
    cut = [_binned(column, bins) for column in codes.T]
    gaps = []
    for kind, factor in zip(kinds, factors.T, strict=True):
        label = factor if kind else _binned(factor, factor_bins)
        known = sorted(mutual_info_score(label, column) for column in cut)
        gaps.append((known[-1] - known[-2]) / mutual_info_score(label, label))
    return float(np.mean(gaps))


def _binned(x: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(x, np.histogram(x, bins)[1][:-1])


def sap(codes: Any, factors: Any, *, discrete: Sequence[bool] | None = None) -> float:
    """SAP: the mean over factors of the best latent's score minus the second best's.

    The score is r^2 for a continuous factor; for a discrete factor, the training accuracy of a
    linear support vector classifier (C = 0.01, balanced) on that latent alone.
    """
    codes, factors, kinds = _checked(codes, factors, discrete)
    if codes.shape[1] < 2:
        raise argument_error("codes", "expected two entries or more", codes.shape)
    scores = squared_correlations(codes, factors)
    for k in np.flatnonzero(kinds):
        scores[:, k] = [_accuracy(column[:, None], factors[:, k]) for column in codes.T]
    ordered = np.sort(scores, axis=0)
    return float(np.mean(ordered[-1] - ordered[-2]))


def _accuracy(column: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=0.01, class_weight="balanced", random_state=0)
    return float(model.fit(column, labels).score(column, labels))


def factorvae_score(codes: Any, batches: Any, fixed: Any, *, train_share: float = 2 / 3) -> float:
    """FactorVAE: accuracy of the fixed factor, predicted from a batch's least varying latent.

    Latents with a standard deviation below 0.05 over `codes` are ignored. Each batch votes for the
    latent of smallest variance relative to `codes`. The first batches assign every latent the most
    frequent fixed factor of its votes; the score is the accuracy of this assignment on the other
    batches, or 0 if all latents are ignored.

    Args:
        codes: (N, D), for the variances.
        batches: (V, L, D) codes of batches of L samples.
        fixed: (V,) index of the factor that each batch fixes, in random order.
        train_share: fraction of the batches for the assignment.
    """
    codes, batches, fixed = np.asarray(codes, float), np.asarray(batches, float), np.asarray(fixed)
    if batches.ndim != 3 or batches.shape[1] < 2 or codes.ndim != 2:
        expected = "expected (V, L, D) with L of two or more, and codes (N, D)"
        raise argument_error("batches", expected, (batches.shape, codes.shape))
    if batches.shape[2] != codes.shape[1] or fixed.shape != (len(batches),):
        expected = f"expected (V, L, {codes.shape[1]}) and fixed (V,)"
        raise argument_error("batches", expected, (batches.shape, fixed.shape))
    if not np.issubdtype(fixed.dtype, np.integer) or fixed.min() < 0:
        raise argument_error("fixed", "expected integers of 0 or more", fixed.dtype)
    used = codes.std(axis=0, ddof=1) >= _PRUNED
    if not used.any():
        return 0.0
    spread = batches[..., used].var(axis=1, ddof=1) / codes[:, used].var(axis=0, ddof=1)
    votes = spread.argmin(axis=1)
    cut = round(train_share * len(votes))
    table = np.zeros((int(used.sum()), int(fixed.max()) + 1), int)
    np.add.at(table, (votes[:cut], fixed[:cut]), 1)
    return float(np.mean(table.argmax(axis=1)[votes[cut:]] == fixed[cut:]))


def rows_with_a_fixed_factor(
    factors: Any,
    *,
    discrete: Sequence[bool] | None = None,
    count: int = 1200,
    size: int = 64,
    bins: int = 10,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws batches for `factorvae_score` from existing samples.

    Each fixes one factor, in a balanced random order. Its samples are drawn with replacement from
    those with the value of a random sample (for continuous factors, in its bin of equal width).

    Args:
        factors: (N, K).
        discrete: (K,).
        count: V, number of batches.
        size: L, samples per batch.
        bins: number of bins of continuous factors.
        seed: of the draws.

    Returns:
        rows (V, L) and fixed (V,).
    """
    _, factors, kinds = _checked(factors, factors, discrete)
    rng = np.random.default_rng(seed)
    labels = [
        column if kind else _binned(column, bins)
        for kind, column in zip(kinds, factors.T, strict=True)
    ]
    fixed = rng.permutation(np.arange(count) % len(labels))
    rows = []
    for k in fixed:
        same = np.flatnonzero(labels[k] == labels[k][rng.integers(len(factors))])
        rows.append(rng.choice(same, size))
    return np.array(rows), fixed


def distinct_views(images: Any) -> float:
    """Effective number of different images along a sweep of T images (T, ...).

    1 + (sum_t d_t)^2 / sum_t d_t^2, with d_t the root mean square difference of images t and t + 1:
    T if every step changes the image alike, k + 1 if k equal jumps do all, 1 if nothing changes.
    """
    images = np.asarray(images, float)
    if images.ndim < 2 or len(images) < 2 or not np.isfinite(images).all():
        raise argument_error("images", "expected finite (T, ...), two or more", images.shape)
    steps = np.diff(images.reshape(len(images), -1), axis=0)
    squared = np.mean(steps**2, axis=1)
    if squared.sum() == 0:
        return 1.0
    return float(1 + np.sqrt(squared).sum() ** 2 / squared.sum())


def novel_views(
    decode: Callable[[np.ndarray], Any],
    codes: Any,
    images: Any,
    entry: int,
    *,
    scored: Any = None,
    smallest_gap: float = 0.0,
) -> NovelViews:
    """Errors of a scene's other views, decoded from its first view with one latent exchanged.

    Args:
        decode: codes (M, D) -> images (M, ...).
        codes: (S, V, D) of V views of S scenes, between which one factor changes.
        images: (S, V, ...).
        entry: index of the latent to exchange.
        scored: (S, V - 1) true for the views after the first that count; None: all.
        smallest_gap: copy - reconstruction up to which there is no gain: a code that is dead, or
            the same for all views, makes the quotient meaningless.
    """
    codes, images = np.asarray(codes), np.asarray(images)
    if codes.ndim != 3 or codes.shape[1] < 2 or images.shape[:2] != codes.shape[:2]:
        expected = "expected (S, V, D) with two views or more, and images (S, V, ...)"
        raise argument_error("codes", expected, (codes.shape, images.shape))
    if not 0 <= entry < codes.shape[2]:
        raise argument_error("entry", f"expected 0 to {codes.shape[2] - 1}", entry)
    first = np.repeat(codes[:, :1], codes.shape[1] - 1, axis=1)
    other = codes[:, 1:]
    swapped = first.copy()
    swapped[..., entry] = other[..., entry]
    kept = np.ones(other.shape[:2], bool) if scored is None else np.asarray(scored, bool)
    if kept.shape != other.shape[:2] or not kept.any():
        expected = f"expected {other.shape[:2]}, some true"
        raise argument_error("scored", expected, (kept.shape, int(kept.sum())))
    target = images[:, 1:][kept]

    def error(code: np.ndarray) -> float:
        made = np.asarray(decode(code[kept]))
        return float(np.mean((made.reshape(target.shape) - target) ** 2))

    swap, copy, reconstruction = error(swapped), error(first), error(other)
    apart = copy - reconstruction
    gain = (copy - swap) / apart if apart > smallest_gap else float("nan")
    return NovelViews(swap, copy, reconstruction, gain)
