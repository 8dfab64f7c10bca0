"""Disentanglement metrics on codes whose scores are known."""

import numpy as np
import pytest

from jaxcv.metrics.disentanglement import (
    cyclic_correlation,
    dci,
    distinct_views,
    explained,
    factorvae_score,
    mutual_information_gap,
    novel_views,
    rows_with_a_fixed_factor,
    sap,
    squared_correlations,
)

pytestmark = pytest.mark.optimised

RNG = np.random.default_rng(0)
FACTORS = np.stack([RNG.uniform(-1, 1, 600), RNG.uniform(0, 2, 600), RNG.integers(0, 4, 600)], 1)
DISCRETE = (False, False, True)
CLEAN = np.c_[3 * FACTORS[:, 1], -FACTORS[:, 0], FACTORS[:, 2], np.zeros(600)]  # one entry each
MIXED = np.c_[FACTORS, FACTORS[:, ::-1]] @ RNG.normal(size=(6, 4))
NOISE = RNG.normal(size=(600, 4))


def test_squared_correlations():
    table = squared_correlations(CLEAN, FACTORS)
    np.testing.assert_allclose(table[[1, 0, 2], [0, 1, 2]], 1)
    np.testing.assert_array_equal(table[3], 0)
    noisy = FACTORS[:, :1] + FACTORS[:, :1].std() * RNG.normal(size=(600, 1))
    assert squared_correlations(noisy, FACTORS[:, :1])[0, 0] == pytest.approx(0.5, abs=0.05)
    want = np.corrcoef(NOISE[:, 0], FACTORS[:, 0])[0, 1] ** 2
    assert squared_correlations(NOISE, FACTORS)[0, 0] == pytest.approx(want)


def test_dci():
    clean = dci(CLEAN, FACTORS, discrete=DISCRETE)
    assert clean[:3] == pytest.approx((1, 1, 1), abs=0.01)
    assert clean.importance.argmax(axis=0).tolist() == [1, 0, 2]
    twice = dci(np.c_[CLEAN[:, :2], CLEAN[:, 1:2]], FACTORS[:, :2])
    assert twice.disentanglement > 0.99
    # Two equal entries share one factor: 1 - log 2 / log 3 for it at most, 1 for the other.
    assert (1 - np.log(2) / np.log(3) + 1) / 2 - 0.01 < twice.completeness < 1.01
    mixed, noise = (dci(codes, FACTORS, discrete=DISCRETE) for codes in (MIXED, NOISE))
    assert mixed.disentanglement < 0.6
    assert noise.informativeness < 0.15
    assert noise.disentanglement < 0.1


def test_mutual_information_gap():
    discrete = FACTORS[:, 2:]
    assert mutual_information_gap(CLEAN, discrete, discrete=[True]) == pytest.approx(1, abs=0.05)
    assert mutual_information_gap(CLEAN, FACTORS, discrete=DISCRETE) > 0.9
    both = np.c_[CLEAN, CLEAN]
    assert mutual_information_gap(both, FACTORS, discrete=DISCRETE) == pytest.approx(0)
    assert mutual_information_gap(NOISE, FACTORS, discrete=DISCRETE) < 0.02


def test_sap():
    assert sap(CLEAN[:, :2], FACTORS[:, :2]) == pytest.approx(1, abs=0.01)
    assert sap(np.c_[CLEAN, CLEAN], FACTORS, discrete=DISCRETE) == pytest.approx(0)
    assert 0 <= sap(NOISE, FACTORS, discrete=DISCRETE) < 0.1


def fixed_batches(make, votes=300, size=32):
    rng = np.random.default_rng(1)
    fixed = rng.integers(0, 3, votes)
    factors = FACTORS[rng.integers(0, 600, (votes, size))]
    factors[np.arange(votes), :, fixed] = factors[np.arange(votes), :1, fixed]
    return make(factors), fixed


def test_factorvae_score():
    clean = lambda f: np.stack([3 * f[..., 1], -f[..., 0], f[..., 2], 0 * f[..., 0]], axis=-1)
    assert factorvae_score(CLEAN, *fixed_batches(clean)) == 1
    rng = np.random.default_rng(2)
    noise = lambda f: rng.normal(size=(*f.shape[:2], 4))
    assert factorvae_score(NOISE, *fixed_batches(noise)) < 0.55
    assert factorvae_score(0 * CLEAN, *fixed_batches(clean)) == 0


def test_one_entry_as_any_curve():
    rng = np.random.default_rng(3)
    angle = rng.uniform(-np.pi, np.pi, 800)
    assert explained(angle, angle, period=2 * np.pi) > 0.98
    assert explained(np.abs(angle), angle) < 0.05  # folded: the sign is lost
    half = explained(np.abs(angle), angle, period=2 * np.pi)
    assert 0.35 < half < 0.55  # the cosine is known, the sine is not
    jumps = np.where(angle > 0, angle, 9 + angle)
    assert explained(jumps, angle) > 0.98
    assert squared_correlations(jumps[:, None], angle[:, None])[0, 0] < 0.5
    assert explained(rng.normal(size=800), angle) == 0


def test_rows_that_share_a_factor():
    factors = np.c_[np.random.default_rng(0).uniform(size=300), np.arange(300) % 4]
    rows, fixed = rows_with_a_fixed_factor(factors, discrete=[False, True], count=40, size=9)
    assert rows.shape == (40, 9)
    assert np.bincount(fixed).tolist() == [20, 20]
    seen = factors[rows]
    assert (np.ptp(seen[fixed == 0][..., 0], axis=1) <= 0.1).all()
    assert (np.ptp(seen[fixed == 1][..., 1], axis=1) == 0).all()
    assert (np.ptp(seen[fixed == 1][..., 0], axis=1) > 0.2).all()
    assert factorvae_score(factors, factors[rows], fixed) == 1


def test_novel_views():
    codes = np.random.default_rng(0).normal(size=(6, 5, 3))
    codes[:, :, 1:] = codes[:, :1, 1:]  # between the views of a scene entry 0 changes
    mix = np.random.default_rng(1).normal(size=(3, 7))
    decode = lambda c: c @ mix
    images = decode(codes)
    views = novel_views(decode, codes, images, 0)
    assert views.swap == views.reconstruction == 0
    assert views.gain == 1
    change = (codes[:, 1:, 0] - codes[:, :1, 0])[..., None] * mix[0]
    assert views.copy == pytest.approx(np.mean(change**2))
    assert novel_views(decode, codes, images, 2).gain == 0
    half = novel_views(lambda c: (c * [0.5, 1, 1]) @ mix, codes, images, 0)
    assert half.gain == pytest.approx(1)
    assert half.reconstruction > 0


def test_no_gain_of_a_dead_code_and_scores_of_some_views():
    codes = np.random.default_rng(0).normal(size=(6, 5, 3))
    mix = np.random.default_rng(1).normal(size=(3, 7))
    images = codes @ mix
    dead = novel_views(lambda c: np.zeros((len(c), 7)), codes, images, 0)
    assert np.isnan(dead.gain)
    assert (
        dead.swap == dead.copy == dead.reconstruction == pytest.approx(np.mean(images[:, 1:] ** 2))
    )
    decode = lambda c: c @ mix
    views = novel_views(decode, codes, images, 0)
    assert np.isnan(novel_views(decode, codes, images, 0, smallest_gap=views.copy).gain)
    assert novel_views(decode, codes, images, 0, smallest_gap=0.99 * views.copy) == views
    scored = np.zeros((6, 4), bool)
    scored[2, 1] = scored[4, 3] = True
    some = novel_views(decode, codes, images, 0, scored=scored)
    apart = images[[2, 4], [2, 4]] - images[[2, 4], 0]
    assert some.copy == pytest.approx(np.mean(apart**2))
    moved = apart - (codes[[2, 4], [2, 4], 0] - codes[[2, 4], 0, 0])[:, None] * mix[0]
    assert some.swap == pytest.approx(np.mean(moved**2))


def test_distinct_views_count_the_jumps():
    smooth = np.linspace(0, 1, 9)[:, None, None] * np.ones((1, 4, 4))
    assert distinct_views(smooth) == pytest.approx(9)
    keys = np.repeat(np.eye(4), 5, axis=0)  # three jumps between four pictures
    assert distinct_views(keys) == pytest.approx(4)
    assert distinct_views(np.ones((5, 3))) == 1
    assert distinct_views(3 * smooth + 1) == pytest.approx(9)


def test_cyclic_correlation():
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, 2000)
    assert cyclic_correlation(2 * np.cos(angle - 0.7) + 5, angle) == pytest.approx(1)
    shifted = cyclic_correlation(angle, angle + 1)
    assert shifted == pytest.approx(cyclic_correlation(angle, angle))
    # the angle itself is 2 sum (-1)^(k+1) sin(k a) / k: its first term has 6 / pi^2 of the variance
    assert shifted == pytest.approx(6 / np.pi**2, abs=0.02)
    assert cyclic_correlation(np.cos(2 * angle), angle) < 0.01
    assert cyclic_correlation(np.ones(2000), angle) == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: dci(CLEAN[:5], FACTORS), r"`codes`: expected \(N, D\), and factors"),
        (lambda: sap(np.full((5, 2), np.nan), FACTORS[:5]), "`codes`: expected finite"),
        (lambda: sap(CLEAN, np.ones((600, 1))), "`factors`: expected factors that vary"),
        (lambda: sap(CLEAN[:, :1], FACTORS), "`codes`: expected two entries"),
        (lambda: dci(CLEAN, FACTORS, discrete=[True]), "`discrete`: expected 3 truth values"),
        (lambda: factorvae_score(CLEAN, np.ones((4, 1, 4)), np.zeros(4, int)), "`batches`"),
        (lambda: factorvae_score(CLEAN, np.ones((4, 3, 4)), np.zeros(4)), "`fixed`: expected int"),
        (lambda: novel_views(len, np.ones((2, 3, 4)), np.ones((2, 3)), 4), "`entry`: expected 0"),
        (lambda: distinct_views(np.ones((1, 4))), r"`images`: expected finite \(T, ...\)"),
        (
            lambda: novel_views(
                len, np.ones((2, 3, 4)), np.ones((2, 3)), 0, scored=[[False] * 2] * 2
            ),
            r"`scored`: expected \(2, 2\), some true",
        ),
        (lambda: novel_views(len, np.ones((2, 1, 4)), np.ones((2, 1)), 0), "`codes`: expected"),
    ],
)
def test_bad_input(run, message):
    with pytest.raises(ValueError, match=message):
        run()
