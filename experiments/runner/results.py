"""The result of a training or an evaluation, and its table."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Column", "Result", "table"]


class Column(NamedTuple):
    """A column of the table of results: one metric of every method.

    Attributes:
        label: with the unit.
        metric: the part of the key behind `<method>/`.
        form: of the number.
    """

    label: str
    metric: str
    form: str = ".3f"


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of a training or an evaluation; prints as a table.

    `result["metrics"]` and the other keys of results.json work too.

    Attributes:
        experiment: its name.
        metrics: `<method>/<metric>` -> a number, or a list over seeds.
        source: the published numbers under the same keys.
        params: run -> parameters; every leaf has a leading axis of trials.
        workdir: the folder that holds everything.
        record: what results.json holds.
        columns: what the table shows.
        rows: of which methods; empty: of all.
        source_data: what the published numbers were measured on.
    """

    experiment: str
    metrics: dict[str, Any]
    source: dict[str, Any]
    params: dict[str, Any]
    workdir: pathlib.Path
    record: dict[str, Any]
    columns: tuple[Column, ...] = ()
    rows: tuple[str, ...] = ()
    source_data: str = ""

    @property
    def paths(self) -> dict[str, pathlib.Path]:
        """Name -> the file or folder, of what was written."""
        named = {
            "results": "results.json", "metrics": "metrics.jsonl", "figures": "figures",
            "model": "model",
        }  # fmt: skip
        found = {name: self.workdir / each for name, each in named.items()}
        return {name: path for name, path in found.items() if path.exists()}

    def __getitem__(self, key: str) -> Any:
        return self.record[key]

    def __repr__(self) -> str:
        lines = [f"{self.experiment}: results of {self.workdir}"]
        lines += table(self.metrics, self.source, self.columns, self.rows)
        if self.source_data and any("(source " in line for line in lines):
            lines.append(f"source: measured on {self.source_data}")
        lines += [f"{name}: {path}" for name, path in self.paths.items()]
        return "\n".join(lines)


def table(
    metrics: Mapping[str, Any],
    source: Mapping[str, Any],
    columns: tuple[Column, ...],
    rows: tuple[str, ...] = (),
) -> list[str]:
    """Lines: a row for each method, a column for each number, beside it the source's in brackets.

    Of a list over seeds the mean and the standard error are shown.
    """
    methods = list(dict.fromkeys(
        key.removesuffix(f"/{column.metric}")
        for column in columns
        for key in metrics
        if key.endswith(f"/{column.metric}")
    ))  # fmt: skip
    methods = [name for name in rows if name in methods] if rows else methods
    if not methods:
        return []
    lines = [["method", *(column.label for column in columns)]]
    for method in methods:
        row = [method]
        for column in columns:
            key = f"{method}/{column.metric}"
            text = _text(metrics.get(key), column.form) if key in metrics else ""
            if key in source:
                text += f" (source {_text(source[key], column.form)})"
            row.append(text)
        lines.append(row)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in lines]  # fmt: skip


def _text(value: Any, form: str) -> str:
    values = np.asarray(value if value is not None else np.nan, float).ravel()
    mean = format(float(values.mean()), form) if values.size else ""
    if values.size < 2 or not np.all(np.isfinite(values)):
        return mean
    return f"{mean} +- {format(float(values.std(ddof=1) / np.sqrt(values.size)), form)}"
