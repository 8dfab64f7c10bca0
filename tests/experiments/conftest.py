import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TOY = pathlib.Path(__file__).with_name("toy_experiment.py")


@pytest.fixture(scope="session")
def toy():
    """The module of the toy experiment."""
    spec = importlib.util.spec_from_file_location("toy_experiment", TOY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_toy():
    """Runs the toy experiment as a command; returns the finished process."""

    def run(*flags, **environment):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, str(TOY), *flags],
            env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def undisturbed(run_toy, tmp_path_factory):
    """The work folder of a training that ran through; to be read only."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run_toy(f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder
