"""The claims of the sources: what each says, what was run, what that shows, and the verdict.

`claims/<source>.toml` holds a table per claim:

    id = "W3"                      place = "Sec. 3, Fig. 2"
    says = "what the source claims"
    shows = "text with numbers of records, {record|key|form}"
    verdict = "confirmed", "confirmed for", "not confirmed", "opposite" or "not run"
    conditions = "of a verdict `confirmed for`"
    tests = ["tests/<file>.py::<function>"], where a test shows it instead of a record
    disagrees = "a paragraph for the section on disagreements"

A form is a format of one number, e.g. `.1f`, with words before it: `mean` (of a list; the default),
`median`, `min`, `max`, `count` (of a list); `range` (mean [min, max] of a list); `interval` (value
[low, high], from the keys with `_low` and `_high` in place of `_change`); `percent` (times 100).
Numbers are read from the records, so the text cannot differ from them.
"""

import json
import pathlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxcv.checks import argument_error, check_choice

__all__ = [
    "VERDICTS",
    "Claim",
    "Source",
    "count_verdicts",
    "read_sources",
    "render",
    "render_beyond",
]

FOLDER = pathlib.Path(__file__).with_name("claims")
RECORDS = pathlib.Path(__file__).parent
ROOT = pathlib.Path(__file__).parents[2]
ORDER = ("wibergian_learning", "ls_net", "dc_ign", "relative_pose", "hand_pose")
VERDICTS = ("confirmed", "confirmed for", "not confirmed", "opposite", "not run")
_FIELDS = {"id", "place", "says", "shows", "verdict", "conditions", "tests", "disagrees"}
_NUMBER = re.compile(r"\{([^{}|]+)\|([^{}|]+)\|([^{}|]+)\}")
_MANY = {"mean": np.mean, "median": np.median, "min": np.min, "max": np.max, "count": np.size}


class Claim(NamedTuple):
    """A claim, as the module's docstring describes its fields."""

    id: str
    place: str
    says: str
    verdict: str
    shows: str = ""
    conditions: str = ""
    tests: tuple[str, ...] = ()
    disagrees: str = ""


class Source(NamedTuple):
    """A paper and its claims."""

    title: str
    paper: str
    claims: tuple[Claim, ...]


def read_sources(folder: pathlib.Path = FOLDER) -> list[Source]:
    """All sources, checked.

    Raises:
        ValueError: a field or verdict that does not exist, a verdict without a number of a record
            or a test, or an id that comes twice.
    """
    out = []
    for name in ORDER:
        path = folder / f"{name}.toml"
        content = tomllib.loads(path.read_text())
        claims = tuple(_claim(path, entry) for entry in content["claim"])
        ids = [claim.id for claim in claims]
        if len(set(ids)) < len(ids):
            twice = sorted({one for one in ids if ids.count(one) > 1})
            raise argument_error(str(path), "expected distinct ids", twice)
        out.append(Source(content["title"], content["paper"], claims))
    return out


def _claim(path: pathlib.Path, entry: Mapping[str, Any]) -> Claim:
    name = f"{path.name}: {entry.get('id')}"
    unknown = sorted(entry.keys() - _FIELDS)
    if unknown:
        raise argument_error(name, f"expected fields among {sorted(_FIELDS)}", unknown)
    claim = Claim(**{**entry, "tests": tuple(entry.get("tests", ()))})
    check_choice(f"{name}, verdict", claim.verdict, VERDICTS)
    if (claim.verdict == "confirmed for") != bool(claim.conditions):
        expected = "expected `conditions` with the verdict 'confirmed for', and only there"
        raise argument_error(name, expected, repr(claim.conditions))
    if claim.verdict != "not run" and not (_NUMBER.search(claim.shows) or claim.tests):
        hint = "Write {record|key|form} into `shows`, or name `tests`."
        raise argument_error(name, "expected a number of a record, or a test", claim.shows, hint)
    for test in claim.tests:
        file, function = test.split("::")
        if f"def {function}(" not in (ROOT / file).read_text():
            raise argument_error(name, "expected a test that is there", test)
    return claim


def shown(text: str, metrics: Mapping[str, Mapping[str, Any]], name: str = "claim") -> str:
    """The text with its numbers; `metrics` are record -> key -> value.

    Raises:
        ValueError: a record or a key that does not exist.
    """

    def number(match: re.Match) -> str:
        record, key, form = match.groups()
        if record not in metrics or key not in metrics[record]:
            raise argument_error(name, "expected a key of a record", f"{record}|{key}")
        return _formatted(metrics[record], key, form)

    return _NUMBER.sub(number, text)


def _formatted(values: Mapping[str, Any], key: str, form: str) -> str:
    *words, spec = form.split()
    factor = 100.0 if "percent" in words else 1.0
    own = np.asarray([np.nan if x is None else x for x in np.ravel(values[key])], float) * factor
    if "range" in words:
        parts = (own.mean(), own.min(), own.max())
        return "{} [{}, {}]".format(*(_written(x, spec) for x in parts))
    many = next((_MANY[word] for word in words if word in _MANY), np.mean)
    text = _written(float(many(own)), spec)
    if "interval" in words:
        stem = key.removesuffix("_change")
        ends = (factor * float(np.mean(values[f"{stem}_{end}"])) for end in ("low", "high"))
        text += " [{}, {}]".format(*(_written(x, spec) for x in ends))
    return text


def _written(value: float, spec: str) -> str:
    """A formatted number with a true minus sign, and without that of a zero."""
    text = format(value, spec).replace("e-0", "e-")
    return text.removeprefix("-") if not text.strip("-0.%") else text.replace("-", "−")


def _records_of(text: str) -> list[str]:
    return list(dict.fromkeys(match[1] for match in _NUMBER.finditer(text)))


def metrics_of_records(folder: pathlib.Path = RECORDS) -> dict[str, Mapping[str, Any]]:
    """Record -> its metrics."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text())["metrics"] for path in paths}


def render_beyond(metrics: Mapping[str, Mapping[str, Any]], folder: pathlib.Path = FOLDER) -> str:
    """Results that no source claims, as a list in Markdown."""
    content = tomllib.loads((folder / "beyond.toml").read_text())
    lines = []
    for entry in content["result"]:
        links = ", ".join(f"[{name}](#{name})" for name in _records_of(entry["shows"]))
        text = shown(entry["shows"], metrics, entry["title"])
        lines.append(f"- **{entry['title']}.** {text} ({links})")
    return "\n".join(lines)


def render(sources: Iterable[Source], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of all sources in Markdown, and the paragraphs on disagreements."""
    lines, disagreements = [], []
    for source in sources:
        counts = ", ".join(f"{n} {word}" for word, n in count_verdicts([source]).items() if n)
        lines += [f"### {source.title}", "", f"{source.paper}. {counts}.", ""]
        lines += [
            "| | the source says | run here, and what it shows | verdict |",
            "|---|---|---|---|",
        ]
        for claim in source.claims:
            text = shown(claim.shows, metrics, claim.id)
            evidence = [f"[{name}](#{name})" for name in _records_of(claim.shows)]
            evidence += [
                f"[`{test.split('::')[1]}`](../../{test.split('::')[0]})" for test in claim.tests
            ]
            evidence_text = f" ({', '.join(evidence)})" if evidence else ""
            verdict = f"**{claim.verdict}**" + (f" {claim.conditions}" if claim.conditions else "")
            says = f"{claim.says} ({claim.place})"
            lines.append(f"| {claim.id} | {says} | {text}{evidence_text} | {verdict} |")
            if claim.disagrees:
                own = shown(claim.disagrees, metrics, claim.id)
                disagreements.append(f"- **{source.title}, {claim.id}.** {own}")
        lines.append("")
    if disagreements:
        lines += ["### Where this library disagrees with its sources", "", *disagreements, ""]
    return "\n".join(lines)


def count_verdicts(sources: Iterable[Source]) -> dict[str, int]:
    """Verdict -> number of claims."""
    verdicts = [claim.verdict for source in sources for claim in source.claims]
    return {word: verdicts.count(word) for word in VERDICTS}
