"""The inventory of public names and signatures: what scripts outside rely on."""

import importlib
import inspect
import json
import pathlib
import pkgutil
import subprocess
import sys

import jaxcv

INVENTORY = pathlib.Path(__file__).with_name("api_inventory.json")
HINT = (
    "If the change is meant, say so in CHANGELOG.md and write the inventory again: "
    "python tests/test_api.py"
)


def modules():
    yield "jaxcv"
    for info in pkgutil.walk_packages(jaxcv.__path__, "jaxcv."):
        yield info.name


def inventory():
    """{module: {name: signature or kind}} of everything in `__all__`."""
    out = {}
    for name in modules():
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None)
        if public is not None:
            out[name] = {key: describe(getattr(module, key)) for key in sorted(public)}
    return out


def describe(value):
    if inspect.isclass(value) and issubclass(value, tuple) and hasattr(value, "_fields"):
        return f"fields {', '.join(value._fields)}"
    if inspect.isclass(value) and issubclass(value, BaseException):
        return "error"
    if callable(value):
        parameters = inspect.signature(value).parameters.values()
        bare = [
            parameter.replace(
                annotation=inspect.Parameter.empty,
                default=parameter.default
                if isinstance(parameter.default, (int, float, str, tuple, type(None)))
                else inspect.Parameter.empty
                if parameter.default is inspect.Parameter.empty
                else Ellipsis,
            )
            for parameter in parameters
        ]
        return str(inspect.Signature(bare))
    return type(value).__name__


def test_public_names_and_signatures_are_those_of_the_inventory():
    expected, found = json.loads(INVENTORY.read_text()), inventory()
    assert expected.keys() == found.keys(), HINT
    for module, names in expected.items():
        assert names == found[module], f"{module}: {HINT}"


def test_promised_names():
    for name in (
        "argmin", "argmin_jvp", "argmin_least_squares", "argmin_vjp", "attach", "diagnose",
        "unrolled_solve", "Damping", "Diagnostics", "Solution", "Status",
    ):  # fmt: skip
        assert name in jaxcv.__all__
    signature = inspect.signature(jaxcv.argmin)
    assert list(signature.parameters) == [
        "energy", "y0", "theta", "data", "solver", "damping", "linear", "bounds", "autodiff",
        "init_gradient", "retract", "has_aux", "diagnostics", "history",
    ]  # fmt: skip
    for name in (
        "Newton", "LBFGS", "GradientDescent", "LevenbergMarquardt", "GaussNewton", "Optax",
        "MultiStart", "FinalNewtonStep",
    ):  # fmt: skip
        assert name in jaxcv.solvers.__all__
    assert [status.name for status in jaxcv.Status] == [
        "RUNNING", "CONVERGED", "STALLED", "MAX_STEPS", "NONFINITE", "UNBOUNDED"
    ]  # fmt: skip
    assert jaxcv.__version__
    damping = jaxcv.Damping()
    assert (damping.value, damping.order, damping.mode, damping.relative) == (
        0.1, 1, "shift", False
    )  # fmt: skip
    assert jaxcv.Diagnostics._fields == (
        "gradient_norm", "newton_decrement", "min_eigenvalue", "negative_eigenvalues",
        "damping_used", "gradient_bound", "bias_estimate", "error_estimate", "adjoint_residual",
        "certified", "structure_error",
    )  # fmt: skip


def test_every_public_name_is_documented():
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, name
        for key in getattr(module, "__all__", ()):
            value = getattr(module, key)
            if callable(value):
                assert inspect.getdoc(value), f"{name}.{key}"


def test_importing_allocates_nothing_and_needs_no_extras():
    """No device is started, no flag is read, and neither absl's flags nor matplotlib come in."""
    code = (
        "import sys, jax, jaxcv\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, xla_bridge._backends\n"
        "heavy = ('matplotlib', 'tensorflow', 'flax', 'optax', 'scipy', 'jaxopt', 'orbax')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "assert jaxcv.systems.fuse_boxes and jaxcv.geometry and jaxcv.linear\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    INVENTORY.write_text(json.dumps(inventory(), indent=1) + "\n")
