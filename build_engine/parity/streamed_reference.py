"""StreamedReference: the reference for checkpoints that do not fit into memory in float32. Layers are read from disk when they run
and let go afterwards, so memory is the embedding table's, the head's and one layer's.

One pass costs reading the checkpoint once; generating would cost that for every token. So it is given a reply, the bundle's own,
and tells at every position what it would have chosen itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from build_engine.checkpoint import Checkpoint
from egm_edge.backends.transformers_reference import Prepared, TransformersReference
from egm_edge.families.weight_names import canonical_name

Propose = Callable[[Sequence[int]], Sequence[int]]


class JudgedReply(NamedTuple):
    """A reply as far as it is known: what was proposed up to the first token that the reference would not have chosen, and its
    own choice there; the logits [n, V] that it chose from, the first after the request; whether the reply ends there."""

    reply: list[int]
    logits: NDArray[np.float32]
    ended: bool


class StreamedReference(TransformersReference):
    """As TransformersReference, float32 on the CPU, without `generate`."""

    def _load_model(self, dtype: str) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

        config = AutoConfig.from_pretrained(self.checkpoint, local_files_only=True)
        with _parameters_on_meta():
            model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        if (self.checkpoint / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(self.checkpoint, local_files_only=True)
        self._weights = Checkpoint(self.checkpoint)
        streamed = [*model.model.language_model.layers, *_vision_layers(model)]
        names = {module: name for name, module in model.named_modules()}
        held = {id(part) for layer in streamed for part in layer.modules()}
        for module in model.modules():
            if id(module) not in held:
                self._fill(module, names[module], recurse=False)
        for layer in streamed:
            layer.register_forward_pre_hook(lambda module, *_: self._fill(module, names[module], recurse=True))
            layer.register_forward_hook(lambda module, *_: _let_go(module))
        return model

    def generate(self, prepared: Sequence[Prepared], max_new_tokens: int) -> list[list[int]]:
        raise NotImplementedError("a streamed reference judges replies; it writes none")

    def judged(self, prepared: Prepared, proposal: Sequence[int]) -> JudgedReply:
        """The reference's own greedy reply as far as one pass tells."""
        logits = self.trace(prepared, proposal, len(proposal) + 1).logits
        choices = logits.argmax(-1).tolist()
        kept = next((at for at, token in enumerate(proposal) if choices[at] != token), len(proposal))
        ended = choices[kept] in self.end_token_ids
        return JudgedReply([*proposal[:kept], *([] if ended else [int(choices[kept])])], logits[: kept + 1], ended)

    def written(self, prepared: Prepared, new_tokens: int, propose: Propose, passes: int) -> JudgedReply:
        """The greedy reply as far as `passes`, one or more, tell: speculative decoding (arXiv 2211.17192) with whatever `propose`
        asks as the draft model, which costs one pass and one more for each of its mistakes.

        Args:
            propose: how a reply that begins with these tokens goes on.
        """
        found = self.judged(prepared, propose([]))
        for _ in range(passes - 1):
            if found.ended or len(found.reply) >= new_tokens:
                break
            found = self.judged(prepared, [*found.reply, *propose(found.reply)])
        return found._replace(reply=found.reply[:new_tokens], logits=found.logits[: new_tokens + 1])

    def _fill(self, module: Any, prefix: str, *, recurse: bool) -> None:
        import torch

        for name, parameter in list(module.named_parameters(recurse=recurse)):
            if not parameter.is_meta:
                continue
            owner, _, leaf = name.rpartition(".")
            full = canonical_name(f"{prefix}.{name}" if prefix else name)
            if full == "head.weight" and full not in self._weights:
                full = "text.embed_tokens.weight"
            values = torch.from_numpy(np.ascontiguousarray(self._weights.float32(full)))
            owning = module.get_submodule(owner) if owner else module
            owning._parameters[leaf] = torch.nn.Parameter(values, requires_grad=False)


def _vision_layers(model: Any) -> Sequence[Any]:
    tower = getattr(model.model, "visual", None)
    return list(tower.blocks) if tower is not None else list(model.model.vision_tower.encoder.layer)


def _let_go(layer: Any) -> None:
    import torch

    for module in layer.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules are made without memory for their parameters; buffers (rotary frequencies) are real."""
    import torch

    register = torch.nn.Module.register_parameter

    def on_meta(module: Any, name: str, parameter: Any) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)

    torch.nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]
