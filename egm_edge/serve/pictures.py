"""The picture of a request: bytes from a data URL, or from an address where that was allowed, judged by their header."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from egm_edge.errors import InputError
from egm_edge.images import read_image_wh
from egm_edge.serve.errors import RequestError
from egm_edge.serve.settings import ServeSettings

_DATA_URL = re.compile(
    r"data:(?P<type>[a-z0-9.+/-]{0,80})(?:\s{0,4};\s{0,4}[a-z0-9=._-]{1,80}){0,4};\s{0,4}base64,", re.IGNORECASE
)
_SPACE = b" \t\r\n"
_NOT_PLAIN = re.compile(rb"[%\s]")
WHERE = "messages.content.image_url"


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A picture as it was sent.

    Attributes:
        data: encoded bytes. sha256: of them; the same picture again finds its kept frame.
        pixel_count: width times height, as its header says.
    """

    data: bytes = field(repr=False)
    sha256: str
    pixel_count: int


def read_picture(url: str, settings: ServeSettings) -> EncodedPicture | None:
    """The picture in an `image_url`; None where it is an address that may be fetched.

    Raises:
        RequestError: 400, no picture, or an address where none is fetched; 413, too many pixels or bytes.
    """
    if match := _DATA_URL.match(url):
        return encoded_picture(_decoded(memoryview(url.encode("ascii", "replace"))[match.end() :]), settings)
    if settings.fetch_pictures and url[:8].lower().startswith(("http://", "https://")):
        return None
    scheme = url.partition(":")[0][:16] if ":" in url[:17] else "no scheme"
    expected = f"expected image_url.url as data:image/...;base64,...; found {scheme!r}; this server fetches nothing"
    raise RequestError(400, f"{expected}, send the picture inside the request", "invalid_image_url", param=WHERE)


def encoded_picture(data: bytes, settings: ServeSettings) -> EncodedPicture:
    """A picture as it was sent, judged by its header.

    Raises:
        RequestError: 400, no picture; 413, too many pixels.
    """
    try:
        width, height = read_image_wh(data)
    except InputError as error:
        raise RequestError(400, str(error), "invalid_image", param=WHERE) from None
    if width * height > settings.max_pixels:
        limit, found = f"{settings.max_pixels / 1e6:g} megapixels", f"{width}x{height} pixels"
        message = f"expected a picture of at most {limit}; found {found}; scale it down"
        raise RequestError(413, message, "image_too_large", param=WHERE)
    return EncodedPicture(data, hashlib.sha256(data).hexdigest(), width * height)


def _decoded(text: memoryview) -> bytes:
    """Base64, in lines or percent-encoded as some clients write it; no copy of what is plain."""
    data: bytes | memoryview = text
    if _NOT_PLAIN.search(text):
        data = unquote_to_bytes(bytes(text)).translate(None, _SPACE)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"expected base64 after 'base64,'; found {error}"
        raise RequestError(400, message, "invalid_base64", param=WHERE) from None
