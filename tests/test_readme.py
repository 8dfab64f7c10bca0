"""The README and the pages say what is so."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.results import page

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MAP = (ROOT / "experiments/notebooks/pages/contributing.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").rglob("*.md"))]


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


def test_the_energy_prints_what_is_written(tmp_path):
    printed = [float(x) for x in EXAMPLES[0].rsplit("#", 1)[1].split()]
    found = [float(x) for x in run(EXAMPLES[0], tmp_path).split()]
    np.testing.assert_allclose(found, printed, atol=1e-5)
    assert len(printed) == 2


def test_two_photographs_have_a_pose(tmp_path):
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (80, 100, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    for name, shift in (("a.jpg", 0), ("b.jpg", 24)):
        Image.fromarray(texture[:480, shift : shift + 640]).save(tmp_path / name)
    numbers = re.findall(r"-?[0-9.]+(?:e[+-]?[0-9]+)?", run(EXAMPLES[1], tmp_path))
    rotation = np.reshape(np.asarray(numbers[:9], float), (3, 3))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(np.asarray(numbers[9:12], float)), 1, atol=1e-4)


@pytest.mark.slow
def test_the_experiment_runs(tmp_path):
    assert "damped" in run(EXAMPLES[2], tmp_path)
    assert (tmp_path / "runs/robust_mean/model/model.safetensors").exists()


def test_the_map_is_the_tree():
    named = set(re.findall(r"^jaxcv/(\w+) +", MAP, re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "jaxcv").glob("*/__init__.py")}
    assert named == packages


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert "://" in target or (path.parent / target).exists(), (path, target)


def test_no_record_is_stale():
    assert "stale" not in page.table()
