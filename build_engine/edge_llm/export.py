"""Run `tensorrt-edgellm-export` and believe nothing: its exit code, its files and both graphs' interfaces are checked.

Upstream can leave a complete-looking llm/ behind and fail afterwards, and writes graphs without a look at their shapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from egm_edge.errors import BuildError, CheckpointError

LLM_FILES = ("model.onnx", "model.onnx.data", "config.json", "embedding.safetensors", "tokenizer.json", "chat_template.jinja")
VISUAL_FILES = ("model.onnx", "model.onnx.data", "config.json", "preprocessor_config.json")
# Attention kernels in the published plugins (0.11.0): decoder, and FP16 vision tower.
TEXT_HEAD_SIZES = (64, 128, 256, 512)
VISION_HEAD_SIZES = (64, 72, 80, 96, 128)
_LLM_INPUTS = (
    "inputs_embeds", "rope_rotary_cos_sin", "positions", "query_start_offsets", "query_lengths", "past_lengths",
    "attention_sequence_lengths", "state_indices", "execution_phase_marker", "context_sequence_count_carrier",
    "kv_page_table", "logits_indices",
)  # fmt: skip
_VISUAL_INPUTS: Mapping[str, Sequence[str]] = {
    "qwen3_vl": (
        "input", "rotary_pos_emb", "cu_seqlens", "fast_pos_embed_idx", "fast_pos_embed_weight", "max_seqlen_carrier",
    ),
    "internvl3": ("input",),
}  # fmt: skip


def require_kernels(text_head_size: int, vision_head_size: int) -> None:
    """The exporter takes any shape, and the engine build on the device is where it would fail.

    Raises:
        CheckpointError: no attention kernel for a head size of this checkpoint.
    """
    for part, found, known in (
        ("decoder", text_head_size, TEXT_HEAD_SIZES),
        ("vision tower", vision_head_size, VISION_HEAD_SIZES),
    ):
        if found not in known:
            raise CheckpointError(
                f"a {part} with attention heads of {', '.join(map(str, known))} values, which TensorRT Edge-LLM has kernels for",
                f"heads of {found}",
                "build it for another target (`egm targets`), such as --target cpu",
            )


def export(
    environment: EdgeLlmEnvironment, checkpoint: Path, out: Path, log: Path, on_line: Callable[[str], None]
) -> None:
    """Export both graphs of `checkpoint` into `out`.

    Raises:
        BuildError: the tool failed, or its files are not complete.
    """
    run_tool([environment.tool("tensorrt-edgellm-export"), checkpoint, out], what="the export", log=log, on_line=on_line)
    missing = [f"llm/{name}" for name in LLM_FILES if not _filled(out / "llm" / name)]
    missing += [f"visual/{name}" for name in VISUAL_FILES if not _filled(out / "visual" / name)]
    if missing:
        raise BuildError("both exported graphs with their files", f"no {', '.join(missing)}", f"see {log}")


def check_interface(out: Path, family: str, *, layers: int, deepstack: int, quantized: str | None, vision: bool = False) -> None:
    """Inputs and outputs as documented, and the precision that was asked for in the graph.

    Args:
        quantized: operator that a quantized decoder must hold; None for FP16. The export of an unquantized checkpoint
            ignores a precision silently, so its name in a file proves nothing.
        vision: whether the vision tower was to be quantized too, in FP8.

    Raises:
        BuildError: naming what differs.
    """
    llm, visual = (onnx.load(str(out / part / "model.onnx"), load_external_data=False) for part in ("llm", "visual"))
    past = [f"past_key_values_{i}" for i in range(layers)]
    stack = [f"deepstack_embeds_{i}" for i in range(deepstack)]
    features = [f"deepstack_features_{i}" for i in range(deepstack)]
    present = [f"present_key_values_{i}" for i in range(layers)]
    expected = {
        "inputs of llm": ([v.name for v in llm.graph.input], [*_LLM_INPUTS, *past, *stack]),
        "outputs of llm": ([v.name for v in llm.graph.output], ["logits", *present]),
        "inputs of visual": ([v.name for v in visual.graph.input], [*_VISUAL_INPUTS[family]]),
        "outputs of visual": ([v.name for v in visual.graph.output], ["output", *features]),
    }
    for what, (found, documented) in expected.items():
        if sorted(found) != sorted(documented):
            odd = ", ".join(sorted(set(found) ^ set(documented))) or "duplicates"
            raise BuildError(f"the documented {what}", f"a difference in {odd}", "use tensorrt-edgellm 0.11.0")
    operators = {node.op_type for node in llm.graph.node}
    if quantized is not None and quantized not in operators:
        raise BuildError(f"{quantized} operators in the exported decoder", "none: it was exported in FP16", "report this")
    rounded = any(node.op_type == "QuantizeLinear" for node in visual.graph.node)
    if rounded != vision:
        words = ("QuantizeLinear operators in the exported vision tower", "none: it was exported in FP16")
        expected_words, found_words = words if vision else ("a vision tower in FP16", "QuantizeLinear operators in it")
        raise BuildError(expected_words, found_words, "report this")
    config = json.loads((out / "llm" / "config.json").read_text("utf-8"))
    if int(config.get("num_deepstack_features", 0)) != deepstack:
        stated = str(config.get("num_deepstack_features"))
        raise BuildError(f"num_deepstack_features {deepstack} in llm/config.json", stated, "report this")


def _filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
