"""Checkpoints of a training state: atomic, checked, and never taken for those of another model."""

import errno
import hashlib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxcv.training.state import TrainState, leaf_shapes

__all__ = ["CheckpointError", "Checkpoints", "Restored"]

_logger = logging.getLogger(__name__)

# A failing device, rights, limits of the system: the file may well be sound.
_REFUSED = frozenset({
    errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
    errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN,
})  # fmt: skip
_HINT = "Give the folder that belongs to this model, or train into a new one."


class CheckpointError(ValueError):
    """A checkpoint is missing, or it is of another model."""


class _DamagedError(Exception):
    """A checkpoint was read, and is not what was saved."""


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: the tree of NumPy arrays that was saved.
        step: the number of updates.
        seconds: the time that the training took up to here, over all its runs.
        note: what was saved with it.
    """

    state: TrainState
    step: int
    seconds: float
    note: str = ""


class Checkpoints:
    """The checkpoints of one training, in one folder: `<folder>/<step>`, written by orbax.

    A checkpoint appears under its name only when it is complete. It carries its identity, the
    shapes and dtypes of the state, and a digest of its numbers. One that is damaged, i.e. of which
    files are missing, cut or changed, is passed over with a warning, and the one before it is
    taken. One of another model is an error, and so is one that the system does not let us read now.

    Each checkpoint can be read without this class:
    `orbax.checkpoint.StandardCheckpointer().restore(folder / step / "state")` gives a dictionary
    with `params`.

    Args:
        folder: made when the first checkpoint is saved.
        identity: what a checkpoint must agree on to be restored, e.g. the experiment's name.
        keep: how many checkpoints stay, the latest ones.
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: Mapping[str, str], *, keep: int = 2
    ):
        self.folder = pathlib.Path(folder).absolute()
        self.identity = dict(identity)
        self._keep = keep

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, state: TrainState, *, seconds: float = 0.0, note: str = "") -> None:
        """Saves `state` under its step; the folder of that name appears complete or not at all.

        Raises:
            CheckpointError: if it cannot be written, e.g. on a full disk; earlier ones stay.
        """
        saved = _saved_form(state)
        metadata = {
            "identity": self.identity,
            "state": leaf_shapes(state),
            "digest": _digest(saved),
            "seconds": float(seconds),
            "note": note,
        }
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,  # what a killed run left half-written
        )
        try:
            with ocp.CheckpointManager(self.folder, options=options) as manager:
                manager.save(
                    int(saved["step"]),
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(saved),
                        metadata=ocp.args.JsonSave(metadata),
                    ),
                )
        except Exception as error:  # tensorstore has kinds of its own for what a system refuses
            if not _is_refused(error):
                raise
            got = _first_line(error)
            hint = "Make room or give rights; the same training then goes on."
            raise CheckpointError(
                f"`{self.folder}`: expected to write a checkpoint, got {got}. {hint}"
            ) from error

    def restore(self, like: TrainState, *, repair: bool = False) -> Restored | None:
        """The latest checkpoint that can be read; None if there is none.

        Args:
            like: a state, or its shapes and dtypes.
            repair: rename a damaged checkpoint to `<step>.unreadable`, so that its step can be
                saved again; without it the folder is only read.

        Raises:
            CheckpointError: if the checkpoint is of another model, or the system does not let us
                read it (rights, too many open files, a device that fails); nothing is renamed.
        """
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _saved_form(like))
        for step in reversed(self.steps()):
            folder = self.folder / str(step)
            try:
                saved, metadata = self._read(step, like, target)
            except (CheckpointError, MemoryError):
                raise
            except Exception as error:  # orbax and tensorstore raise many kinds for a torn file
                reason = _first_line(error)
                if _is_refused(error):
                    hint = "Nothing was changed: mend that, and give the same command again."
                    raise CheckpointError(
                        f"`{folder}`: expected a checkpoint that can be read, got {reason}. {hint}"
                    ) from error
                _logger.warning(
                    "The checkpoint %s cannot be read (%s); the one before it is taken.",
                    folder,
                    reason,
                )
                if repair:
                    folder.rename(_free_name(folder))
            else:
                seconds, note = float(metadata["seconds"]), str(metadata.get("note", ""))
                return Restored(_from_saved_form(saved, like), step, seconds, note)
        return None

    def _read(self, step: int, like: TrainState, target: Any) -> tuple[Any, Mapping[str, Any]]:
        options = ocp.CheckpointManagerOptions(create=False, enable_async_checkpointing=False)
        with ocp.CheckpointManager(self.folder, options=options) as manager:
            metadata = manager.restore(
                step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore())
            ).metadata
            self._check(step, metadata, like)
            saved = manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
            ).state
        if _digest(saved) != metadata["digest"]:
            raise _DamagedError("its numbers do not match their digest")
        if int(saved["step"]) != step:
            raise _DamagedError(f"it is that of step {int(saved['step'])}")
        return saved, metadata

    def _check(self, step: int, metadata: Mapping[str, Any], like: TrainState) -> None:
        folder = self.folder / str(step)
        for name, want in self.identity.items():
            got = metadata["identity"].get(name)
            if got != want:
                expected = f"expected a checkpoint with {name} {want!r}"
                raise CheckpointError(f"`{folder}`: {expected}, got {got!r}. {_HINT}")
        want, got = leaf_shapes(like), metadata["state"]
        differing = sorted(
            name for name in want.keys() | got.keys() if want.get(name) != got.get(name)
        )
        if differing:
            some, rest = differing[:3], len(differing[3:])
            wanted = ", ".join(f"{name}: {want.get(name, 'nothing')}" for name in some)
            found = ", ".join(f"{name}: {got.get(name, 'nothing')}" for name in some)
            found += f" (and {rest} more)" if rest else ""
            raise CheckpointError(f"`{folder}`: expected {wanted}, got {found}. {_HINT}")


def _saved_form(state: TrainState) -> dict[str, Any]:
    """The tree that is written: plain containers, PRNG keys as their data.

    Optax states are full of empty nodes and tuples whose names no reader needs, so they are saved
    as the list of their leaves.
    """

    def plain(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        # A copy: on the CPU NumPy would look into memory that the next step takes over.
        return np.array(jax.random.key_data(x) if _is_key(x) else x)

    params, optimizer = jax.tree.map(plain, (state.params, state.optimizer_state))
    return {
        "step": plain(state.step),
        "params": params,
        "optimizer_state": {f"{i:06d}": x for i, x in enumerate(jax.tree.leaves(optimizer))},
    }


def _from_saved_form(saved: Mapping[str, Any], like: TrainState) -> TrainState:
    def typed(x, like_x):
        if _is_key(like_x):
            return jax.random.wrap_key_data(x, impl=_key_impl(like_x))
        return np.asarray(x)

    structure = jax.tree.structure(like.optimizer_state)
    leaves = [leaf for _, leaf in sorted(saved["optimizer_state"].items())]
    state = TrainState(saved["step"], saved["params"], structure.unflatten(leaves))
    return jax.tree.map(typed, state, like)


def _digest(saved: Any) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(saved):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _is_refused(error: BaseException | None) -> bool:
    """Whether the system refused to read or write, which says nothing of the file."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return True
        if any(code in str(error) for code in ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED")):
            return True
        if any(os.strerror(number) in str(error) for number in _REFUSED):
            return True
        error = error.__cause__ or error.__context__
    return False


def _key_impl(like: Any) -> Any:
    return jax.random.key_impl(jnp.empty((), like.dtype))


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _free_name(folder: pathlib.Path) -> pathlib.Path:
    names = (f"{folder.name}.unreadable{'' if i == 0 else i}" for i in range(1000))
    return next(path for path in map(folder.with_name, names) if not path.exists())
