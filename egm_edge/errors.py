"""The exception tree. Every message says what was expected, what was found and what to type next.

Knows nothing of images, models or engines. Foreign exceptions are translated into these at the border to the library
that raised them; the command line prints `str(error)` on one line and exits with `error.exit_code`.
"""

from __future__ import annotations


class EgmError(Exception):
    """Base of every error that a user can mend.

    Args:
        expected: what was needed, as a noun phrase ("an HWC uint8 image").
        found: what was there instead ("a float64 array of shape (3, 480, 640)").
        hint: what to do or type next ("convert with image.astype(np.uint8)").
    """

    exit_code = 1

    def __init__(self, expected: str, found: str, hint: str) -> None:
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(" ".join(f"expected {expected}; found {found}; {hint}".split()))


class InputError(EgmError):
    """The image, the expression or an argument of a request is unusable."""

    exit_code = 2


class CheckpointError(EgmError):
    """A checkpoint directory is missing something, is of an unknown architecture, or is unsafe to open."""

    exit_code = 3


class BundleError(EgmError):
    """A bundle is missing, incomplete, tampered with, or was written by another version."""

    exit_code = 4


class BuildError(EgmError):
    """A bundle could not be built; nothing half-written was left behind."""

    exit_code = 5


class BackendError(EgmError):
    """The runtime that executes a bundle is missing or failed."""

    exit_code = 6


def message_of(error: BaseException, most: int = 300) -> str:
    """What a foreign error says, one line of at most `most` characters; its type's name where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
