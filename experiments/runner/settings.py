"""The fields of a frozen dataclass as flags; the same checks with flags and without."""

import dataclasses
import logging
import math
import numbers
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from jaxcv.checks import argument_error, check_choice
from jaxcv.io import files

__all__ = [
    "ConfigError",
    "as_of_today",
    "check_config",
    "check_data_dir",
    "check_evaluated",
    "check_memory",
    "config_error",
    "config_from_dict",
    "config_to_dict",
    "define_flags",
    "flag",
    "given_fields",
    "given_trial",
    "of_mode",
    "show_in_help",
    "swept_fields",
    "with_new_names",
]

_logger = logging.getLogger(__name__)

MODES = ("train", "evaluate", "predict", "export")
_LARGEST = 2**31 - 1  # default upper bound of integers: devices compute with 32 bits
COMMON_FLAGS = {  # of every experiment: the value that --help shows, and what the flag does
    "workdir": ("DIR", "Folder for everything that is written; made if need be. Required."),
    "preset": ("NAME", "Values of flags that are not given."),
    "mode": ("train", "train; or evaluate, predict, export, which read --checkpoint."),
    "checkpoint": ("DIR", "Work folder of a training, to evaluate, to predict with, or to export."),
    "trial": (
        "N",
        "For predict and export: which trial's model; else the best on validation.",
    ),
    "init_from": ("DIR", "Work folder of a training whose parameters are begun with."),
}
_RESERVED = ("workdir", "preset", "mode", "checkpoint", "trial")
_REQUIRED = ("data", "data_dir", "steps", "seed")
_SUPPORTED = "int, float, str, bool, `int | None`, `float | None`, `str | None`, tuple[..., ...]"


class ConfigError(ValueError):
    """A setting has the wrong type or is out of bounds."""


def config_error(name: str, expected: str, got: Any, hint: str = "") -> ConfigError:
    """A `ConfigError` with the text of `argument_error`."""
    return ConfigError(str(argument_error(name, expected, got, hint)))


def flag(
    default: Any,
    help: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    choices: Sequence[Any] | None = None,
    of_data: bool = False,
    only: str | None = None,
    formerly: str | None = None,
) -> Any:
    """A field of a Config.

    Args:
        default: its value if nothing is given.
        help: what it is, with its unit.
        lower: inclusive bound; of each entry, if the field is a tuple.
        upper: as `lower`.
        choices: the allowed values; of each entry, if the field is a tuple.
        of_data: it selects data, so it may differ between a training and its evaluation, as `data`
            and `data_dir` always may.
        only: the one mode that reads it. An evaluation resets a field of `train` to its default, so
            that the files it names may be gone; other modes refuse a field of `predict`.
        formerly: its old name, which still works as a flag and logs a warning.
    """
    metadata = {
        "help": help, "lower": lower, "upper": upper, "choices": choices, "of_data": of_data,
        "only": only, "formerly": formerly,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """The type of a field: a scalar, optionally None, optionally a tuple of scalars."""

    base: type
    optional: bool = False
    many: bool = False


def _kind(name: str, hint: Any) -> _Kind:
    arguments = typing.get_args(hint)
    scalars = (int, float, str, bool)
    if hint in scalars:
        return _Kind(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        bases = [a for a in arguments if a is not type(None)]
        if len(arguments) == 2 and len(bases) == 1 and bases[0] in (int, float, str):
            return _Kind(bases[0], optional=True)
    if (
        typing.get_origin(hint) is tuple
        and len(arguments) == 2
        and arguments[1] is Ellipsis
        and arguments[0] in (int, float, str)
    ):
        return _Kind(arguments[0], many=True)
    raise argument_error(f"Config.{name}", f"expected a field of type {_SUPPORTED}", hint)


def kinds(config_type: type) -> dict[str, _Kind]:
    """Field name -> its type, for every field of a Config.

    Raises:
        ValueError: the Config is no frozen dataclass, a type has no flag, or one of the fields
            that every experiment has is missing.
    """
    frozen = dataclasses.is_dataclass(config_type) and config_type.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if not frozen:
        raise argument_error("config", "expected a frozen dataclass", config_type)
    hints = typing.get_type_hints(config_type)
    names = [field.name for field in dataclasses.fields(config_type)]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise argument_error("config", f"expected the fields {_REQUIRED}", f"none named {missing}")
    taken = [name for name in names if name in _RESERVED]
    if taken:
        raise argument_error(
            "config", f"the names {_RESERVED} are flags already", f"fields {taken}"
        )
    return {name: _kind(name, hints[name]) for name in names}


def check_config(config_type: type, config: Any) -> None:
    """Raises ValueError unless every field of `config` is of its type and within its bounds."""
    if not isinstance(config, config_type):
        hint = "Pass `Config(...)`, or one of the presets."
        raise config_error("config", f"expected {config_type.__name__}", repr(config), hint)
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        kind = kinds(config_type)[field.name]
        value = getattr(config, field.name)
        if kind.many and not isinstance(value, tuple):
            raise config_error(field.name, "expected a tuple", repr(value))
        for one in value if kind.many else (value,):
            if not (kind.optional and one is None):
                _check_one(field, kind, one)


def _check_one(field: dataclasses.Field, kind: _Kind, value: Any) -> None:
    hint = field.metadata.get("help", "")
    hint = f"It is: {hint}" if hint else ""
    is_kind = {
        bool: lambda x: isinstance(x, bool),
        str: lambda x: isinstance(x, str),
        int: lambda x: isinstance(x, numbers.Integral) and not isinstance(x, bool),
        float: lambda x: isinstance(x, numbers.Real) and not isinstance(x, bool),
    }
    if not is_kind[kind.base](value):
        expected = f"expected {kind.base.__name__}" + (" or None" if kind.optional else "")
        raise config_error(field.name, expected, repr(value), hint)
    if kind.base is float and not math.isfinite(value):
        raise config_error(field.name, "expected a finite number", value, hint)
    lower, upper = field.metadata.get("lower"), field.metadata.get("upper")
    if kind.base is int and value > _LARGEST:
        upper = _LARGEST if upper is None else upper
    if (lower is not None and value < lower) or (upper is not None and value > upper):
        bounds = (f"at least {lower}" if lower is not None else "") + (
            " and " if lower is not None and upper is not None else ""
        ) + (f"at most {upper}" if upper is not None else "")  # fmt: skip
        raise config_error(field.name, f"expected {bounds}", value, hint)
    choices = field.metadata.get("choices")
    if choices is not None:
        try:
            check_choice(field.name, value, choices, hint)
        except ValueError as error:
            raise ConfigError(*error.args) from None


def check_evaluated(trained: Any, config: Any) -> None:
    """Raises ValueError if `config` differs from that of the training in more than its data."""
    free = {"data", "data_dir"} | {
        field.name for field in dataclasses.fields(config) if field.metadata.get("of_data")
    }
    config = dataclasses.replace(config, **{  # an evaluation does not read these
        field.name: getattr(trained, field.name)
        for field in dataclasses.fields(config)
        if field.metadata.get("only") == "train" and getattr(config, field.name) == field.default
    })  # fmt: skip
    before, now = config_to_dict(trained), config_to_dict(config)
    for name in before.keys() - free:
        if before[name] != now[name]:
            expected = f"expected {before[name]!r}, with which the model was trained"
            hint = f"What may differ: {', '.join(sorted(free))}."
            raise config_error(name, expected, repr(now[name]), hint)


def of_mode(config: Any, mode: str) -> Any:
    """The config with the fields of other modes reset to their defaults.

    Raises:
        ValueError: a field is given that only --mode=predict reads.
    """
    changes = {}
    for field in dataclasses.fields(config):
        only = field.metadata.get("only")
        if only in (None, mode) or getattr(config, field.name) == field.default:
            continue
        if only == "predict":
            expected = f"goes with --mode={only}"
            raise config_error(field.name, expected, repr(getattr(config, field.name)))
        changes[field.name] = field.default
    return dataclasses.replace(config, **changes)


def check_memory(name: str, size: float) -> None:
    """Raises ConfigError if a setting asks for more bytes than this machine has."""
    try:
        files.check_memory(name, size, "Reduce this setting, or one that multiplies it.")
    except ValueError as error:
        raise ConfigError(*error.args) from None


def check_data_dir(config: Any) -> None:
    """Raises ValueError if `data_dir` is given but would be ignored."""
    if config.data == "synthetic" and config.data_dir is not None:
        hint = "Give its kind with --data, or leave out --data_dir."
        raise config_error("data_dir", "is not read with --data=synthetic", config.data_dir, hint)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The config as a JSON object; equal configs give equal objects (1 and 1.0 too)."""
    out = {}
    for name, kind in kinds(type(config)).items():
        value = getattr(config, name)
        if kind.many:
            out[name] = [kind.base(one) for one in value]
        else:
            out[name] = None if value is None else kind.base(value)
    return out


def config_from_dict(
    config_type: type, values: Mapping[str, Any], *, complete: bool = False
) -> Any:
    """The inverse of `config_to_dict`.

    Args:
        config_type: the Config.
        values: fields as saved.
        complete: whether `values` are known to be all fields of their time: newer ones then get
            their defaults, with which a run is as before they existed.

    Raises:
        ValueError: unknown fields, or missing ones unless `complete`.
    """
    fields = kinds(config_type)
    values = with_new_names(config_type, values)
    unknown, missing = sorted(values.keys() - fields.keys()), sorted(fields.keys() - values.keys())
    if unknown or (missing and not complete):
        hint = "It was written by another version: train again, or check that version out."
        expected = f"expected the fields {sorted(fields)}"
        raise config_error("config.json", expected, f"{unknown + missing} on one side only", hint)
    if missing:
        _logger.info("config.json is older than the settings %s: their defaults hold", missing)
    made = {name: tuple(value) if fields[name].many else value for name, value in values.items()}
    config = config_type(**made)
    check_config(config_type, config)
    return config


class _OptionalParser(flags.ArgumentParser):
    """A number or text, or `none`."""

    def __init__(self, base: type):
        self._base = base
        self.syntactic_help = f"{base.__name__}, or 'none'"

    def parse(self, argument):
        if argument is None or str(argument).lower() == "none":
            return None
        return self._base(argument)

    def flag_type(self):
        return f"{self._base.__name__} or none"


def define_flags(
    config_type: type, presets: Mapping[str, Any], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines one flag per field of the Config, and the common flags."""
    fields = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    text = lambda name: COMMON_FLAGS[name][1]
    own: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string("workdir", None, text("workdir"), required=True, **own)
    flags.DEFINE_enum("preset", "default", sorted(presets), text("preset"), **own)
    flags.DEFINE_enum("mode", "train", MODES, text("mode"), **own)
    flags.DEFINE_string("checkpoint", None, text("checkpoint"), **own)
    flags.DEFINE_integer("trial", None, text("trial"), lower_bound=0, **own)
    if "init_from" not in fields:
        flags.DEFINE_string("init_from", None, text("init_from"), **own)
    if "default" not in presets:
        raise argument_error("presets", "expected the entry 'default'", sorted(presets))
    for name, kind in kinds(config_type).items():
        _define(name, kind, fields[name], getattr(presets["default"], name), flag_values)
    show_in_help(dict.fromkeys((*_RESERVED, "init_from", *fields)), flag_values)
    for name, old in _renamed(config_type).items():
        flags.DEFINE_alias(old, name, flag_values=flag_values)


def show_in_help(names: Iterable[str], flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Lists these flags in the program's --help, though its main module does not define them."""
    for name in names:
        flag_values.register_key_flag_for_module(sys.argv[0], flag_values[name])


def _define(
    name: str, kind: _Kind, field: dataclasses.Field, default: Any, flag_values: flags.FlagValues
) -> None:
    text = field.metadata.get("help", "")
    if field.metadata.get("choices") is not None:
        text += f" One of {', '.join(map(str, field.metadata['choices']))}."
    if kind.many:
        text += " Repeat the flag for several values."
        define = {
            int: flags.DEFINE_multi_integer,
            float: flags.DEFINE_multi_float,
            str: flags.DEFINE_multi_string,
        }[kind.base]
        define(name, list(default), text, flag_values=flag_values)
    elif kind.base is bool:
        flags.DEFINE_boolean(name, default, text, flag_values=flag_values)
    else:  # of several values: a sweep
        parser: flags.ArgumentParser = {
            int: flags.IntegerParser(), float: flags.FloatParser(), str: flags.ArgumentParser()
        }[kind.base]  # fmt: skip
        parser = _OptionalParser(kind.base) if kind.optional else parser
        serializer = flags.ArgumentSerializer()
        flags.DEFINE_multi(parser, serializer, name, [default], text, flag_values=flag_values)


def given_trial(flag_values: flags.FlagValues, mode: str) -> int | None:
    """The value of --trial; raises ConfigError where it is not read."""
    trial: Any = flag_values["trial"].value
    if trial is not None and mode not in ("predict", "export"):
        raise config_error("trial", "goes with --mode=predict or --mode=export", trial)
    return trial


def with_new_names(config_type: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that an older version saved, under their present names.

    The single value of a field that takes several today becomes a list.
    """
    new = {old: name for name, old in _renamed(config_type).items()}
    out = {new.get(name, name): value for name, value in values.items()}
    many = {name for name, kind in kinds(config_type).items() if kind.many}
    return {k: [v] if k in many and isinstance(v, (int, float, str)) else v for k, v in out.items()}


def as_of_today(config_type: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record under their present names; newer fields have their defaults' effect."""
    new = {field.name: field.default for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    return new | with_new_names(config_type, values)


def _renamed(config_type: type) -> dict[str, str]:
    """Field name -> old name, for renamed fields."""
    fields = dataclasses.fields(config_type)  # type: ignore[arg-type]
    return {f.name: f.metadata["formerly"] for f in fields if f.metadata.get("formerly")}


def given_fields(config_type: type, flag_values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """The fields whose flags were given on the command line."""
    given: dict[str, Any] = {}
    for name, old in _renamed(config_type).items():
        if flag_values[old].present:
            _logger.warning("--%s is called --%s now", old, name)
    for name, kind in kinds(config_type).items():
        value: Any = flag_values[name].value
        if not flag_values[name].present:
            continue
        if kind.base is bool:
            if flag_values[name].present > 1:
                raise config_error(name, "expected one value", "several")
            given[name] = value
        elif kind.many:
            given[name] = tuple(value)
        elif len(value) == 1:
            given[name] = value[0]
    return given


def swept_fields(
    config_type: type, flag_values: flags.FlagValues = flags.FLAGS
) -> dict[str, tuple[Any, ...]]:
    """Scalar fields whose flags were given several times, with their values."""
    swept = {}
    for name, kind in kinds(config_type).items():
        values: Any = flag_values[name].value
        if not kind.many and kind.base is not bool and len(values) > 1:
            swept[name] = tuple(values)
    return swept
