"""Golden replies that were altered: what of them does not fit together, whatever an engine answers."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from egm_edge.boxes import Box
from egm_edge.bundle import Bundle
from egm_edge.families import PromptSpec
from egm_edge.golden.replies import GoldenReply, GoldenSet, png_size
from egm_edge.loaded_model import TOKENIZER, read_tokenizer
from egm_edge.parsing import parse_answer

STORED_LOG = 2e-3  # log-probabilities are stored in 16 bits
SAME_PX = 0.5


def contradictions(bundle: Bundle, golden: GoldenSet) -> list[str]:
    """A phrase for every reply with tokens that its own logits do not choose, a text of other tokens, or a box that its text does
    not give; none where the bundle holds no tokenizer."""
    if TOKENIZER not in bundle.manifest.files:
        return []
    tokenizer, prompt = read_tokenizer(bundle), PromptSpec.from_dict(bundle.manifest.prompt_spec)
    problems = []
    for number, reply in enumerate(golden.replies):
        if doubt := _contradiction(reply, tokenizer, in_thought=prompt.in_thought):
            problems.append(f"golden reply {number} ({reply.expression!r}) is not the reference's: {doubt}")
    return problems


def _contradiction(reply: GoldenReply, tokenizer: Tokenizer, *, in_thought: bool) -> str:
    for token, ids, log in zip(reply.token_ids, reply.top_ids, reply.log_probabilities, strict=False):
        if log[ids == token].max(initial=-np.inf) < log.max() - STORED_LOG:
            return "its logits choose other tokens"
    if "".join(tokenizer.decode(reply.token_ids).split()) != "".join(reply.text.split()):
        return "its text is not that of its tokens"
    text = tokenizer.decode(reply.token_ids, skip_special_tokens=False)
    found = parse_answer(text, task=reply.task, in_thought=in_thought, expression=reply.expression).box_norm1000
    ours = None if found is None else Box.from_norm1000(found, *png_size(reply.picture)).xyxy
    if (ours is None) != (reply.box is None) or np.abs(np.subtract(ours or 0, reply.box or 0)).max() > SAME_PX:
        return f"its box {reply.box} is not that of its text, {ours}"
    return ""
