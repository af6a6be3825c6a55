"""Settings as ROS parameters: declared with description and range, validated on every set."""

from __future__ import annotations

from dataclasses import Field, fields, replace
from typing import Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from egm_edge.errors import InputError
from egm_ros.parameter_fields import START_UP, parameter_name

S = TypeVar("S")


class ParameterSettings(Generic[S]):
    """A node's current settings, kept in step with its ROS parameters.

    Args:
        kind: a dataclass whose fields are made by `parameter_fields.setting`.

    Attributes:
        current: replaced as a whole when a parameter is set; a set that would make it invalid is refused with the reason.

    Raises:
        InputError: a value from the command line or the parameter file is out of range, or of another type.
    """

    def __init__(self, node: Node, kind: type[S]) -> None:
        self._names = {parameter_name(item): item.name for item in fields(kind)}  # type: ignore[arg-type]
        self.current: S = kind(**{item.name: _declared(node, item) for item in fields(kind)})  # type: ignore[arg-type]
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            new = {self._names[p.name]: p.value for p in changed if p.name in self._names}
            self.current = replace(self.current, **new)  # type: ignore[type-var]
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _declared(node: Node, item: Field) -> object:
    """The parameter's value, once it is declared."""
    name = parameter_name(item)
    try:
        return node.declare_parameter(name, item.default, _descriptor(item)).value
    except Exception as error:  # rclpy raises several types here; all say which parameter and why
        raise InputError(f"a valid {name}", str(error), item.metadata["description"]) from error


def _descriptor(item: Field) -> ParameterDescriptor:
    """With a range for numbers and the choices for words."""
    meta = item.metadata
    descriptor = ParameterDescriptor(description=meta["description"], read_only=meta["read"] == START_UP)
    if meta["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
    low, high = meta["low"], meta["high"]
    if low is not None and isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    elif low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor
