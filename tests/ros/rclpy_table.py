"""rclpy's names and signatures in the distributions that are supported, as data: `rclpy_signatures.json`.

    python tests/ros/rclpy_table.py humble=DIR jazzy=DIR kilted=DIR rolling=DIR

Each DIR holds the Python package `rclpy` of that distribution (its branch of ros2/rclpy, or a wheel); only its syntax is read.
Of every class and module that egm_ros touches, the parameters of what has a name that egm_ros calls are kept:
"a, b=, *, c=" stands for two that may be given by position, one of them optional, and one by keyword.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "rclpy_signatures.json"
EGM_ROS = HERE.parents[1] / "ros2_ws" / "src" / "egm_ros" / "egm_ros"
MODULES = (
    "__init__", "action/__init__", "action/client", "action/server",
    "callback_groups", "client", "clock", "context", "executors", "exceptions",
    "impl/rcutils_logger", "lifecycle/__init__", "lifecycle/node", "lifecycle/publisher", "node", "parameter", "publisher",
    "qos", "serialization", "service", "signals", "subscription", "task", "time", "timer", "utilities",
)  # fmt: skip
DISTRIBUTIONS = ("humble", "jazzy", "kilted", "rolling")


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a name or a method, by its last name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, node


def sources() -> dict[str, ast.Module]:
    return {path.name: ast.parse(path.read_text()) for path in sorted(EGM_ROS.glob("*.py"))}


def parameters(function: ast.FunctionDef) -> str:
    given = function.args
    words = []
    positional = [*given.posonlyargs, *given.args]
    required = len(positional) - len(given.defaults)
    for number, one in enumerate(positional):
        if one.arg not in ("self", "cls"):
            words.append(one.arg + ("=" if number >= required else ""))
    if given.vararg:
        words.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        words.append("*")
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        words.append(one.arg + ("=" if default is not None else ""))
    if given.kwarg:
        words.append(f"**{given.kwarg.arg}")
    return ", ".join(words)


def signature(text: str) -> Signature:
    """The inverse of `parameters`."""
    kind, found = Parameter.POSITIONAL_OR_KEYWORD, []
    for word in filter(None, text.split(", ")):
        if word == "*":
            kind = Parameter.KEYWORD_ONLY
        elif word.startswith("**"):
            found.append(Parameter(word[2:], Parameter.VAR_KEYWORD))
        elif word.startswith("*"):
            found.append(Parameter(word[1:], Parameter.VAR_POSITIONAL))
            kind = Parameter.KEYWORD_ONLY
        else:
            default = None if word.endswith("=") else Parameter.empty
            found.append(Parameter(word.rstrip("="), kind, default=default))
    return Signature(found)


def table_of(package: Path, wanted: set[str]) -> dict[str, dict]:
    """Args: package: the folder `rclpy`; wanted: last names of what is called."""
    names: dict[str, list[str]] = {}
    signatures: dict[str, str] = {}
    for module in MODULES:
        path = package / f"{module}.py"
        if not path.is_file():
            continue
        dotted = ".".join(["rclpy", *module.split("/")]).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        names[dotted] = sorted(set(_top_level(tree)))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name in wanted:
                signatures[f"{dotted}:{node.name}"] = parameters(node)
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not _is_overload(method):
                        name = node.name if method.name == "__init__" else method.name
                        if name in wanted and not method.name.startswith("__change"):
                            signatures[f"{dotted}:{node.name}.{method.name}"] = parameters(method)
    return {"names": names, "signatures": dict(sorted(signatures.items()))}


def _is_overload(method: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in method.decorator_list)


def _top_level(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.ImportFrom, ast.Import)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def imported() -> dict[str, set[str]]:
    """Module of rclpy -> the names that egm_ros takes from it."""
    found: dict[str, set[str]] = {}
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
                found.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
    return found


def version_of(package: Path) -> str:
    """From the manifest of a checkout, or the name of a wheel's metadata."""
    manifest = package.parent / "package.xml"
    if manifest.is_file():
        return re.findall(r"<version>(.*)</version>", manifest.read_text())[0]
    return next(package.parent.glob("rclpy-*")).name.split("-")[1]


def main(arguments: list[str]) -> None:
    wanted = {name for tree in sources().values() for name, _ in calls(tree)}
    folders = dict(argument.split("=", 1) for argument in arguments)
    table = {}
    for name in DISTRIBUTIONS:
        table[name] = table_of(Path(folders[name]), wanted)
        taken = imported()
        names = table[name]["names"]
        table[name]["version"] = version_of(Path(folders[name]))
        table[name]["names"] = {
            module: sorted(set(names[module]) & taken[module]) for module in taken if module in names
        }
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
