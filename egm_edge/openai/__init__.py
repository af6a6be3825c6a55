"""The one client of OpenAI-compatible servers: address, retries, streams and messages. Knows nothing of boxes.

Standard library only. What the base install brings as an HTTP client is an accident of its versions (tokenizers needs
huggingface_hub, which needs requests up to 0.x, httpx in 1.x and httpx2 in 2.x), none of the three can be closed from another
thread while it waits for a silent server, and one POST with an event stream is all that is asked of it here.
"""

from egm_edge.openai.client import OpenAIClient
from egm_edge.openai.errors import NoAnswerError, RequestRefusedError, StatusError
from egm_edge.openai.messages import data_url, grounding_request, user_message
from egm_edge.openai.reply import ChatReply, EngineMeasurements, Limits, TextChunk, TextStream
from egm_edge.openai.retry import Retry, ask
from egm_edge.openai.server import CHAT_PATH, MODELS_PATH, Server

__all__ = [
    "CHAT_PATH",
    "MODELS_PATH",
    "ChatReply",
    "Limits",
    "EngineMeasurements",
    "NoAnswerError",
    "OpenAIClient",
    "RequestRefusedError",
    "Retry",
    "Server",
    "StatusError",
    "TextChunk",
    "TextStream",
    "ask",
    "data_url",
    "grounding_request",
    "user_message",
]
