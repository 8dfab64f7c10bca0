"""Checkpoints of a training state: atomic, verified, and tied to their model."""

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

# Failing devices, permissions, system limits: the file itself may be intact.
_REFUSED = frozenset({
    errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
    errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN,
})  # fmt: skip
_HINT = "Give the folder that belongs to this model, or train into a new one."


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, or belongs to another model."""


class _DamagedError(Exception):
    """A checkpoint was read, but differs from what was saved."""


class Restored(NamedTuple):
    """Content of a checkpoint.

    Attributes:
        state: the tree of NumPy arrays that was saved.
        step: the number of updates.
        seconds: training time so far, summed over interruptions.
        note: text saved with it.
    """

    state: TrainState
    step: int
    seconds: float
    note: str = ""


class Checkpoints:
    """The checkpoints of one training, in one folder: `<folder>/<step>`, written by orbax.

    A checkpoint appears under its name only when complete. It stores its identity, the shapes and
    dtypes of the state, and a digest of its numbers. Damaged checkpoints (files missing, truncated
    or changed) are skipped with a warning, in favour of the one before. A checkpoint of another
    model is an error, and so is one that the system currently refuses to read.

    Each checkpoint can be read without this class:
    `orbax.checkpoint.StandardCheckpointer().restore(folder / step / "state")` gives a dictionary
    with `params`.

    Args:
        folder: created when the first checkpoint is saved.
        identity: must match for a checkpoint to be restored, e.g. the experiment's name.
        keep: number of checkpoints kept, the latest ones.
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
        """Saves `state` under its step, atomically.

        Raises:
            CheckpointError: it cannot be written, e.g. on a full disk; earlier ones stay.
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
            cleanup_tmp_directories=True,  # half-written by a killed run
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
        except Exception as error:  # tensorstore wraps system errors in its own classes
            if not _is_refused(error):
                raise
            got = _first_line(error)
            hint = "Free space or fix permissions; the same run then resumes."
            raise CheckpointError(
                f"`{self.folder}`: expected to write a checkpoint, got {got}. {hint}"
            ) from error

    def restore(self, like: TrainState, *, repair: bool = False) -> Restored | None:
        """The latest checkpoint that can be read; None if there is none.

        Args:
            like: a state, or its shapes and dtypes.
            repair: rename a damaged checkpoint to `<step>.unreadable`, so that its step can be
                saved again; False: only read the folder.

        Raises:
            CheckpointError: the checkpoint belongs to another model, or the system refuses to read
                it (permissions, too many open files, a failing device); nothing is renamed.
        """
        target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), _saved_form(like))
        for step in reversed(self.steps()):
            folder = self.folder / str(step)
            try:
                saved, metadata = self._read(step, like, target)
            except (CheckpointError, MemoryError):
                raise
            except Exception as error:  # orbax and tensorstore raise many types for a torn file
                reason = _first_line(error)
                if _is_refused(error):
                    hint = "Nothing was changed: fix that, and run the same command again."
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
    """The tree as written: plain containers, PRNG keys as their data.

    An optax state has many empty nodes and named tuples that readers do not need, so only its
    leaves are saved, numbered.
    """

    def plain(x):
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        # Copy: on the CPU a NumPy view would alias a buffer that the next step reuses.
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
    """True if the system refused to read or write; the file may be intact."""
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
