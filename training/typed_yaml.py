"""YAML to frozen dataclasses, checked by pydantic: everything wrong with a file is reported at once, with its lines.

Knows nothing of what the settings mean. Bounds and choices are the fields' own types (`PositiveInt`, `Literal`, `Share`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from egm_edge.data.problems import Problem
from egm_edge.errors import InputError, message_of

T = TypeVar("T")
MAX_CONFIG_BYTES = 1 << 20
Key = tuple[str | int, ...]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
_KEEPS_RESULT = "keeps the result"
KeepsResult = Annotated[T, _KEEPS_RESULT]
"""The type of a setting that only decides speed, memory, logging or where files go (see `result_settings`)."""
_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "keys and values",
    "dataclass_type": "keys and values",
    "missing": "a value",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$")


class ConfigError(InputError):
    """A configuration with problems; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        listed = "; ".join(f"{p.file}:{p.line}: expected {p.expected}, found {p.found}" for p in problems)
        super().__init__("a configuration without problems", f"{len(problems)}: {listed}", "correct the lines named")


class SettingsSection:
    """What a dataclass of settings inherits: no keys but its own, no conversions. It may raise a SettingError."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def load_yaml(kind: type[T], path: Path, overrides: Mapping[str, str] | None = None) -> T:
    """Read one file.

    Args:
        kind: a SettingsSection.
        overrides: dotted key -> YAML text, as given on a command line; they win over the file.

    Raises:
        ConfigError: naming everything wrong at once.
    """
    values, lines = _read(path)
    problems: list[Problem] = []
    for key, text in (overrides or {}).items():
        _override(values, key, text, problems)
    try:
        config = TypeAdapter(kind).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise ConfigError(problems + [_problem(kind, fault, str(path), lines) for fault in error.errors()]) from None
    if problems:
        raise ConfigError(problems)
    return config


def result_settings(config: Any) -> Any:
    """The settings that change a result, as plain values; nested dataclasses included."""
    if not dataclasses.is_dataclass(config):
        return list(config) if isinstance(config, tuple) else config
    hints = typing.get_type_hints(type(config), include_extras=True)
    kept = [
        f.name for f in dataclasses.fields(config) if _KEEPS_RESULT not in getattr(hints[f.name], "__metadata__", ())
    ]
    return {name: result_settings(getattr(config, name)) for name in kept}


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted keys, as `overrides` names them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _problem(kind: Any, fault: ErrorDetails, file: str, lines: Mapping[Key, int]) -> Problem:
    key, name, facts = fault["loc"], fault["type"], fault.get("ctx", {})
    line = next((lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines), 0)
    known = _EXPECTED.get(name)
    expected = known.format(**facts) if known else fault["msg"].removeprefix("Input should be ")
    found = "nothing" if name == "missing" else repr(fault["input"])[:80]
    if name == "unexpected_keyword_argument":
        expected, found = f"one of {', '.join(_names(kind, key[:-1]))}", "an unknown key"
    elif name == "value_error":
        expected, found = facts["error"].expected, facts["error"].found
    return Problem(file, line, expected, f"{_joined(key)}: {found}" if key else found)


def _names(kind: Any, key: Key) -> list[str]:
    """The settings that the section at `key` has."""
    for part in key:
        if isinstance(part, str):
            hint = typing.get_type_hints(kind)[part]
            kind = next(inner for inner in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(inner))
    return [field.name for field in dataclasses.fields(kind)]


class _Loader(yaml.SafeLoader):
    """Plain values with the line of each key; a key that comes twice and what is no plain value are problems.

    As in YAML 1.2, which everyone means, 1e-5 is a number.
    """

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file = file
        self.lines: dict[Key, int] = {}
        self.problems: list[Problem] = []

    def plain(self, node: yaml.Node, key: Key = ()) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(key, line)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for name_node, value_node in node.value:
                name = str(getattr(name_node, "value", ""))
                inner: Key = (*key, name)
                self.lines[inner] = name_node.start_mark.line + 1
                if name in found:
                    self._refuse(self.lines[inner], "each key once", f"{_joined(inner)} again")
                found[name] = self.plain(value_node, inner)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*key, i)) for i, item in enumerate(node.value)]
        try:
            return self.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._refuse(line, "a plain value", f"{_joined(key)}: {node.tag}")

    def _refuse(self, line: int, expected: str, found: str) -> None:
        self.problems.append(Problem(self.file, line, expected, found))


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def _joined(key: Key) -> str:
    return ".".join(map(str, key))


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError("a configuration of at most 1 MiB", f"a larger {path}", "check the path")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError("a configuration without aliases", f"one in {path}", "write the value out")
        loader = _Loader(text, str(path))
        root = loader.get_single_node()
        values = loader.plain(root) if root is not None else {}
    except OSError as error:
        raise InputError("a configuration file", f"{path}: {error.strerror}", "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        raise ConfigError([Problem(str(path), line, "YAML", message_of(error, 160))]) from None
    if not isinstance(values, dict):
        loader.problems.append(Problem(str(path), 1, "keys and values", f"a {type(values).__name__}"))
    if loader.problems:
        raise ConfigError(loader.problems)
    return values, loader.lines


def _override(values: dict[str, Any], key: str, text: str, problems: list[Problem]) -> None:
    *parents, last = key.split(".")
    at: Any = values
    for parent in parents:
        at = at.setdefault(parent, {}) if isinstance(at, dict) else None
    try:
        value = _Loader(text, "--set").get_single_data()
    except (yaml.YAMLError, ValueError):
        value = text
    if isinstance(at, dict) and last:
        at[last] = value
    else:
        problems.append(Problem("--set", 0, "key=value with a known key", key))
