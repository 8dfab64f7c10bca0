"""The architecture: who may import whom, how long a file may be, what stays out of the library."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
BASE = {"checks", "closure", "pytree"}  # modules beside the packages, which all may import
ARROWS = {  # package -> what it may import of jaxcv, besides BASE
    "linear": {"linear"},
    "solvers": {"linear", "solvers"},
    "implicit": {"linear", "solvers", "implicit"},
    "least_squares": {"linear", "solvers", "implicit", "least_squares"},
    "geometry": {"solvers", "geometry"},
    "energies": {"linear", "implicit", "least_squares", "geometry", "energies"},
    "models": {"solvers", "geometry", "models"},
    "metrics": {"geometry", "metrics"},
    "io": {"geometry", "io"},
    "data": {"geometry", "io", "data"},
    "training": {"training"},
    "plots": set(),
    "systems": {
        "linear", "solvers", "implicit", "least_squares", "geometry", "energies", "models",
        "metrics", "data", "io", "training", "plots", "systems",
    },
}  # fmt: skip
MAY_PREPARE = {"data", "io", "geometry", "energies", "checks"}
MAY_CONVERT = MAY_PREPARE | {"models"}  # trunk_weights, whose files are networks
UNPICKLER = "data_prep/trunk_weights/alexnet.py"  # by a list of what arrays need, see its tests
FILES = sorted(
    path for top in ("jaxcv", "experiments", "data_prep") for path in (ROOT / top).rglob("*.py")
)
# Inside an experiment a part imports parts before it; `__init__` and `__main__` bind them together.
PARTS = (
    "config", "presets", "data", "pictures", "network", "dense_stereo", "baselines", "conditions",
    "search", "training", "refinement", "scores", "marquardt", "failures", "minima", "comparison",
    "evaluation", "page", "minima_figure", "figures", "pair_figure", "pair_table",
    "colmap_export", "picture_poses", "prediction", "__init__", "__main__",
)  # fmt: skip
HEAVY = {"matplotlib", "cv2", "sklearn", "scipy", "poselib", "mahotas", "PIL", "h5py", "tqdm"}
MAX_LINES = 430  # "about 400"


def imported_modules(path):
    """Full names of the modules that a file imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def name_of(path):
    return str(path.relative_to(ROOT))


def check_arrows(path):
    parts = path.relative_to(ROOT).parts
    names = imported_modules(path)
    if parts[0] == "jaxcv":
        for name in names:
            top = name.split(".")[0]
            assert top not in ("experiments", "data_prep", "absl"), (path, name)
            # jaxcv/__init__.py may import from every package.
            if top == "jaxcv" and len(parts) > 2:
                room = name.split(".")[1]
                assert room in ARROWS[parts[1]] | BASE, f"{parts[1]} may not import {name}"
    if parts[0] == "data_prep":
        for name in names:
            pieces = name.split(".")
            assert pieces[0] != "experiments", (path, name)
            if pieces[0] == "jaxcv":
                allowed = MAY_CONVERT if parts[1] == "trunk_weights" else MAY_PREPARE
                assert pieces[1] in allowed, f"data_prep may not import {name}"


def test_arrows():
    for path in FILES:
        check_arrows(path)


def experiments_of(package):
    """(path, part) of the modules of an experiment's package."""
    return [(path, path.stem) for path in (ROOT / "experiments" / package).glob("*.py")]


PACKAGES = sorted(path.parent.name for path in ROOT.glob("experiments/*/__init__.py"))


def test_an_experiment_imports_no_other_and_its_parts_in_one_order():
    for package in set(PACKAGES) - {"runner", "results"}:
        for path, part in experiments_of(package):
            for name in imported_modules(path):
                pieces = name.split(".")
                if pieces[0] != "experiments" or pieces[1] == "runner":
                    continue
                assert pieces[1] == package, f"{path} may not import {name}"
                if len(pieces) > 2 and pieces[2] in PARTS:
                    assert PARTS.index(pieces[2]) < PARTS.index(part), f"{path}: {name}"


def test_the_runner_knows_no_experiment():
    for path, _ in experiments_of("runner"):
        for name in imported_modules(path):
            pieces = name.split(".")
            assert pieces[0] != "data_prep", (path, name)
            assert pieces[0] != "experiments" or pieces[1] == "runner", (path, name)


def test_a_training_starts_without_what_only_figures_and_baselines_need():
    for path in (ROOT / "experiments").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert not {name.split(".")[0] for name in names} & HEAVY, path


def test_packages_are_known():
    packages = {path.name for path in (ROOT / "jaxcv").iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(ARROWS)


def test_files_are_short():
    long = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: lines for name, lines in long.items() if lines > MAX_LINES}


def test_the_library_neither_prints_nor_unpickles_nor_reads_flags():
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != "experiments":
            check_calls(path)


def check_calls(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), (path, node.lineno)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), (path, node.value)
            assert node.value.value is False, (path, node.value)
    for name in imported_modules(path):
        if name_of(path) == UNPICKLER and name == "pickle":
            continue
        assert name.split(".")[0] not in ("pickle", "dill", "cloudpickle", "absl"), (path, name)


def test_every_module_states_its_names():
    for path in FILES:
        if path.parts[len(ROOT.parts)] == "jaxcv" and path.name != "__init__.py":
            assert re.search(r"^__all__ = ", path.read_text(), re.MULTILINE), path


def test_the_library_needs_no_other_minimiser():
    # jaxopt is retired: users bring it by `Function`, and benchmarks compare with it.
    for path in FILES:
        for name in imported_modules(path):
            assert name.split(".")[0] not in ("jaxopt", "optimistix", "scipy.optimize"), path


def nested_imports(path):
    """Full names of the modules that a file imports inside a function or a class."""
    tree = ast.parse(path.read_text())
    for outer in ast.walk(tree):
        if isinstance(outer, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            for node in ast.walk(outer):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield str(node.module)


def test_no_import_inside_a_function_goes_up_or_sideways():
    for path in FILES:
        top = path.relative_to(ROOT).parts[0]
        for name in nested_imports(path):
            own = name.split(".")[0]
            assert own != "jaxcv" or top != "jaxcv", (path, name)
            assert own != "experiments", (path, name)


def test_top_level_holds_nothing_else():
    known = {
        "README.md", "pyproject.toml", "jaxcv", "experiments", "tests", "data_prep", "LICENSE",
        "CHANGELOG.md", "runs", "data", "build", "dist",
    }  # fmt: skip
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found <= known | {name for name in found if name.endswith(".egg-info")}
