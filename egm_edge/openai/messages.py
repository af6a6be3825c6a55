"""Bodies of chat-completion requests as OpenAI writes them."""

from __future__ import annotations

import base64
from typing import Any


def data_url(picture: bytes, media_type: str) -> str:
    """An encoded picture as a `data:` address."""
    return f"data:{media_type};base64,{base64.b64encode(picture).decode('ascii')}"


def user_message(picture_url: str, text: str) -> dict[str, Any]:
    """One user message, the picture first."""
    picture = {"type": "image_url", "image_url": {"url": picture_url, "detail": "high"}}
    return {"role": "user", "content": [picture, {"type": "text", "text": text}]}


def grounding_request(model: str, picture_url: str, text: str, max_tokens: int) -> dict[str, Any]:
    """One greedy question about one picture, as the EGM evaluation scripts send it."""
    messages = [user_message(picture_url, text)]
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
