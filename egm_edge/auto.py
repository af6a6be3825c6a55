"""open_grounder: whatever names a model (bundle, checkpoint, hub id, server, nothing), with the Grounder that runs it.

    with open_grounder("out/egm-4b-orin") as grounder:
        grounding = grounder.ground("frame.png", "the red mug", deadline_ms=1500)

A bundle answers through logits (`Grounder`) or through a runtime that gives text (`TextGrounder`), as its manifest says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.text_runtime import HTTP, grounder_class
from egm_edge.bundle import Bundle, Verify
from egm_edge.bundle_from_checkpoint import open_directory
from egm_edge.decoding import DecodingKeywords, TokenEvent
from egm_edge.errors import BackendError
from egm_edge.golden.attestation import check_at_first_open
from egm_edge.grounder import Grounder
from egm_edge.grounding import Grounding, Task
from egm_edge.own_packages import import_own
from egm_edge.sources import Source, SourceKind, resolve

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class AnyFrame(Protocol):
    """One picture, ready to be asked about; see `egm_edge.grounder.Frame`."""

    @property
    def image_wh(self) -> tuple[int, int]: ...

    @property
    def decode_image_ms(self) -> float: ...

    @property
    def preprocess_ms(self) -> float: ...

    def charged_to(self, grounding: Grounding) -> Grounding: ...


class AnyGrounder(Protocol):
    """What all Grounders of bundles share; see `egm_edge.grounder.Grounder` for arguments and errors.

    Decoding options that need logits (samples, temperature, max_think_tokens) are an InputError where the runtime keeps them.
    """

    bundle: Bundle

    @property
    def facts(self) -> RuntimeFacts: ...

    @property
    def bundle_hash(self) -> str: ...

    @property
    def pixel_spec_hash(self) -> str: ...

    @property
    def prompt_spec_hash(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def warm_up(self) -> None: ...

    def frame(
        self, image: Any, *, color: str | None = None, stamp_ns: int | None = None, reduced_decoding: bool = False
    ) -> AnyFrame: ...

    def ground(
        self,
        image: Any,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        reduced_decoding: bool = False,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
        **decoding: Unpack[DecodingKeywords],
    ) -> Grounding: ...


def open_grounder(
    model: str | Path | Source | Bundle | None = None,
    *,
    memory: str = "auto",
    threads: int | None = None,
    verify: Verify = "full",
    check: bool = True,
) -> AnyGrounder:
    """Open what answers for `model`, and load its engine.

    Args:
        model: whatever `sources.resolve` understands (None: $EGM_BUNDLE, else the shipped model), or an opened bundle. A hub
            id is downloaded and built for this machine the first time.
        memory, threads, verify: as in `Grounder.from_bundle`; runtimes with memory and threads of their own ignore them.
        check: as in `Grounder.from_opened`.

    Raises:
        BundleError, CheckpointError, InputError: nothing there, damaged, or of another version.
        BackendError: its runtime is missing or cannot load it.
    """
    if not isinstance(model, Bundle):
        source = model if isinstance(model, Source) else resolve(model)
        if source.kind is SourceKind.SERVER:
            return _server(source.text)
        model = open_directory(directory_of(source), verify=verify)
    runtime = model.manifest.text_runtime
    if runtime and runtime != HTTP:  # a server's bundle is refused below, with the address to ask instead
        grounder: AnyGrounder = grounder_class(runtime).from_opened(model)
        if check:
            check_at_first_open(grounder, model, grounder.facts)
        return grounder
    return Grounder.from_opened(model, memory=memory, threads=threads, check=check)


def directory_of(source: Source) -> Path:
    """The bundle's or checkpoint's directory; a hub id is downloaded and built first.

    Raises:
        BackendError: the builder, which a hub id needs, is not installed.
        CheckpointError, BuildError: the hub has no such model, or it cannot be built here.
    """
    if source.kind is not SourceKind.HUB:
        return source.directory
    try:  # by name: the builder stands on this package, never the other way round
        build = import_own("build_engine.local_build")
        return Path(build.bundle_of_hub_id(source.text))
    except ModuleNotFoundError as error:
        needed = f"the Python package {error.name!r}, to build {source.text} for this machine"
        raise BackendError(needed, "not installed", "pip install 'egm-edge[verify]'") from None


def _server(address: str) -> AnyGrounder:
    from egm_edge.backends.text_runtime.http import RemoteGrounder

    return cast("AnyGrounder", RemoteGrounder.from_url(address))
