"""YAML to frozen dataclasses: unknown keys, wrong kinds and values out of bounds are all reported, with file and line.

Knows nothing of what the settings mean. A field may carry bounds: `setting(0.5, low=0, high=1)`, `setting("a", choices=…)`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from egm_edge.data.problems import Problem
from egm_edge.errors import InputError

T = TypeVar("T")
MAX_CONFIG_BYTES = 1 << 20
Key = tuple[str, ...]
KIND_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list",
    dict: "keys and values",
}


class ConfigError(InputError):
    """A configuration with problems; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        listed = "; ".join(f"{p.file}:{p.line}: expected {p.expected}, found {p.found}" for p in problems)
        super().__init__("a configuration without problems", f"{len(problems)}: {listed}", "correct the lines named")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    changes_result: bool = True,
) -> Any:
    """A dataclass field with bounds that `load_yaml` checks.

    Args:
        changes_result: False for what only decides speed, memory, logging or where files go (see `result_settings`).
    """
    bounds = {"low": low, "high": high, "choices": tuple(choices), "changes_result": changes_result}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=bounds)
    return dataclasses.field(default=default, metadata=bounds)


def load_yaml(kind: type[T], path: Path, overrides: Mapping[str, str] | None = None) -> T:
    """Read one file.

    Args:
        overrides: dotted key -> YAML text, as given on a command line; they win over the file.

    Raises:
        ConfigError: naming everything wrong at once.
    """
    values, lines = _read(path)
    problems: list[Problem] = []
    for key, text in (overrides or {}).items():
        _override(values, key, text, problems)
    config = _build(kind, values, (), str(path), lines, problems)
    if problems:
        raise ConfigError(problems)
    assert config is not None
    return config


def result_settings(config: Any) -> Any:
    """The settings that change a result, as plain values; nested dataclasses included."""
    if not dataclasses.is_dataclass(config):
        return list(config) if isinstance(config, tuple) else config
    kept = [f.name for f in dataclasses.fields(config) if f.metadata.get("changes_result", True)]
    return {name: result_settings(getattr(config, name)) for name in kept}


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError("a configuration of at most 1 MiB", f"a larger {path}", "check the path")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError("a configuration without aliases", f"one in {path}", "write the value out")
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # keeps line numbers
    except OSError as error:
        raise InputError("a configuration file", f"{path}: {error.strerror}", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        raise ConfigError([Problem(str(path), line, "YAML", " ".join(str(error).split())[:160])]) from None
    lines: dict[Key, int] = {}
    problems: list[Problem] = []
    values = _plain(root, (), lines, str(path), problems) if root is not None else {}
    if not isinstance(values, dict):
        problems.append(Problem(str(path), 1, "keys and values", f"a {type(values).__name__}"))
    if problems:
        raise ConfigError(problems)
    return values, lines


def _plain(node: yaml.Node, key: Key, lines: dict[Key, int], file: str, problems: list[Problem]) -> Any:
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(getattr(name_node, "value", ""))
            line = name_node.start_mark.line + 1
            if name in found:
                problems.append(Problem(file, line, "each key once", f"{'.'.join([*key, name])} again"))
            inner: Key = (*key, name)
            lines[inner] = line
            found[name] = _plain(value_node, inner, lines, file, problems)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, str(i)), lines, file, problems) for i, item in enumerate(node.value)]
    try:
        return yaml.safe_load(yaml.serialize(node))
    except yaml.YAMLError:
        problems.append(Problem(file, node.start_mark.line + 1, "a plain value", f"{'.'.join(key)}: {node.tag}"))
        return None


def _override(values: dict[str, Any], key: str, text: str, problems: list[Problem]) -> None:
    *parents, last = key.split(".")
    at: Any = values
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(at, dict) and last:
        at[last] = value
    else:
        problems.append(Problem("--set", 0, "key=value with a known key", key))


def _build(kind: Any, values: Any, key: Key, file: str, lines: dict[Key, int], problems: list[Problem]) -> Any:
    def wrong(at: Key, expected: str, found: str) -> None:
        problems.append(Problem(file, lines.get(at, lines.get(at[:-1], 0)), expected, f"{'.'.join(at)}: {found}"))

    if not isinstance(values, dict):
        wrong(key, "keys and values", f"a {type(values).__name__}")
        return None
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            wrong((*key, name), f"one of {', '.join(known)}", "an unknown key")
    arguments: dict[str, Any] = {}
    for name, field in known.items():
        if name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                wrong((*key, name), "a value", "nothing")
            continue
        before = len(problems)
        value = _value(hints[name], values[name], (*key, name), file, lines, problems)
        if len(problems) == before and (fault := _bounds(value, field.metadata)):
            wrong((*key, name), fault, repr(value))
        arguments[name] = value
    if problems:
        return None
    try:
        return kind(**arguments)
    except InputError as error:
        wrong(key or ("",), error.expected, error.found)
        return None


def _value(hint: Any, value: Any, key: Key, file: str, lines: dict[Key, int], problems: list[Problem]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hint = next(a for a in arguments if a is not type(None))
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, key, file, lines, problems)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item, (*key, str(i)), file, lines, problems) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {k: _value(arguments[1], v, (*key, k), file, lines, problems) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-5 as text; everyone who writes it means the number.
        with contextlib.suppress(ValueError):
            value = float(value)
    plain = hint if isinstance(hint, type) else origin
    good = isinstance(value, plain) and (plain is bool or not isinstance(value, bool))
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        name = KIND_NAMES.get(plain, str(plain))
        problems.append(Problem(file, lines.get(key, 0), name, f"{'.'.join(key)}: {value!r}"))
    return value


def _bounds(value: Any, bounds: Mapping[str, Any]) -> str:
    choices, low, high = bounds.get("choices", ()), bounds.get("low"), bounds.get("high")
    if choices and value not in choices:
        return f"one of {', '.join(choices)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if low is not None and value < low:
            return f"at least {low}"
        if high is not None and value > high:
            return f"at most {high}"
    return ""
