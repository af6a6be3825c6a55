"""Stand-ins for the few names of `launch` and `launch_ros` that our launch files use; they resolve arguments and record."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Launched:
    """What would be started.

    Attributes:
        environment: variables set for the process.
        parameter_files, parameters: in the order and types that the node gets.
        remappings: topic name -> topic.
        arguments: words after the executable.
    """

    environment: dict[str, str] = field(default_factory=dict)
    package: str = ""
    executable: str = ""
    namespace: str = ""
    parameter_files: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    remappings: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


def read_launch_file(path: Path, **arguments: str) -> Launched:
    """The first process that a launch file with these arguments starts."""
    return read_launch_files(path, **arguments)[0]


def read_launch_files(path: Path, **arguments: str) -> list[Launched]:
    """Run `generate_launch_description`, and that of every included file, and resolve them with these launch arguments.

    `share:PACKAGE/…` stands for a file under a package's share folder; an included one is looked for beside `path`.
    """
    values: dict[str, str] = {}
    environment: dict[str, str] = {}
    started: list[Launched] = []

    def resolve(value: Any) -> Any:
        return value() if callable(value) else value

    def declare(name: str, default_value: Any, description: str) -> None:
        assert description
        values.setdefault(name, arguments.get(name, resolve(default_value)))

    def set_variable(name: str, value: Any, condition: Any) -> None:
        if resolve(condition):
            environment[name] = resolve(value)

    def include(source: Any, launch_arguments: Any) -> None:
        values.update({name: resolve(value) for name, value in launch_arguments})
        run(path.parent / Path(resolve(source)).name)

    def node(
        package: str,
        executable: str,
        name: str,
        namespace: Any,
        output: str,
        remappings: Any,
        parameters: Any = (),
        arguments: Any = (),
    ) -> None:
        launched = Launched(dict(environment), package, executable, resolve(namespace))
        launched.arguments = [resolve(word) for word in arguments]
        for item in parameters:
            if isinstance(item, dict):
                launched.parameters |= {key: resolve(value) for key, value in item.items()}
            else:
                launched.parameter_files.append(resolve(item))
        launched.remappings = {source: resolve(target) for source, target in remappings}
        started.append(launched)

    def typed(value: Any, value_type: type) -> Any:
        return lambda: resolve(value) == "true" if value_type is bool else value_type(resolve(value))

    names = {
        "launch": {"LaunchDescription": list},
        "launch.actions": {
            "DeclareLaunchArgument": declare,
            "IncludeLaunchDescription": include,
            "OpaqueFunction": lambda function: function(SimpleNamespace(launch_configurations=values)),
            "SetEnvironmentVariable": set_variable,
        },
        "launch.conditions": {"IfCondition": lambda value: lambda: resolve(value) == "true"},
        "launch.launch_description_sources": {"PythonLaunchDescriptionSource": lambda value: value},
        "launch.substitutions": {
            "LaunchConfiguration": lambda name: lambda: values[name],
            "PathJoinSubstitution": lambda parts: lambda: "/".join(resolve(part) for part in parts),
        },
        "launch_ros": {},
        "launch_ros.actions": {"LifecycleNode": node, "Node": node},
        "launch_ros.parameter_descriptions": {"ParameterValue": typed},
        "launch_ros.substitutions": {"FindPackageShare": lambda package: lambda: f"share:{package}"},
    }

    def run(file: Path) -> None:
        spec = importlib.util.spec_from_file_location("launch_file", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.generate_launch_description()

    saved = {name: sys.modules.get(name) for name in names}
    try:
        for name, members in names.items():
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(members)
        run(path)
    finally:
        for name, module_before in saved.items():
            sys.modules.pop(name)
            if module_before is not None:
                sys.modules[name] = module_before
    return started
