"""Every name and signature of rclpy that egm_ros uses, against the sources of four distributions, as data."""

from __future__ import annotations

import ast
import json

import pytest
from rclpy_table import DISTRIBUTIONS, TABLE, calls, imported, signature, sources

NAMES = json.loads(TABLE.read_text())
# Methods of our own, of the standard library and of messages that happen to be called as one of rclpy's is.
OURS = {
    *("Time", "Timer", "nanoseconds", "sleep", "add", "call", "cancel", "clear", "close", "get", "result"),
    *("set", "shutdown", "stop", "wait", "publish", "destroy"),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_name_that_is_imported_is_there(distribution: str) -> None:
    known = NAMES[distribution]["names"]
    missing = {
        module: names - set(known.get(module, ()))
        for module, names in imported().items()
        if names - set(known.get(module, ()))
    }
    assert not missing


def by_last_name(distribution: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in NAMES[distribution]["signatures"].items():
        path = name.partition(":")[2].split(".")
        last = path[-2] if path[-1] == "__init__" else path[-1]
        found.setdefault(last, []).append(text)
    return found


def fits(call: ast.Call, text: str) -> bool:
    if any(isinstance(one, ast.Starred) for one in call.args) or any(one.arg is None for one in call.keywords):
        return True
    try:
        signature(text).bind(*call.args, **{str(one.arg): None for one in call.keywords})
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_call_fits(distribution: str) -> None:
    known, newest = by_last_name(distribution), by_last_name("jazzy")
    wrong, checked = [], 0
    for file, tree in sources().items():
        for name, call in calls(tree):
            if name not in newest or name in OURS:
                continue
            checked += 1
            if not any(fits(call, text) for text in known.get(name, ())):
                wrong.append(
                    f"{file}:{call.lineno}: {ast.unparse(call)[:80]}; {name} takes {known.get(name, 'nothing')}"
                )
    assert not wrong, "\n".join(wrong)
    assert checked > 80


def test_a_call_that_only_newer_ones_take_would_be_found() -> None:
    call = ast.parse("node.create_timer(1.0, tick, autostart=False)", mode="eval").body
    assert isinstance(call, ast.Call)
    assert not any(fits(call, text) for text in by_last_name("humble")["create_timer"])
    assert any(fits(call, text) for text in by_last_name("jazzy")["create_timer"])
