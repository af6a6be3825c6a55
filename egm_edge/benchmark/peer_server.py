"""A server as a peer: any OpenAI-compatible one by its address, or llama.cpp's own, started here for the comparison.

The clock of both sides starts at the picture: a server does its own preprocessing. The client's encoding and the way over
HTTP are part of the server's time, as they are for whoever uses it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from pathlib import Path

from egm_edge.benchmark.peer import PeerRequest, PeerSample
from egm_edge.decoding import TokenEvent
from egm_edge.encoding import png
from egm_edge.errors import BackendError
from egm_edge.openai import NoAnswerError, OpenAIClient, RequestRefusedError, Retry, data_url, grounding_request

LLAMA_SERVER = "llama-server"
START_S, STOP_S = 300.0, 10.0


class ServerPeer:
    """An OpenAI-compatible server, streamed, greedy.

    Raises:
        BackendError: nobody answers there.
    """

    starts_at, exact = "picture", False
    precision, threads = "the server's own", 0

    def __init__(self, url: str, *, key: str | None = None, model: str | None = None) -> None:
        self._client = OpenAIClient(url, key=key, retry=Retry(tries=1, timeout_s=600.0))
        self._model = model or self._client.models()[0]
        self._to_the_cap = True
        self.name = f"{self._model} at {self._client.server.base_url}"

    def run(self, request: PeerRequest, count: int) -> PeerSample:
        """Generate `count` tokens; fewer where the server does not know `ignore_eos`."""
        started = time.perf_counter()
        body = grounding_request(self._model, data_url(png(request.picture), "image/png"), request.sentence, count)
        try:
            reply = self._client.complete(body | {"ignore_eos": True} if self._to_the_cap else body, on_token=_ignore)
        except RequestRefusedError:
            if not self._to_the_cap:
                raise
            self._to_the_cap = False  # this server takes no field it does not know
            return self.run(request, count)
        return PeerSample.of(
            started, reply.piece_times, reply.finished_at, reply.completion_tokens, reply.prompt_tokens,
            counted=reply.usage_given,
        )  # fmt: skip

    def close(self) -> None:
        """Nothing to free."""


class LlamaCppPeer(ServerPeer):
    """llama.cpp's own server with a GGUF model and its `mmproj` beside it, started here and stopped again.

    Raises:
        BackendError: it is not installed, or does not come up with this model.
    """

    def __init__(self, model: Path, *, threads: int) -> None:
        program = shutil.which(LLAMA_SERVER)
        if program is None:
            raise BackendError(f"{LLAMA_SERVER} on the PATH", "none", "install llama.cpp, or pass its server's address")
        eyes = sorted(model.parent.glob("*mmproj*.gguf"))
        if not model.is_file() or not eyes:
            raise BackendError("MODEL.gguf with its *mmproj*.gguf beside it", f"{model}", "pass it with --peer-model")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--mmproj", str(eyes[0]), "-t", str(threads), "-np", "1", "--host", "127.0.0.1", "--port", str(port)]
        self._process = subprocess.Popen(
            [program, "-m", str(model), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait(f"http://127.0.0.1:{port}/v1")
        except BaseException:
            self.close()
            raise
        self.name, self.precision, self.threads = f"llama.cpp, {model.name}", model.stem, threads

    def _wait(self, url: str) -> None:
        ends = time.monotonic() + START_S
        while True:
            with contextlib.suppress(NoAnswerError):
                super().__init__(url)
                return
            if self._process.poll() is not None or time.monotonic() > ends:
                raise BackendError(f"{LLAMA_SERVER} to come up", "it did not", "start it by hand to see why")
            time.sleep(0.5)

    def close(self) -> None:
        """Stop the server."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _ignore(token: TokenEvent) -> None:
    """Whoever listens is answered as a stream; its times stand in the reply."""
