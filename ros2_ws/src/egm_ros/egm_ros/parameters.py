"""Settings as ROS parameters: declared with description and range, validated on every set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from egm_edge.errors import InputError
from egm_ros.settings import START_UP, Settings, parameter_name

_FIELDS = {parameter_name(item): item.name for item in fields(Settings)}


def described(
    default: Any, text: str, *, low: float | None = None, high: float | None = None, choices: Sequence[str] = (),
    read_only: bool = False,
) -> ParameterDescriptor:  # fmt: skip
    """A parameter's description, with a range for numbers and the choices for words."""
    descriptor = ParameterDescriptor(description=text, read_only=read_only)
    if choices:
        descriptor.additional_constraints = "one of: " + ", ".join(choices)
    if low is not None and high is not None and isinstance(default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    elif low is not None and high is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def declared(node: Node, name: str, default: Any, descriptor: ParameterDescriptor) -> Any:
    """Declare it; its value.

    Raises:
        InputError: a value from the command line or the parameter file is out of range, or of another type.
    """
    try:
        return node.declare_parameter(name, default, descriptor).value
    except Exception as error:  # rclpy raises several types here; all say which parameter and why
        raise InputError(f"a valid {name}", str(error), descriptor.description) from error


class ParameterSettings:
    """The node's current Settings, kept in step with its ROS parameters.

    Attributes:
        current: replaced as a whole when a parameter is set; a set that would make it invalid is refused with the reason.

    Raises:
        InputError: a value from the command line or the parameter file is out of range, or of another type.
    """

    def __init__(self, node: Node) -> None:
        values = {}
        for item in fields(Settings):
            meta, name = item.metadata, parameter_name(item)
            kept = {key: meta[key] for key in ("low", "high", "choices")}
            descriptor = described(item.default, meta["description"], read_only=meta["read"] == START_UP, **kept)
            values[item.name] = declared(node, name, item.default, descriptor)
        self.current = Settings(**values)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            self.current = replace(self.current, **{_FIELDS[p.name]: p.value for p in changed if p.name in _FIELDS})
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
