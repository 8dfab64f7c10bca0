"""Labels of relative poses: every convention is recognised by matches, cycles close."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxcv.data.pose_labels import (
    CONVENTIONS,
    agreement,
    check_labels,
    relabelled,
)
from jaxcv.metrics.motion import cycle_errors
from jaxcv.systems.two_view import MatchArrays
from tests.geometry.test_epipolar import scene

# What turns right labels into those of a convention; each is its own inverse.
OTHERS = [name for name in CONVENTIONS if name != "as given"]


def labelled(count=4, outliers=0.3, matches=40):
    rng = np.random.default_rng(0)
    parts = [scene(seed, matches, 0.3, 3e-4) for seed in range(count)]
    points1 = np.stack([np.asarray(part[2]) for part in parts])
    points2 = np.stack([np.asarray(part[3]) for part in parts])
    wrong = int(outliers * matches)
    points2[:, :wrong] = rng.uniform(-0.5, 0.5, (count, wrong, 2))
    own = MatchArrays(
        jnp.asarray(points1, jnp.float32), jnp.asarray(points2, jnp.float32),
        np.zeros((count, matches)), np.ones((count, matches), bool),
        np.full(count, 500.0, np.float32),
    )  # fmt: skip
    rotation = np.stack([np.asarray(part[0]) for part in parts])
    return own, rotation, np.stack([np.asarray(part[1]) for part in parts])


def test_right_labels_pass():
    matches, rotation, direction = labelled()
    shares = agreement(matches, rotation, direction)
    assert shares["as given"] > 0.65
    assert max(shares[name] for name in OTHERS) < 0.3
    check_labels(matches, rotation, direction)


@pytest.mark.parametrize("convention", OTHERS)
def test_other_conventions_are_named(convention):
    matches, rotation, direction = labelled()
    r, t = relabelled(rotation, direction, convention)
    back = relabelled(r, t, convention)
    np.testing.assert_allclose(back[0], rotation, atol=1e-12)
    np.testing.assert_allclose(back[1], direction, atol=1e-12)
    with pytest.raises(ValueError, match=f"`edges`: expected x2 = R x1.*if '{convention}'"):
        check_labels(matches, r, t, "edges")


def test_too_few_matches_say_nothing():
    matches, rotation, direction = labelled(matches=8)
    assert agreement(matches, rotation, direction) == {}
    check_labels(matches, rotation, -direction)


def test_cycles():
    r = Rotation.random(5, np.random.default_rng(0)).as_matrix()
    pairs = np.array([[0, 1], [2, 1], [0, 2], [2, 3], [3, 0], [4, 0]])
    rotation = np.stack([r[j] @ r[i].T for i, j in pairs])
    errors = cycle_errors(pairs, rotation)
    assert errors.shape == (2,)  # 0 1 2 and 0 2 3
    np.testing.assert_allclose(errors, 0, atol=1e-5)
    rotation[0] = Rotation.from_rotvec([0, np.deg2rad(7), 0]).as_matrix() @ rotation[0]
    np.testing.assert_allclose(np.sort(cycle_errors(pairs, rotation)), [0, 7], atol=1e-5)
