"""The text of --help: settings grouped by purpose, with defaults, units and bounds."""

import dataclasses
import re
import textwrap
from typing import Any

from experiments.runner import settings

__all__ = ["help_text"]

_TRAINING = re.compile(
    r"steps|seed|_rate$|^batch|clip|decay|optimizer|momentum|patience|returns|search|trials_by|"
    r"init_from|strength|weight|augment|swap|stages|objective|refine$|refine_batch|epsilon|cache"
)


def help_text(experiment: Any, doc: str | None) -> str:
    """The text for an experiment; `doc` is its docstring."""
    fields = dataclasses.fields(experiment.config)
    presets = ", ".join(sorted(experiment.presets))
    lines = [(doc or experiment.name).strip(), "", "Common"]
    own = {field.name for field in fields}
    for name, (value, text) in settings.COMMON_FLAGS.items():
        if name not in own:
            more = f" One of {presets}." if name == "preset" else ""
            lines += _entry(f"--{name}={value}", text + more)
    groups: dict[str, list[dataclasses.Field]] = {"Data": [], "Training": [], "Model": []}
    for field in fields:
        groups[_group(field)].append(field)
    default = experiment.presets["default"]
    kinds = settings.kinds(experiment.config)
    for title, members in groups.items():
        lines += ["", title]
        for field in members:
            lines += _field(field, kinds[field.name], getattr(default, field.name))
    lines += [
        "", "Repeat a flag to sweep over its values: those that --help shows with `...` train side",
        "by side, others one after the other, in folders of their own.",
    ]  # fmt: skip
    return "\n".join(lines)


def _group(field: dataclasses.Field) -> str:
    if field.name in ("data", "data_dir") or field.metadata.get("of_data"):
        return "Data" if field.name != "seed" else "Training"
    return "Training" if _TRAINING.search(field.name) else "Model"


def _field(field: dataclasses.Field, kind: Any, default: Any) -> list[str]:
    if kind.base is bool:
        usage = f"--[no]{field.name}"
        text = f"{field.metadata.get('help', '')} Default: {'on' if default else 'off'}."
        return _entry(usage, text)
    shown = ",".join(map(str, default)) if kind.many else default
    shown = "none" if shown in (None, "") else shown
    rule = _rule(field)
    text = f"{field.metadata.get('help', '')} {rule}".strip()
    return _entry(f"--{field.name}={shown}{' ...' if kind.many else ''}", text)


def _rule(field: dataclasses.Field) -> str:
    choices = field.metadata.get("choices")
    if choices is not None:
        return f"One of {', '.join(map(str, choices))}."
    lower, upper = field.metadata.get("lower"), field.metadata.get("upper")
    if lower is not None and upper is not None:
        return f"From {lower} to {upper}."
    if lower is not None:
        return f"At least {lower}."
    return f"At most {upper}." if upper is not None else ""


def _entry(usage: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, 66) or [""]
    first = f"  {usage:<28}"
    if len(usage) > 27:
        return [first.rstrip(), *(f"{'':<30}{line}" for line in wrapped)]
    return [f"{first}{wrapped[0]}", *(f"{'':<30}{line}" for line in wrapped[1:])]
