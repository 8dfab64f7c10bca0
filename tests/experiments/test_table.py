"""The README's table: what is kept as a record, and what a record may hold."""

import json
import pathlib

import pytest

from experiments.results import page
from experiments.runner import records

RECORD = pathlib.Path(page.RESULTS / "robust_mean.json")


def test_only_records_of_trainings_are_kept(tmp_path):
    record = json.loads(RECORD.read_text())
    path = tmp_path / "results.json"
    evaluated = record | {"environment": record["environment"] | {"command": "x --mode=evaluate"}}
    for text in ("{", "[1]", json.dumps({"experiment": "robust_mean"}), json.dumps(evaluated)):
        path.write_text(text)
        with pytest.raises(records.DataError, match=r"expected the results\.json of a training"):
            page._checked_record(path)
    path.write_text(json.dumps(record))
    assert page._checked_record(path) == record


def test_a_number_that_is_not_finite_leaves_the_row_readable():
    record = json.loads(RECORD.read_text())
    for name in ("loss", "sigma2", "largest_gradient"):
        record["metrics"][f"undamped/{name}"][0] = None
    record["metrics"]["undamped_over_damped/largest_gradient"][0] = None
    assert "nan" not in page._row("robust_mean", record)
