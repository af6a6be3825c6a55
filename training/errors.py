"""The error of settings that cannot be used, whether they come from a file or from code."""

from __future__ import annotations

from egm_edge.errors import InputError


class SettingError(InputError, ValueError):
    """A value that its neighbours or its owner refuse; a ValueError too, so that pydantic tells it with its place."""
