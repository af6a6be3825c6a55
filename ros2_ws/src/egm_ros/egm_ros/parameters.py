"""Settings as ROS parameters: declared with description and range, validated on every set."""

from __future__ import annotations

from dataclasses import Field, fields, replace

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from egm_edge.errors import InputError
from egm_ros.settings import START_UP, Settings, parameter_name

_FIELDS = {parameter_name(item): item.name for item in fields(Settings)}


def _descriptor(item: Field) -> ParameterDescriptor:
    meta = item.metadata
    descriptor = ParameterDescriptor(description=meta["description"], read_only=meta["read"] == START_UP)
    if meta["choices"]:
        descriptor.additional_constraints = "one of: " + ", ".join(meta["choices"])
    if meta["low"] is not None and isinstance(item.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=meta["low"], to_value=meta["high"])]
    elif meta["low"] is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(meta["low"]), to_value=int(meta["high"]))]
    return descriptor


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
            try:
                values[item.name] = node.declare_parameter(parameter_name(item), item.default, _descriptor(item)).value
            except Exception as error:  # rclpy raises several types here; all say which parameter and why
                raise InputError(f"a valid {parameter_name(item)}", str(error), item.metadata["description"]) from error
        self.current = Settings(**values)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, changed: list[Parameter]) -> SetParametersResult:
        try:
            self.current = replace(self.current, **{_FIELDS[p.name]: p.value for p in changed if p.name in _FIELDS})
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
