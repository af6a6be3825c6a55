"""The half of the host work that needs ModelOpt: run inside `.venv-edgellm` as `python worker.py PLAN.json`.

Loads the checkpoint with transformers, records what it computes for the check requests, quantizes it with ModelOpt on the
calibration requests, saves the quantized checkpoint, and records what transformers computes with exactly the saved numbers. A
quantized checkpoint that is already there is recorded as it stands.
Imports nothing of this project: it lives in another environment. Requests come as safetensors that the host made with the
checkpoint's own PixelSpec and PromptSpec, so that no image processor is needed here.

Notation: n tokens, t image tokens, H hidden size, V vocabulary size.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, PreTrainedModel

Tensors = dict[str, torch.Tensor]
Trace = list[list[tuple[torch.Tensor, torch.Tensor]]]  # of each request and decoder layer: what enters it, what it adds
VISION_PARTS = ("visual", "vision_tower", "multi_modal_projector")


def main(plan_path: str) -> None:
    plan = json.loads(Path(plan_path).read_text("utf-8"))
    weights, scales = (getattr(torch, plan[name]) for name in ("weights", "scales"))
    torch.manual_seed(0)
    report("load", 0, 1)
    model = load(plan)
    outputs = {f"checkpoint.{name}": tensor for name, tensor in record(model, plan["checks"], "reference").items()}
    if plan["method"]:
        trace = trace_layers(model, plan["checks"])
        if not Path(plan["out"]).is_dir():
            quantize(model, plan["method"], plan["calibration"], bool(plan["quantize_vision"]), int(plan["int4_tile"]))
            report("save", 0, 1)
            save_checkpoint(model, Path(plan["out"]), weights)
        del model
        saved = load(plan)
        take_saved_numbers(saved, Path(plan["out"]), scales)
        outputs |= {f"quantized.{name}": tensor for name, tensor in record(saved, plan["checks"], "quantized").items()}
        outputs["layer_errors"] = layer_errors(saved, plan["checks"], trace)
        round_to(saved, weights)
        outputs |= {f"rounded.{name}": tensor for name, tensor in record(saved, plan["checks"], "rounded").items()}
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, plan["recorded"])
    report("done", 1, 1)


def load(plan: dict[str, Any]) -> PreTrainedModel:
    """The checkpoint with weights rounded to what the runtime holds them in, held here in the type that is computed in."""
    device = plan["device"] if plan["device"] != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    weights = getattr(torch, plan["weights"])
    model = AutoModelForImageTextToText.from_pretrained(plan["checkpoint"], dtype=weights, use_safetensors=True)
    return model.eval().to(device, getattr(torch, plan["dtype"]))


def round_to(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Round what every linear layer and norm puts out to `dtype`: how far the runtime's arithmetic alone moves the answer.
    Where activations are quantized that is far, because a value near the edge of a step may fall to the other side."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) or type(module).__name__.endswith("Norm"):
            module.register_forward_hook(lambda module, arguments, output: output.to(dtype).to(output.dtype))


def report(stage: str, done: int, total: int) -> None:
    """One line that the host reads for its progress bar."""
    print(f"egm-progress {stage} {done} {total}", flush=True)


def model_inputs(model: PreTrainedModel, file: str) -> Tensors:
    """What `forward` takes: input_ids [1, n], pixel_values, and image_grid_thw [1, 3] where the family has a grid."""
    inputs = {name: tensor.to(model.device) for name, tensor in load_file(file).items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if model.config.model_type == "qwen3_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    return inputs


def record(model: PreTrainedModel, files: list[str], stage: str) -> Tensors:
    """Image embeddings [t, H], deep-stack features [t, H] and logits [n, V] of every check request, float32."""
    found: Tensors = {}
    for i, file in enumerate(files):
        report(stage, i, len(files))
        seen: Tensors = {}
        handles = [module.register_forward_hook(keep(seen, name)) for name, module in vision_outputs(model)]
        with torch.inference_mode():
            seen["logits"] = model(**model_inputs(model, file), use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        found |= {f"{i}.{name}": value.float().cpu().reshape(-1, value.shape[-1]) for name, value in seen.items()}
    return found


def keep(seen: Tensors, name: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, arguments: Any, output: torch.Tensor) -> None:
        seen[name] = output

    return hook


def vision_outputs(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules whose outputs leave the vision tower."""
    if model.config.model_type == "qwen3_vl":
        visual = model.model.visual
        yield "embeddings", visual.merger
        yield from ((f"deepstack_{i}", module) for i, module in enumerate(visual.deepstack_merger_list))
    else:
        yield "embeddings", model.model.multi_modal_projector


def trace_layers(model: PreTrainedModel, files: list[str]) -> Trace:
    """What enters each decoder layer and what the layer adds to it, [n, H] on the CPU."""
    traces: Trace = []
    for i, file in enumerate(files):
        report("trace layers", i, len(files))
        found: list[tuple[torch.Tensor, torch.Tensor]] = []

        def keep_step(module: torch.nn.Module, arguments: Any, output: Any, found: Any = found) -> None:
            entered, left = arguments[0], output if isinstance(output, torch.Tensor) else output[0]
            found.append((entered.cpu(), (left.float() - entered.float()).cpu()))

        handles = [layer.register_forward_hook(keep_step) for layer in model.model.language_model.layers]
        with torch.inference_mode():
            model(**model_inputs(model, file), use_cache=False)
        for handle in handles:
            handle.remove()
        traces.append(found)
    return traces


def layer_errors(model: PreTrainedModel, files: list[str], trace: Trace) -> torch.Tensor:
    """How far each decoder layer strays by itself, given what entered the original's: the distance between what both add to a
    token, over the length of what the original adds; the median of all tokens, [requests, layers]. Errors of earlier layers are
    kept out, so that one damaged layer of many stands out; so is the size of attention sinks, which would drown the rest."""
    rows = []
    for i, (file, steps) in enumerate(zip(files, trace, strict=True)):
        report("compare layers", i, len(files))
        row: list[torch.Tensor] = []

        def enter(module: torch.nn.Module, arguments: Any, layer: int = 0, steps: Any = steps) -> Any:
            return (steps[layer][0].to(arguments[0].device), *arguments[1:])

        def leave(
            module: torch.nn.Module, arguments: Any, output: Any, layer: int = 0, steps: Any = steps, row: Any = row
        ) -> None:
            left = (output if isinstance(output, torch.Tensor) else output[0]).float().cpu()
            entered, added = steps[layer][0].float(), steps[layer][1]
            row.append(((left - entered - added).norm(dim=-1) / added.norm(dim=-1)).median())

        handles = []
        for index, layer in enumerate(model.model.language_model.layers):
            handles.append(layer.register_forward_pre_hook(partial(enter, layer=index)))
            handles.append(layer.register_forward_hook(partial(leave, layer=index)))
        with torch.inference_mode():
            model(**model_inputs(model, file), use_cache=False)
        for handle in handles:
            handle.remove()
        rows.append(torch.stack(row))
    return torch.stack(rows)


def quantize(model: PreTrainedModel, method: str, files: list[str], vision: bool, int4_tile: int) -> None:
    """Insert and calibrate ModelOpt's quantizers by its recipe for `method`, the vision tower's in FP8 where `vision` asks.

    Args:
        int4_tile: linear layers whose sides are no multiples of it stay unquantized in INT4.
    """
    import modelopt.torch.quantization as mtq
    from tensorrt_edgellm.quantization.quantization_configs import append_quant_cfg_entries, build_quant_config

    awq = method == "int4_awq"
    config = build_quant_config(method, visual_quantization="fp8" if vision and not awq else None)
    if awq:
        unaligned = [
            name
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and (module.out_features % int4_tile or module.in_features % int4_tile)
        ]
        rules = [{"quantizer_name": f"*{name}.weight_quantizer", "enable": False} for name in unaligned]
        append_quant_cfg_entries(config, rules)
    # ModelOpt 0.45 sends a convolution with NVFP4 settings to a CUDA kernel even where its quantizers are disabled.
    convolution = {"quantizer_name": "*patch_embed*", "cfg": {"num_bits": 8, "axis": None}, "enable": False}
    append_quant_cfg_entries(config, [convolution])
    passes = 0

    def calibrate(quantized: PreTrainedModel) -> None:
        nonlocal passes
        passes += 1
        for i, file in enumerate(files):
            report(f"calibrate, pass {passes}", i, len(files))
            with torch.inference_mode():
                quantized(**model_inputs(quantized, file), use_cache=False)

    mtq.quantize(model, config, calibrate)
    if vision and awq:
        # In one go AWQ would smooth the FP8 layers too, and Edge-LLM's FP8 layers do not read a pre_quant_scale.
        _, *rules = build_quant_config(None, visual_quantization="fp8")["quant_cfg"]
        mtq.set_quantizer_by_cfg(model, [*rules, convolution])
        mtq.calibrate(model, "max", calibrate)
    enabled = [name for name, module in model.named_modules() if getattr(module, "is_enabled", False)]
    weights = [name for name in enabled if name.endswith("weight_quantizer")]
    if all(is_vision(name) for name in weights):
        raise SystemExit(f"ModelOpt quantized no decoder layer with {method}")
    if vision and not any(is_vision(name) for name in weights):
        raise SystemExit("the vision tower was to be quantized, but ModelOpt quantized no layer of it")
    leaked = [name for name in enabled if is_vision(name) and not vision]
    if leaked:
        raise SystemExit(f"the vision tower was to stay in high precision, but {leaked[0]} is quantized")


def is_vision(name: str) -> bool:
    """Whether a module belongs to the vision tower or its projector."""
    return any(f".{part}." in f".{name}." for part in VISION_PARTS)


def save_checkpoint(model: PreTrainedModel, out: Path, dtype: torch.dtype) -> None:
    """ModelOpt's Hugging Face checkpoint: packed weights, scales, hf_quant_config.json; what is not packed in `dtype`."""
    from modelopt.torch.export import export_hf_checkpoint
    from tensorrt_edgellm.quantization import quantize as upstream

    model.to(dtype)
    if getattr(model.config, "architectures", None) is None:
        model.config.architectures = [type(model).__name__]
    upstream._fix_generation_config_for_strict_validate(model)
    upstream._normalize_tied_weights_keys(model)
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=str(out))
    upstream._remove_stale_safetensors_index(str(out))
    if not (out / "hf_quant_config.json").is_file():
        raise SystemExit("ModelOpt wrote no hf_quant_config.json")


def take_saved_numbers(model: PreTrainedModel, out: Path, scales: torch.dtype) -> None:
    """Put the saved checkpoint's numbers into an unquantized model: weights unpacked, activations rounded where they are.

    Args:
        scales: what the runtime keeps scales in.

    What ModelOpt saves is not what it calibrated: it merges the scales of projections that share an input and folds others
    into the norm before them. Only the saved numbers are what the runtime reads.
    """
    saved: Tensors = {}
    for file in sorted(out.glob("*.safetensors")):
        saved |= load_file(str(file))
    unpack = {torch.uint8: unpack_four_bits, torch.float8_e4m3fn: unpack_plain, torch.int8: unpack_plain}
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stored = saved.get(name)
            if stored is None:
                if name != "lm_head.weight":  # a tied head
                    raise SystemExit(f"the quantized checkpoint lacks {name}")
                continue
            module_name = name.removesuffix(".weight")
            parts = {key: saved.get(f"{module_name}.{key}") for key in SCALES}
            packed = stored.dtype in unpack
            kept = torch.float32 if stored.dtype == torch.int8 else scales  # INT8 scales are float32 in the exported graph
            weight = unpack[stored.dtype](stored, parts, kept) if packed else stored.float()
            if parts["pre_quant_scale"] is not None:
                weight = weight * parts["pre_quant_scale"].float()  # the activation is multiplied by it; so is the weight
            parameter.copy_(weight)
            if parts["input_scale"] is not None:
                divisor = parts["pre_quant_scale"]
                modules[module_name].register_forward_pre_hook(rounding(stored.dtype, parts["input_scale"], divisor, kept))


SCALES = ("weight_scale", "weight_scale_2", "pre_quant_scale", "input_scale")
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
INT4_GROUP, NVFP4_BLOCK = 128, 16


def unpack_four_bits(stored: torch.Tensor, parts: dict[str, Any], scales: torch.dtype) -> torch.Tensor:
    """INT4 [out / 2, in], two rows a byte, or NVFP4 [out, in / 2], two columns a byte, to float [out, in]."""
    low, high, scale = stored & 15, stored >> 4, parts["weight_scale"].float()
    if parts["weight_scale_2"] is None:
        scale = scale.to(scales).float()
        rows = torch.stack([low, high], 1).reshape(-1, stored.shape[1])
        levels = ((rows.int() + 8) % 16 - 8).float()
        return levels * scale.repeat_interleave(INT4_GROUP, 1)[:, : levels.shape[1]]
    codes = torch.stack([low, high], 2).reshape(len(stored), -1).long()
    levels = E2M1[codes & 7] * torch.where(codes > 7, -1.0, 1.0)
    return levels * (scale * parts["weight_scale_2"].float()).repeat_interleave(NVFP4_BLOCK, 1)


def unpack_plain(stored: torch.Tensor, parts: dict[str, Any], scales: torch.dtype) -> torch.Tensor:
    """FP8 and INT8: one scale a tensor or an output row."""
    scale = parts["weight_scale"].to(scales).float()
    return stored.float() * (scale[:, None] if scale.numel() > 1 else scale)


def rounding(
    weight_type: torch.dtype, scale: torch.Tensor, smoothing: torch.Tensor | None, scales: torch.dtype
) -> Callable[..., Any]:
    """A hook that rounds a layer's input as the runtime does. With `smoothing`, the multiplied input is what is rounded; the
    product is divided out again because the weight carries the factor."""

    def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, step = arguments[0].float(), scale.to(scales).float().to(arguments[0].device)
        factor = smoothing.float().to(x.device) if smoothing is not None else torch.ones((), device=x.device)
        y = x * factor
        if weight_type == torch.float8_e4m3fn:
            y = (y / step).clamp(-448, 448).to(torch.float8_e4m3fn).float() * step
        elif weight_type == torch.int8:
            y = (y / step).round().clamp(-128, 127) * step
        else:
            y = round_to_nvfp4(y, scale.float().to(x.device), scales)
        return (torch.where(factor == 0, x, y / factor).to(arguments[0].dtype),)

    return hook


def round_to_nvfp4(x: torch.Tensor, step: torch.Tensor, scales: torch.dtype) -> torch.Tensor:
    """Blocks of 16 share an E4M3 scale relative to `step`; values go to the nearest E2M1 level, ties to the even code."""
    blocks = x.reshape(*x.shape[:-1], -1, NVFP4_BLOCK)
    needed = blocks.abs().amax(-1, keepdim=True) / 6
    kept = (needed / step).clamp(max=448).to(torch.float8_e4m3fn).float()
    kept = torch.where(needed == 0, 1.0, kept)
    units = blocks / (kept * step).clamp_min(1e-20)
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    size = units.abs()
    below = torch.bucketize(size, middles.to(x.device))  # on a middle: the lower code
    even = (size[..., None] == middles.to(x.device)).any(-1) & (below % 2 == 1)
    levels = E2M1.to(x.device)[below + even.long()]
    scale = (kept.to(scales) * step.to(scales)).float()  # Edge-LLM's graph multiplies back in FP16
    return (levels * units.sign() * scale).reshape(x.shape)


if __name__ == "__main__":
    main(sys.argv[1])
