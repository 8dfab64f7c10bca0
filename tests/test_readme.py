"""The README says what is so."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs_as_printed():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL).group(1)
    printed = [float(x) for x in code.rsplit("#", 1)[1].split()]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [float(x) for x in done.stdout.split()]
    assert len(found) == len(printed) == 2
    for a, b in zip(found, printed, strict=True):
        assert abs(a - b) < 1e-5 * max(1, abs(b))


def test_the_map_is_the_tree():
    named = set(re.findall(r"^jaxcv/(\w+) +", TEXT, re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "jaxcv").glob("*/__init__.py")}
    assert named == packages


def test_the_table_is_that_of_the_records():
    from experiments.results import page

    begin, end = TEXT.index(page.BEGIN) + len(page.BEGIN), TEXT.index(page.END)
    assert TEXT[begin:end].strip() == page.table().strip()


def test_no_record_is_stale():
    from experiments.results import page

    assert "stale" not in page.table()
