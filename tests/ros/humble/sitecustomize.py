"""Forces what rclpy 3.3 of Humble does upon a newer one, in every Python process that finds this folder on its path.

Calls from outside rclpy must fit Humble's signatures (`rclpy_signatures.json`), callbacks of subscriptions get the message
alone, and a handle that was destroyed meanwhile raises in the executor. `EGM_ROS_FORCE=humble pytest tests/ros` sets it up.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
from rclpy_table import TABLE, signature  # noqa: E402


def _checked(function: Callable, text: str, name: str, *, bound: bool) -> Callable:
    expected = signature(text)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith("rclpy"):
            try:
                expected.bind(*arguments[bound:], **keywords)
            except TypeError as error:
                raise TypeError(f"{name} of Humble takes ({text}): {error}") from None
        return function(*arguments, **keywords)

    return call


def _take_subscription(_executor: Any, subscription: Any) -> Any:
    from rclpy.executors import await_or_execute

    with subscription.handle:
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    if taken is None:
        return None

    async def execute() -> None:
        await await_or_execute(subscription.callback, taken[0])

    return execute


def force() -> None:
    table = json.loads(TABLE.read_text())
    for name, text in table["humble"]["signatures"].items():
        module_name, _, path = name.partition(":")
        owner: Any = importlib.import_module(module_name)
        *classes, last = path.split(".")
        for part in classes:
            owner = getattr(owner, part)
        function = vars(owner).get(last)
        # The logger throttles by the place it is called from, which a wrapper would make one and the same.
        if callable(function) and not isinstance(function, type) and "rcutils_logger" not in module_name:
            setattr(owner, last, _checked(function, text, name, bound=bool(classes)))
    from rclpy.executors import Executor
    from rclpy.subscription import Subscription

    Executor._take_subscription = _take_subscription
    del Subscription.callback  # a property that looks at the callback's signature; a plain attribute in Humble
    del Subscription.CallbackType


if not any("model_process" in argument for argument in sys.orig_argv):
    force()
