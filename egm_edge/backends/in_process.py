"""InProcessGrounder: what runtimes have in common that answer whole requests in this process, their logits kept inside.

Such a runtime takes a picture and text and gives text back, as a server does; `RemoteGrounder` owns everything round that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from egm_edge.backends.base import Capabilities, RuntimeFacts
from egm_edge.backends.openai_http.remote_grounder import RemoteGrounder
from egm_edge.backends.openai_http.served_model import ServedModel
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError
from egm_edge.openai import Server

# A fenced list of one box, the answer of Qwen3-VL's grounding prompt; the numbers are 0 to 1000.
BOX_PATTERN = r'```json\n\[\{"bbox_2d": \[(-?\d{1,4}, ){3}-?\d{1,4}\], "label": "[^"\n]{0,200}"\}\]\n```'


@dataclass(frozen=True, slots=True)
class InProcess(Server):
    """Stands where a server's address would: a runtime in this process. `url` is its name in messages."""

    def __post_init__(self) -> None:
        pass

    @property
    def where(self) -> str:
        return self.url


class InProcessGrounder(RemoteGrounder):
    """Answers expressions with one bundle; same arguments and same Groundings as `Grounder`. Threads may share it.

    Attributes:
        bundle: what runs. facts: the runtime and its device.
        guided: (kind, guide) of the runtime's own guided decoding for every request, as it names the kinds; None leaves the
            model free. Where the template opens a thought the guide holds behind `</think>`.
    """

    # A second sentence on a picture skips what the runtime's cache holds of the first one's prefix.
    capabilities = Capabilities(tokens=False, frame_reuse=True, rewind=False, interrupt=True)

    def __init__(
        self, name: str, facts: RuntimeFacts, engine: Any, bundle: Bundle, guided: tuple[str, str] | None
    ) -> None:
        super().__init__(InProcess(f"{name} with {bundle.root.name}"), bundle.root.name, ServedModel.read(bundle.root))
        self.bundle = bundle
        self.facts = facts
        self.guided = guided
        self.max_new_tokens = int(bundle.manifest.limits["max_new_tokens"])
        self._engine = engine

    def _open_engine(self) -> Any:
        """The engine.

        Raises:
            BackendError: `close` was called.
        """
        if self._engine is None:
            raise BackendError("an open grounder", "a closed one", "open the bundle again")
        return self._engine
