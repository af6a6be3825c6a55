"""Fields of a settings dataclass that are ROS parameters, too: each with its description, range or choices, and when it is read.

Knows nothing of ROS; `parameters.py` declares such fields.
"""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any

from egm_edge.errors import InputError

START_UP, CONFIGURE, ACTIVATE = "start-up", "configure", "activate"


def setting(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    read: str = "",
    name: str = "",
) -> Any:
    """Args: read: when it is read, "" for at every use; read at START_UP means read-only; name: the parameter's, if another."""
    if read:
        description += f" Read {'at' if read == START_UP else 'on'} {read}."
    return field(
        default=default,
        metadata={
            "description": description, "low": low, "high": high, "choices": choices, "read": read, "name": name,
        },
    )  # fmt: skip


def parameter_name(item: Field) -> str:
    return item.metadata["name"] or item.name


def require_valid(settings: Any, *more: str) -> None:
    """Raises: InputError: values of another type, out of range or not among the choices; all problems at once, `more` included."""
    problems = [problem for item in fields(settings) if (problem := _problem(item, getattr(settings, item.name)))]
    if problems or any(more):
        found = "; ".join(filter(None, [*problems, *more]))
        raise InputError("valid settings", found, "correct them in the parameter file or with -p key:=value")


def _problem(item: Field, value: Any) -> str:
    meta, wanted = item.metadata, type(item.default)
    if type(value) is not wanted:
        return f"{parameter_name(item)} must be of type {wanted.__name__}, got {value!r}"
    if meta["choices"] and value not in meta["choices"]:
        return f"{parameter_name(item)} must be one of {', '.join(meta['choices'])}, got {value!r}"
    if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
        return f"{parameter_name(item)} must be in {meta['low']:g} to {meta['high']:g}, got {value!r}"
    return ""
