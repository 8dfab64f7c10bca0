"""metrics.jsonl: the log of a training, one line per log point."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.runner import records
from jaxcv.io.files import read_text

__all__ = ["MetricsFile"]


class MetricsFile:
    """metrics.jsonl: one line per log point, {"run", "step", metric: list over trials}.

    Opening the file drops a last line that a killed run left half-written.

    Args:
        path: of the file; the first line creates it.
        read_only: never change the file.
    """

    def __init__(self, path: pathlib.Path, *, read_only: bool = False):
        self.path = path
        self._lines: list[tuple[str, dict[str, Any]]] = []
        with records.errors_as(records.FolderError):
            hint = "Train again in another --workdir."
            text = read_text(path, hint=hint) if os.path.lexists(path) else ""
        for number, line in enumerate(text.splitlines(keepends=True), 1):
            if not line.endswith("\n"):
                break
            try:
                record = json.loads(line)
                record["run"], record["step"] = str(record["run"]), int(record["step"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                expected = "expected one JSON record per line"
                hint = "Remove the work folder's checkpoints and this file, and train again."
                raise records.folder_error(
                    f"{path}:{number}", expected, repr(line[:40]), hint
                ) from error
            self._lines.append((line, record))
        if not read_only and text != "".join(line for line, _ in self._lines):
            self._rewrite()

    def cut(self, run: str, step: int, steps: Iterable[int], *, lengthened: bool = False) -> None:
        """Drops the lines of `run` after `step`, which the training will write again.

        Raises:
            FolderError: the lines up to `step` are not those of `steps`. A lengthened training
                had other log points before: its lines must only include `step`.
        """
        kept = [(t, r) for t, r in self._lines if r["run"] != run or r["step"] <= step]
        if len(kept) != len(self._lines):
            self._lines = kept
            self._rewrite()
        got, want = [r["step"] for _, r in kept if r["run"] == run], list(steps)
        if lengthened and step in got:
            return
        if got != want:
            expected = f"expected the lines of {run!r} up to its checkpoint at step {step}"
            hint = f"Remove {self.path.parent / records.CHECKPOINTS / run} to train it again."
            missing = f"{len(got)} of {len(want)} lines"
            raise records.folder_error(str(self.path), expected, missing, hint)

    def digest(self, run: str) -> str:
        """SHA-256 of the lines of a run; checkpoints store it, so that a change is noticed."""
        text = "".join(line for line, record in self._lines if record["run"] == run)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_digest(self, run: str, digest: str) -> None:
        """Raises FolderError unless the lines of `run` are those of this digest."""
        if self.digest(run) != digest:
            expected = f"expected the lines of {run!r} that belong to its saved parameters"
            hint = f"Remove {self.path.parent / records.CHECKPOINTS / run} to train it again."
            raise records.folder_error(str(self.path), expected, "other lines", hint)

    def append(self, run: str, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Writes one line; `metrics` are name -> (M,)."""
        values = {name: records.json_ready(name, value) for name, value in metrics.items()}
        record = {"run": run, "step": step, **values}
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())  # no checkpoint may outlive the lines before it
        self._lines.append((line, record))

    def history(self, run: str, trials: int) -> dict[str, np.ndarray]:
        """`step` -> (L,) and metric -> (L, M) of a run's L lines and M trials; null becomes nan."""
        records = [record for _, record in self._lines if record["run"] == run]
        names = [name for name in (records[0] if records else ()) if name not in ("run", "step")]
        out: dict[str, Any] = {"step": np.asarray([r["step"] for r in records], np.int64)}
        for name in names:
            values = [record[name] for record in records]
            out[name] = np.asarray(values, np.float64).reshape(len(records), trials)
        return out

    def _rewrite(self) -> None:
        records.write_text(self.path, "".join(line for line, _ in self._lines))
