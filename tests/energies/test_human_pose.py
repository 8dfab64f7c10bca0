"""The pose energy: its rows, groups and bounds, the elimination, and the two gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcv import Damping, argmin_least_squares
from jaxcv.energies import human_pose as energy
from jaxcv.energies.human_pose_search import RIDGE, search
from jaxcv.least_squares.kernels import PseudoHuber
from jaxcv.linear.structure import Arrow
from jaxcv.solvers import GaussNewton
from tests.helpers import assert_close, random_direction

VIEWS = 4


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def some_model(num=2):
    """A model without structure: random means and bases, cameras around a circle."""
    rng = np.random.default_rng(0)
    bases = np.linalg.qr(rng.normal(size=(num, 51, 25)))[0].swapaxes(1, 2)
    angles = np.pi / 4 + np.pi / 2 * np.arange(VIEWS)
    zero, one = np.zeros(VIEWS), np.ones(VIEWS)
    right = np.stack([-np.sin(angles), np.cos(angles), zero], -1)
    forward = np.stack([-np.cos(angles), -np.sin(angles), zero], -1)
    cameras = np.stack([right, np.stack([zero, zero, -one], -1), forward], 1)
    mean = 300 * rng.normal(size=(num, 17, 3))
    return energy.PoseModel(
        *map(
            jnp.asarray,
            (
                mean - mean.mean(1, keepdims=True),
                bases.reshape(num, 25, 17, 3),
                np.sort(rng.uniform(0.002, 0.04, (num, 25))),
                rng.uniform(0.05, 0.09, num),
                cameras,
                1440.0,
            ),
        )
    )


def some_problem(component=0, num_frames=2):
    """Terms of one component, angles, points and what is visible."""
    model = some_model()
    rng = np.random.default_rng(1)
    parameters = energy.initial_parameters(model)
    parameters = jax.tree.map(lambda x: x * (1 + 0.05 * rng.normal(size=x.shape)), parameters)
    points = jnp.asarray(rng.normal(size=(num_frames, VIEWS, 17, 2)))
    visible = jnp.asarray(rng.random((num_frames, VIEWS, 17)) < 0.85)
    return parameters, model, component, jnp.array([0.3, 2.0, 4.5]), points, visible


def terms_of(parameters, model, component):
    terms = energy.pose_terms(parameters, model)
    pick = lambda leaf: leaf[component]
    return energy.PoseTerms(*(
        leaf if name in ("target", "cameras") else pick(leaf)
        for name, leaf in terms._asdict().items()
    ))  # fmt: skip


def energy_of(terms, angle, points, visible, robust):
    """E as a function of one vector (80,), from the rows as they are written down."""
    rotation = energy.rotations_about_vertical(angle)
    if not robust:
        terms = terms._replace(prior_weight=jnp.ones(()))

    def of(x):
        pose = {"coefficients": x[:29], "joints": x[29:].reshape(17, 3)}
        rows = energy.pose_residual(pose, terms, rotation, points, visible, RIDGE * robust)
        square = jnp.sum(rows.pop("reprojection") ** 2, axis=-1)
        rest = 0.5 * sum(jnp.sum(row**2) for row in rows.values())
        if not robust:
            return rest + 0.5 * jnp.sum(square)
        return rest + terms.width**2 * jnp.sum(jnp.sqrt(1 + square / terms.width**2) - 1)

    return of


def vector(found, frame, angle, angles):
    """(80,) of one lane; the search returns R q."""
    rotation = energy.rotations_about_vertical(angles[angle])
    joints = found.joints[frame, angle] @ rotation
    return jnp.concatenate([found.coefficients[frame, angle], joints.ravel()])


@pytest.mark.slow
@pytest.mark.parametrize("robust", [False, True])
def test_the_search_finds_the_minimum_of_the_energy_as_it_is_written_down(robust):
    *made, angles, points, visible = some_problem()
    terms = terms_of(*made)
    gradient = "implicit" if robust else "unrolled"
    found = search(terms, angles, points, visible, robust=robust, passes=30, gradient=gradient)
    for frame, angle in ((0, 0), (1, 2)):
        function = energy_of(terms, angles[angle], points[frame], visible[frame], robust)
        x = vector(found, frame, angle, angles)
        step = jnp.linalg.solve(jax.hessian(function)(x), jax.grad(function)(x))
        assert np.linalg.norm(step) < 1e-9 * np.linalg.norm(x)
        ridge = 0.5 * RIDGE * robust * jnp.sum(x**2)
        want = (function(x) - ridge) * (1 if robust else 2)
        np.testing.assert_allclose(found.score[frame, angle], want, rtol=1e-9)
    assert np.all(found.slope < 1e-9)


@pytest.mark.slow
def test_one_pass_is_the_dense_weighted_normal_equations():
    """What the release computes: (A^T W A + l I)^-1 A^T W b of the 216 x 80 system, three times."""
    *made, angles, points, visible = some_problem(1)
    terms = terms_of(*made)
    found = search(terms, angles, points, visible, passes=3)
    rotation = energy.rotations_about_vertical(angles[1])
    plain = terms._replace(prior_weight=jnp.ones(()))

    def rows(x):
        pose = {"coefficients": x[:29], "joints": x[29:].reshape(17, 3)}
        rows = energy.pose_residual(pose, plain, rotation, points[0], visible[0])
        return jnp.concatenate([rows[k].ravel() for k in ("model", "reprojection", "prior")])

    a, b = np.asarray(jax.jacfwd(rows)(jnp.zeros(80))), -np.asarray(rows(jnp.zeros(80)))
    assert a.shape == (51 + 34 * VIEWS + 29, 80)
    weights, x = np.ones(len(a)), None
    for _ in range(4):
        x = np.linalg.solve(a.T * weights @ a + RIDGE * np.eye(80), a.T * weights @ b)
        square = ((a @ x - b)[51:-29].reshape(-1, 2) ** 2).sum(1)
        light = np.repeat(1 / np.sqrt(1 + square / float(terms.width) ** 2), 2)
        weights = np.concatenate([np.ones(51), light, np.full(29, terms.prior_weight)])
    np.testing.assert_allclose(vector(found, 0, 1, angles), x, rtol=1e-8, atol=1e-10)


def loss_of(model, component, angles, points, visible, **settings):
    def loss(parameters):
        found = search(terms_of(parameters, model, component), angles, points, visible, **settings)
        joints = jnp.sum(jnp.sin(found.joints)) + jnp.sum(jnp.cos(3 * found.coefficients))
        return joints + jnp.sum(found.score**2)

    return loss


@pytest.mark.slow
def test_implicit_and_unrolled_gradients_agree_at_the_minimum_and_with_differences():
    parameters, *rest = some_problem(num_frames=1)
    gradients = {}
    for gradient, passes in (("implicit", 3), ("unrolled", 60)):
        loss = jax.jit(loss_of(*rest, gradient=gradient, passes=passes))
        gradients[gradient] = jax.grad(loss)(parameters)
    assert_close(gradients["implicit"], gradients["unrolled"], 1e-6)
    direction = random_direction(parameters, jax.random.key(2))
    move = lambda h: loss(jax.tree.map(lambda x, d: x + h * d, parameters, direction))
    pairs = zip(jax.tree.leaves(gradients["implicit"]), jax.tree.leaves(direction), strict=True)
    exact = sum(float(jnp.vdot(a, b)) for a, b in pairs)
    got = float(move(1e-5) - move(-1e-5)) / 2e-5
    assert abs(got - exact) < 1e-5 * abs(exact)


@pytest.mark.slow
@pytest.mark.parametrize("robust", [False, True])
def test_the_implicit_gradient_is_that_of_argmin(robust):
    """The structured rule against the library's own, damped, on one lane."""
    parameters, model, component, angles, points, visible = some_problem(num_frames=1)
    angles = angles[1:2]
    rotation = energy.rotations_about_vertical(angles[0])

    def residual(pose, theta, points, visible):
        return energy.pose_residual(pose, theta, rotation, points, visible, RIDGE * robust)

    def by_argmin(parameters):
        own = terms_of(parameters, model, component)
        if not robust:
            own = own._replace(prior_weight=jnp.ones(()))
        kernel = {"reprojection": PseudoHuber(own.width, block_ndim=1)} if robust else None
        start = {"coefficients": jnp.zeros(29), "joints": jnp.zeros((17, 3))}
        pose = argmin_least_squares(
            residual, start, own, (points[0], visible[0]), solver=GaussNewton(),
            kernel=kernel, structure=Arrow("joints", "coefficients"), damping=Damping(0.02),
        ).value  # fmt: skip
        joints = pose["joints"] @ rotation.T
        return jnp.sum(jnp.sin(joints)) + jnp.sum(jnp.cos(3 * pose["coefficients"]))

    def by_search(parameters):
        found = search(
            terms_of(parameters, model, component), angles, points, visible, robust=robust,
            gradient="implicit", damping=0.02,
        )  # fmt: skip
        return jnp.sum(jnp.sin(found.joints)) + jnp.sum(jnp.cos(3 * found.coefficients))

    ours, theirs = (jax.value_and_grad(f)(parameters) for f in (by_search, by_argmin))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-8)
    assert_close(ours[1], theirs[1], 1e-6)


@pytest.mark.slow
def test_the_model_alone_is_the_limit_of_a_heavy_model_term():
    """Without a free pose the joints are those of the coefficients."""
    *made, angles, points, visible = some_problem()
    terms = terms_of(*made)
    found = search(terms, angles, points, visible, robust=False, free_pose=False)
    modelled = jnp.einsum("fri,ija->frja", found.coefficients, terms.basis)
    turned = jnp.einsum("rab,frjb->frja", energy.rotations_about_vertical(angles), modelled)
    np.testing.assert_allclose(found.joints, turned, atol=1e-9)
    assert np.all(found.slope < 1e-9)


def test_groups_have_the_published_sizes():
    model = some_model()._replace(
        mean_poses=jnp.ones((3, 17, 3)), bases=jnp.ones((3, 25, 17, 3)),
        precisions=jnp.ones((3, 25)), noise_precision=jnp.ones(3),
    )  # fmt: skip
    parameters = energy.initial_parameters(model)
    sizes = {
        group: sum(getattr(parameters, name).size for name in names)
        for group, names in energy.GROUPS.items()
    }
    assert sizes == {
        "body_models": 3978, "covariance": 2523, "reprojection": 102, "cameras": 36,
        "fusion": 9, "huber": 6, "scaling": 8,
    }  # fmt: skip
    assert sorted(sum(energy.GROUPS.values(), ())) == sorted(energy.PoseParameters._fields)
    flags = energy.trainable(("cameras", "huber"))
    chosen = {name for name, flag in flags._asdict().items() if flag}
    assert chosen == {"cameras", "huber_width", "prior_weight"}
    with pytest.raises(ValueError, match="`groups`: expected one of 'body_models'"):
        energy.trainable(("bodies",))


def test_initial_parameters_give_back_the_model():
    model = some_model()
    for compatibility, scale in ((False, (10, 1)), (True, (1, 10))):
        parameters = energy.initial_parameters(model, compatibility=compatibility)
        terms = energy.pose_terms(parameters, model, compatibility=compatibility)
        np.testing.assert_allclose(terms.basis[:, 0], model.mean_poses, rtol=1e-12)
        np.testing.assert_allclose(terms.basis[:, 4:], model.bases, rtol=1e-12)
        diagonal = jnp.diagonal(terms.prior, axis1=1, axis2=2)
        np.testing.assert_allclose(diagonal[:, 4:], scale[0] * model.precisions, rtol=1e-12)
        np.testing.assert_allclose(
            terms.weights[:, 0, 0], scale[1] * model.noise_precision, rtol=1e-12
        )
        np.testing.assert_allclose(terms.cameras, model.cameras)


def test_the_exchange_of_the_release_is_under_its_switch():
    model = some_model()
    parameters = energy.initial_parameters(model)._replace(
        huber_width=jnp.full(2, 2.0), prior_weight=jnp.full(2, 3.0)
    )
    right = energy.pose_terms(parameters, model)
    swapped = energy.pose_terms(parameters, model, compatibility=True)
    np.testing.assert_allclose([right.width[0], right.prior_weight[0]], [0.2, 2.25], rtol=1e-6)
    np.testing.assert_allclose([swapped.width[0], swapped.prior_weight[0]], [0.3, 1.5], rtol=1e-6)
    wild = parameters._replace(regularisation=jnp.full((2, 29, 29), 50.0), huber_width=-jnp.ones(2))
    assert float(jnp.max(energy.constrain(wild).regularisation)) == 50
    assert float(jnp.max(energy.constrain(wild, compatibility=True).regularisation)) == 5
    np.testing.assert_allclose(energy.constrain(wild).huber_width, 1e-3, rtol=1e-6)


def test_normalised_points_have_height_two_and_ignore_what_is_not_seen():
    rng = np.random.default_rng(3)
    points = rng.uniform(100, 900, (2, VIEWS, 17, 2))
    visible = rng.random((2, VIEWS, 17)) < 0.7
    out, seen = energy.normalise_points(jnp.asarray(points), jnp.asarray(visible))
    np.testing.assert_array_equal(seen, visible)
    for f, v in np.ndindex(2, VIEWS):
        own = np.asarray(out[f, v])[visible[f, v]]
        np.testing.assert_allclose(np.ptp(own[:, 1]), 2, rtol=1e-12)
        np.testing.assert_allclose(own.mean(0), 0, atol=1e-12)
        turned = points[f, v][visible[f, v]]
        np.testing.assert_array_equal(np.sign(own[0] - own[1]), np.sign(turned[1] - turned[0]))
    wild = np.where(visible[..., None], points, np.nan)
    again, seen_again = energy.normalise_points(jnp.asarray(wild), jnp.ones_like(visible))
    np.testing.assert_array_equal(seen_again, visible)
    np.testing.assert_array_equal(again, out)
    flat = points.copy()
    flat[0, 1] = 300.0
    _, seen = energy.normalise_points(jnp.asarray(flat), jnp.asarray(visible))
    assert not seen[0, 1].any()
    np.testing.assert_array_equal(seen[1], visible[1])


def test_limbs_are_trees_of_the_joints():
    assert sorted(child for _, child in energy.LIMBS) == list(range(1, 17))
    pose = np.zeros((17, 3))
    for i, (parent, child) in enumerate(energy.LIMBS):
        pose[child] = pose[parent] + [i + 1, 0, 0]
    want = np.sqrt(sum((i + 1) ** 2 for i in range(16)))
    np.testing.assert_allclose(energy.limb_norm(jnp.asarray(pose)), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, p: energy.pose_terms(p._replace(cameras=p.cameras[:2]), m),
            "parameters.cameras",
        ),
        (lambda m, p: energy.pose_terms(p, m._replace(bases=m.bases[:, :3])), "model.bases"),
        (lambda m, p: energy.limb_norm(jnp.zeros((16, 3))), "`poses`: expected"),
        (
            lambda m, p: energy.normalise_points(jnp.zeros((4, 16, 2)), jnp.ones((4, 16), bool)),
            "`points`: expected",
        ),
    ],
)
def test_bad_input(call, message):
    model = some_model()
    with pytest.raises(ValueError, match=message):
        call(model, energy.initial_parameters(model))
