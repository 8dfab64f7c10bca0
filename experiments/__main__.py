"""`python -m experiments` lists the experiments."""

import ast
import pathlib

__all__ = ["summaries"]

_HERE = pathlib.Path(__file__).parent


def summaries() -> dict[str, str]:
    """Name -> first line of what it says of itself, of all that can be run; nothing is imported."""
    found = {}
    for main in sorted(_HERE.glob("*/__main__.py")):
        text = ast.get_docstring(ast.parse((main.parent / "__init__.py").read_text())) or ""
        found[main.parent.name] = text.split("\n")[0]
    return found


if __name__ == "__main__":
    for name, summary in summaries().items():
        print(f"python -m experiments.{name:20} {summary}")
