"""LoadedModel: an opened bundle with everything that answering needs: engine, tokenizer, specs, grammar, latency model.

What every pipeline stands on. Knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import Tokenizer

from egm_edge.backends.base import Backend
from egm_edge.bundle import Bundle
from egm_edge.confidence.logistic_calibration import LogisticCalibration
from egm_edge.decoding.constrained.grammar import AnswerSyntax
from egm_edge.decoding.deadline.latency_model import LatencyModel
from egm_edge.decoding.speculative.ngram_proposer import NgramStatistics
from egm_edge.errors import BundleError
from egm_edge.families import Family, PromptSpec, encode_prompt, encode_user_text, family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounding import Task
from egm_edge.pixels import Pixels, PixelSpec

TOKENIZER = "tokenizer.json"


@dataclass(eq=False)
class LoadedModel:
    """One bundle, ready to answer.

    Attributes:
        bundle, backend, tokenizer: as opened.
        latency: what requests cost on this machine, learned from every one.
        statistics: what this model's replies taught about how they go on.
    """

    bundle: Bundle
    backend: Backend
    tokenizer: Tokenizer
    latency: LatencyModel = field(default_factory=LatencyModel)
    statistics: NgramStatistics = field(default_factory=NgramStatistics)

    def __post_init__(self) -> None:
        manifest = self.bundle.manifest
        self.pixel_spec = PixelSpec.from_dict(manifest.pixel_spec)
        self.prompt_spec = PromptSpec.from_dict(manifest.prompt_spec)
        _check("pixel_spec", manifest.pixel_spec_hash, self.pixel_spec.hash)
        _check("prompt_spec", manifest.prompt_spec_hash, self.prompt_spec.hash)
        calibration = manifest.calibration
        self.confidence_map = None if calibration is None else LogisticCalibration.from_dict(calibration)
        self.bundle_hash = self.bundle.hash
        self.family: Family = family_for(manifest.family)
        self.image_token_id = int(manifest.model["image_token_id"])
        self.stop_ids = frozenset(manifest.model["stop_token_ids"])
        self.max_new_tokens = int(manifest.limits["max_new_tokens"])
        self.context_tokens = int(manifest.limits["context_tokens"])
        self.thinking = self.prompt_spec.in_thought

    @cached_property
    def syntax(self) -> AnswerSyntax:
        """The family's answer grammar in this bundle's tokens; seconds for a large vocabulary."""
        return AnswerSyntax(self.prompt_spec.answer_syntax, self.tokenizer)

    def prefix_ids(self, pixels: Pixels) -> list[int]:
        """The prompt tokens that all requests on a picture share, its own included."""
        return self.family.prefix_token_ids(prefix_ids(self.tokenizer, self.prompt_spec), self.image_token_id, pixels)

    def request_ids(self, expression: str, task: Task, prompt: str | None = None) -> list[int]:
        """The prompt tokens that follow a frame's prefix.

        Args:
            prompt: the whole user text instead of the task's own sentence.
        """
        if prompt is not None:
            return encode_user_text(self.tokenizer, self.prompt_spec, prompt)
        return list(encode_prompt(self.tokenizer, self.prompt_spec, expression, task)[1])


def read_tokenizer(bundle: Bundle) -> Tokenizer:
    """A bundle's tokenizer.

    Raises:
        BundleError: it cannot be read.
    """
    path = str(bundle.path(TOKENIZER))
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # tokenizers raises plain Exception
        raise BundleError(f"a tokenizer in {path}", str(error), "rebuild the bundle") from None


def _check(name: str, written: str, derived: str) -> None:
    """The specs that this code derives must be the ones the bundle was built with."""
    if written != derived:
        raise BundleError(
            f"{name} {written[:12]}… as recorded when the bundle was built",
            f"{derived[:12]}… from its own values",
            "rebuild the bundle with this egm-edge",
        )
