"""CHECKPOINT as the user typed it -> a local directory: the shipped one, a path, or a hub id that is downloaded.

Nothing is downloaded unless the user named a hub id. Only weights in safetensors, JSON, the chat template, licence and
model card are fetched: no pickles, no code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from egm_edge.bundle import MANIFEST_NAME
from egm_edge.errors import BackendError, BuildError, BundleError, CheckpointError, InputError, message_of
from egm_edge.sources import HUB_ID, SourceKind, resolve

SETTINGS = ("*.json", "chat_template.jinja", "LICENSE*", "README.md")
PATTERNS = ("*.safetensors", *SETTINGS)


def resolve_checkpoint(given: str, *, weights: bool = True) -> Path:
    """The local directory of a checkpoint.

    Args:
        given: "egm-nano", a directory, or a hub id ("nvidia/EGM-4B", "nvidia/EGM-4B@revision").
        weights: of a hub id, fetch them too; without them its settings alone, a few megabytes.

    Raises:
        CheckpointError: no such directory, or the hub has no such model or cannot be reached.
        BackendError: the hub's client is not installed.
    """
    home = Path(given)
    if given.strip() and home.is_dir() and ((home / "config.json").is_file() or not (home / MANIFEST_NAME).is_file()):
        return Path(given)  # Checkpoint says what is wrong with it
    try:
        source = resolve(given, takes=(SourceKind.CHECKPOINT, SourceKind.HUB), prefers=SourceKind.CHECKPOINT)
    except (BundleError, InputError) as error:
        raise CheckpointError(error.expected, error.found, error.hint) from None
    match = HUB_ID.fullmatch(given)
    if match is None or source.path is not None:
        return source.directory
    return _download(match["repo"], match["revision"], PATTERNS if weights else SETTINGS)


def _download(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise BackendError("huggingface_hub, to fetch a hub id", str(error), "pip install 'egm-edge[build]'") from None
    wanted = f"{repo}@{revision}" if revision else repo
    try:
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"the hub to answer for {wanted}, or a downloaded copy of it",
            "no connection, and nothing in the cache",
            "connect, set HF_ENDPOINT to a mirror, or pass the directory of a checkpoint",
        ) from None
    except HFValidationError as error:
        raise CheckpointError("a hub id OWNER/NAME", str(error), "check the spelling") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        what = {401: "not allowed (401)", 403: "not allowed (403)", 404: "not there (404)"}.get(status or 0, f"HTTP {status}")
        hint = "check the name, or log in with `hf auth login` if it is gated"
        raise CheckpointError(f"a model {wanted} on the hub", what, hint) from None
    except OSError as error:
        if error.errno is not None and error.filename:
            raise BuildError(f"to store {wanted}", str(error), "free some space, or set HF_HOME to another disk") from None
        hint = "connect, set HF_ENDPOINT to a mirror, or pass the directory of a checkpoint"
        raise CheckpointError(f"the hub to answer for {wanted}", message_of(error, 200), hint) from None
    return found
