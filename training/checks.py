"""Step-0 checks: a wasted run is stopped before its first step. Each finding says what was looked at and what was seen.

Wrong pixels, prompts or targets end a run of either stage. A model that cannot be read yet, or that does not look at the
picture, is what SFT is there to hint, so SFT only reports it; GRPO, which can only strengthen what is there, stops.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from egm_edge.boxes import iou_xyxy
from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from egm_edge.parsing import parse_answer
from training.stages.answers import answer_text, box_numbers
from training.stages.measure import score_answers, summarise
from training.stages.process import is_main_process
from training.stages.processor import EgmProcessor
from training.stages.samples import task_text
from training.stages.session import TrainingSession

MIN_PARSE_RATE = 0.5
MAX_LOGPROB_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}  # mean over tokens, nats
PROBE_TOKENS = 32
log = logging.getLogger("egm.train")


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One check.

    Attributes:
        name: what was checked; ok: whether it passed.
        seen: what was seen, in figures.
        fatal: whether failing stops the run.
    """

    name: str
    ok: bool
    seen: str
    fatal: bool = True

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED" if self.fatal else "warning"
        return f"step-0 {self.name}: {verdict}; {self.seen}"


def check_step_zero(session: TrainingSession) -> list[CheckFinding]:
    """Run every check on the main process, unless the run resumes or has them turned off.

    Raises:
        InputError: a fatal check failed.
    """
    run = session.config.run
    if session.resume or not run.step0_checks or not is_main_process():
        return []
    if torch.cuda.is_available():
        session.model.to("cuda")
    findings = step_zero(
        session.model,
        session.processor,
        session.validation[: run.step0_samples] or session.rows[: run.step0_samples],
        session.images,
        max_tokens=run.card_tokens,
        strict=session.stage == "grpo",
    )
    for finding in findings:
        log.info("%s", finding)
    require_passed(findings)
    return findings


def require_passed(findings: Sequence[CheckFinding]) -> None:
    """Raise InputError when a fatal check failed."""
    failed = [f for f in findings if f.fatal and not f.ok]
    if failed:
        found = "; ".join(f"{f.name}: {f.seen}" for f in failed)
        raise InputError("all step-0 checks to pass", found, "correct it, or set run.step0_checks: false")


def step_zero(
    model: PreTrainedModel, processor: EgmProcessor, rows: Sequence[Row], images: Path, *, max_tokens: int, strict: bool
) -> list[CheckFinding]:
    """All checks, on a few rows."""
    with_box = [row for row in rows if row.box is not None] or list(rows)
    seen, blank = (
        summarise(score_answers(model, processor, with_box, images, max_tokens=max_tokens, blank=blank))
        for blank in (False, True)
    )
    return [
        spec_echo(processor),
        tokenizer_agreement(processor, with_box[0]),
        target_round_trip(processor, rows),
        image_tokens(processor, with_box[0], images),
        logprob_agreement(model, processor, with_box[0], images),
        parse_rate(seen.parse_rate, seen.count, fatal=strict),
        blank_control(seen.mean_iou, blank.mean_iou, seen.count, fatal=strict),
    ]


def spec_echo(processor: EgmProcessor) -> CheckFinding:
    """The contracts that will travel with the checkpoint, in full."""
    pixels = json.dumps(processor.pixel_spec.to_dict())
    seen = f"PixelSpec {processor.pixel_spec.hash[:12]} {pixels}; PromptSpec {processor.prompt_spec.hash[:12]}"
    return CheckFinding("specs", True, seen)


def tokenizer_agreement(processor: EgmProcessor, row: Row) -> CheckFinding:
    """transformers' tokenizer and tokenizer.json, which the robot reads, give the same ids."""
    text = task_text(row, processor) + processor.prompt_spec.suffix + answer_text(row, processor.prompt_spec)
    ours = processor.ids.encode(text, add_special_tokens=False).ids
    theirs = processor.tokenizer.encode(text, add_special_tokens=False)
    return CheckFinding("tokenizer", list(ours) == list(theirs), f"{len(ours)} and {len(theirs)} tokens for one row")


def target_round_trip(processor: EgmProcessor, rows: Sequence[Row]) -> CheckFinding:
    """What a row teaches reads back as the row's box: the parser and the target agree on frame and corner order."""
    worst, shown = 1.0, "no row with a box"
    in_thought = processor.prompt_spec.in_thought
    for row in rows:
        target, numbers = row.box_norm1000, box_numbers(row)
        parsed = parse_answer(answer_text(row, processor.prompt_spec), task=row.task, in_thought=in_thought)
        if target is None or numbers is None:
            worst = worst if parsed.box_norm1000 is None else 0.0
            continue
        same = (
            parsed.box_norm1000 == tuple(float(v) for v in numbers) and iou_xyxy(parsed.box_norm1000, target) > 0.5
        )
        if not same or shown.startswith("no row"):
            shown = (
                f"row {row.id}: target {[round(v, 1) for v in target]}, written {numbers}, read {parsed.box_norm1000}"
            )
        worst = min(worst, float(same))
    return CheckFinding("target", worst == 1.0, shown)


def image_tokens(processor: EgmProcessor, row: Row, images: Path) -> CheckFinding:
    """The prompt holds as many image tokens as the picture has patches."""
    prompt = processor.prompt(load_picture(row, images), task_text(row, processor))
    found = prompt.ids.count(processor.image_token_id)
    wanted = prompt.pixels.image_token_count
    ok = found == wanted == processor.pixel_spec.image_token_count(*row.size_wh)
    return CheckFinding("image tokens", ok, f"{found} in the prompt, {wanted} from a picture of {row.image_wh}")


def logprob_agreement(model: PreTrainedModel, processor: EgmProcessor, row: Row, images: Path) -> CheckFinding:
    """Tokens get the same log-probability when they are generated as when the trainer scores them."""
    prompt = processor.prompt(load_picture(row, images), task_text(row, processor))
    inputs = {key: value.to(model.device) for key, value in processor.model_inputs([prompt]).items()}
    learning = model.training
    model.eval()
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=PROBE_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            eos_token_id=processor.end_token_ids,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        start = inputs["input_ids"].shape[1]
        tokens = out.sequences[0, start:]
        rolled = _logprobs(torch.stack(out.logits, dim=1)[0], tokens)
        whole = {key: value for key, value in inputs.items() if key in ("pixel_values", "image_grid_thw")}
        types = {k: v.to(model.device) for k, v in processor.token_types(out.sequences).items()}
        logits = model(input_ids=out.sequences, attention_mask=torch.ones_like(out.sequences), **types, **whole).logits
        scored = _logprobs(logits[0, start - 1 : -1], tokens)
    model.train(learning)
    gap = float((rolled - scored).abs().mean())
    limit = MAX_LOGPROB_GAP.get(model.dtype, 1e-3)
    return CheckFinding(
        "log-probabilities", gap <= limit, f"mean gap {gap:.2e} over {len(tokens)} tokens, limit {limit:g}"
    )


def parse_rate(rate: float, count: int, *, fatal: bool) -> CheckFinding:
    """Most answers can be read."""
    return CheckFinding(
        "parse rate", rate >= MIN_PARSE_RATE, f"{rate:.2f} of {count} answers read, needed {MIN_PARSE_RATE}", fatal
    )


def blank_control(shown: float, blank: float, count: int, *, fatal: bool) -> CheckFinding:
    """A grey picture must score lower than the real one: otherwise the model does not look."""
    seen = f"mean IoU {shown:.3f} with the pictures, {blank:.3f} with grey ones, {count} rows"
    return CheckFinding("blank picture", blank < shown, seen, fatal)


def _logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[T, V] and [T] to [T]."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens[:, None])[:, 0]
