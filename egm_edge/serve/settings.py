"""ServeSettings: the limits of a server, validated together. Plain values."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from egm_edge.errors import InputError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a server allows.

    Attributes:
        model_names: names to answer to; empty answers to every name, because one bundle is all there is.
        api_key: required as `Authorization: Bearer KEY` under /v1; "" asks for none.
        cors_origins: web origins that may call /v1 from a browser; none by default.
        allowed_hosts: names that the Host header may carry, without port; empty allows every name.
        verbatim: feed every text as sent, also the sentences of EGM clients that could be asked in the bundle's own words.
        max_waiting: requests that may wait for the engine, which answers one at a time; more are told 429.
        max_body_bytes: of one request. max_held_bytes: of all request bodies and pictures held at once.
        max_pixels: of one picture, judged by its header.
        max_connections: open connections, of all clients and (max_connections_per_address) of one address. Above it the
            one whose client is waited for longest is closed; where all clients wait for an answer, the new one.
        strict: refuse what would be ignored.
        fetch_pictures: fetch http(s) picture addresses, public ones and those in fetch_networks ("192.168.0.0/16").
        fetch_s: for one of them.
        kept_frames: pictures whose vision is kept for the next sentence. kept_bytes: of their pixels and patches together.
        request_s: one request from arrival to answer, waiting included.
        body_s: from a request's headers to the end of its body. header_s: from a connection's start, or the last answer,
            to the end of the next request's headers. write_s: a client may stop reading its answer for this long.
        drain_s: after SIGTERM, how long accepted requests may take to finish.
    """

    model_names: tuple[str, ...] = ()
    api_key: str = ""
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    verbatim: bool = False
    max_waiting: int = 64
    max_body_bytes: int = 20 * MIB
    max_held_bytes: int = 256 * MIB
    max_pixels: int = 32_000_000
    max_connections: int = 256
    max_connections_per_address: int = 128
    strict: bool = False
    fetch_pictures: bool = False
    fetch_networks: tuple[str, ...] = ()
    fetch_s: float = 10.0
    kept_frames: int = 4
    kept_bytes: int = 256 * MIB
    request_s: float = 600.0
    body_s: float = 60.0
    header_s: float = 20.0
    write_s: float = 30.0
    drain_s: float = 60.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} {getattr(self, name)}, expected more than 0"
            for name in (
                "max_body_bytes",
                "max_pixels",
                "max_connections",
                "max_connections_per_address",
                "fetch_s",
                "request_s",
                "body_s",
                "header_s",
                "write_s",
            )
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name} {getattr(self, name)}, expected 0 or more"
            for name in ("max_waiting", "kept_frames", "drain_s")
            if not getattr(self, name) >= 0
        ]
        if self.max_held_bytes < self.max_body_bytes:
            problems.append("max_held_bytes below max_body_bytes")
        if not self.api_key.isascii() or any(c.isspace() for c in self.api_key):
            problems.append("an API key with spaces or characters beyond ASCII")
        for network in self.fetch_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                problems.append(f"network {network!r}: {error}")
        if problems:
            raise InputError("usable server settings", "; ".join(problems), "see egm serve --help")
