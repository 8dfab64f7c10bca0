import errno
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxcv.training import CheckpointError, Checkpoints, TrainState, create_state

IDENTITY = {"experiment": "toy", "run": "one"}


def state_at(step, optimizer=None, **params):
    params = params or {"dense": {"w": np.full((2, 3), step, np.float32)}, "b": (np.float32(1.5),)}
    state = create_state(jax.tree.map(jnp.asarray, params), optimizer or optax.adam(0.1))
    return state._replace(step=jnp.asarray(step, jnp.int32))


def assert_same(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.sgd(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adam(0.1), {"w": True})),
    ],
    ids=["adam", "sgd", "masked"],
)
def test_what_is_saved_is_restored(tmp_path, optimizer):
    checkpoints = Checkpoints(tmp_path / "one", IDENTITY)
    state = state_at(7, optimizer, w=np.asarray([1 / 3, np.nan, -0.0, 1e-45], np.float32))
    checkpoints.save(state, seconds=2.5)
    restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert restored is not None
    assert (restored.step, restored.seconds) == (7, 2.5)
    assert isinstance(restored.state, TrainState)
    assert_same(restored.state, state)


def test_many_dtypes_are_restored(tmp_path):
    with jax.enable_x64(True):
        state = TrainState(
            jnp.asarray(3, jnp.int32),
            {"half": jnp.asarray([1.5], jnp.bfloat16), "double": jnp.asarray([1 / 3])},
            (jnp.asarray([True, False]), {"key": jax.random.key(5)}, optax.EmptyState()),
        )
        checkpoints = Checkpoints(tmp_path, IDENTITY)
        checkpoints.save(state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
        assert restored is not None
        assert restored.state.params["double"].dtype == np.float64
        data = jax.random.key_data
        key = restored.state.optimizer_state[1]["key"]
        np.testing.assert_array_equal(data(key), data(jax.random.key(5)))
        assert_same(restored.state.params, state.params)


def test_the_latest_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, IDENTITY, keep=2)
    assert checkpoints.restore(state_at(0)) is None
    for step in (2, 4, 10):
        checkpoints.save(state_at(step))
    assert checkpoints.steps() == [4, 10]
    assert checkpoints.restore(state_at(0)).step == 10


def test_params_can_be_read_by_orbax_alone(tmp_path):
    Checkpoints(tmp_path, IDENTITY).save(state_at(3))
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(tmp_path / "3" / "state")
    np.testing.assert_array_equal(saved["params"]["dense"]["w"], np.full((2, 3), 3))


def truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])


def flip_a_bit(folder):
    # In the stored numbers: a whole, readable checkpoint with other contents.
    other = Checkpoints(folder.parent.parent / "other", IDENTITY)
    other.save(state_at(int(folder.name), dense={"w": np.full((2, 3), 9.5, np.float32)}, b=(1.0,)))
    (folder / "state").rename(folder.parent.parent / "old_state")
    (other.folder / folder.name / "state").rename(folder / "state")


def lose_metadata(folder):
    (folder / "metadata" / "metadata").write_text('{"identity": {"exp')


def lose_everything(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


# Orbax may close its event loop before the last reader of a torn file reports.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_metadata, lose_everything])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path / "run", IDENTITY)
    checkpoints.save(state_at(4))
    checkpoints.save(state_at(8))
    damage(checkpoints.folder / "8")
    before = files(checkpoints.folder)

    with caplog.at_level(logging.WARNING):
        restored = checkpoints.restore(state_at(0))
    assert restored is not None
    assert restored.step == 4
    assert_same(restored.state, state_at(4))
    assert str(checkpoints.folder / "8") in caplog.text
    assert files(checkpoints.folder) == before  # it was only read

    assert checkpoints.restore(state_at(0), repair=True).step == 4
    assert (checkpoints.folder / "8.unreadable").is_dir()
    checkpoints.save(state_at(8))
    assert checkpoints.restore(state_at(0)).step == 8


def test_a_checkpoint_under_another_step_is_not_taken(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state_at(4))
    checkpoints.save(state_at(8))
    (tmp_path / "8").rename(tmp_path / "12")
    assert checkpoints.restore(state_at(0)).step == 4
    assert "it is that of step 8" in caplog.text


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("deep", [False, True])
def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch, number, deep):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state_at(4), note="a note")
    before = files(tmp_path)

    def refuse(*_, **__):
        error = OSError(number, os.strerror(number), "some file")
        if deep:
            raise ValueError("tensorstore says so") from error
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "restore", refuse)
        with pytest.raises(CheckpointError, match=r"expected a checkpoint that can be read, got"):
            checkpoints.restore(state_at(0), repair=True)
        patch.setattr(ocp.CheckpointManager, "save", refuse)
        with pytest.raises(CheckpointError, match=r"expected to write a checkpoint, got"):
            checkpoints.save(state_at(8))
    assert files(tmp_path) == before
    restored = checkpoints.restore(state_at(0), repair=True)
    assert (restored.step, restored.note) == (4, "a note")


def test_half_written_checkpoint_is_not_seen_and_is_cleaned_up(tmp_path):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state_at(4))
    torn = tmp_path / "8.orbax-checkpoint-tmp"
    (torn / "state").mkdir(parents=True)
    assert checkpoints.steps() == [4]
    assert checkpoints.restore(state_at(0)).step == 4
    checkpoints.save(state_at(8))
    assert not torn.exists()
    assert checkpoints.steps() == [4, 8]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"w": np.zeros((2, 4), np.float32)}, r"float32\[2, 4\].*got.*float32\[2, 3\]"),
        ({"w": np.zeros((2, 3), np.float16)}, r"float16\[2, 3\].*got.*float32\[2, 3\]"),
        ({"v": np.zeros((2, 3), np.float32)}, r"got.*nothing"),
    ],
)
def test_checkpoint_of_another_model_is_an_error(tmp_path, params, expected):
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(state_at(4, w=np.zeros((2, 3), np.float32)))
    with pytest.raises(CheckpointError, match=expected) as error:
        checkpoints.restore(state_at(0, **params), repair=True)
    assert str(tmp_path) in str(error.value)
    assert "train into a new one" in str(error.value)
    assert checkpoints.steps() == [4]


def test_checkpoint_of_another_run_is_an_error(tmp_path):
    Checkpoints(tmp_path, IDENTITY).save(state_at(4))
    other = Checkpoints(tmp_path, IDENTITY | {"run": "two"})
    with pytest.raises(CheckpointError, match="expected a checkpoint with run 'two', got 'one'"):
        other.restore(state_at(0))
