"""The PyTorch engine on a GPU: parity, speed, memory and energy beside transformers. `.ci/gpu_check.sh` runs its parts.

Each part is a process of its own and leaves OUT/PART.json, written anew after every finding, so that whatever stops it leaves
what was found. Random weights of the published dimensions: speeds are real, texts are noise, so that drafts are judged by
what steps of several tokens cost. `--tiny` runs everything on a CPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from build_engine.memory_plan import ModelSize
from egm_edge.assets import shipped_checkpoint
from egm_edge.backends.torch_gpu.attention import without_cudnn
from egm_edge.backends.torch_gpu.backend import STEP_TOKENS, TorchBackend
from egm_edge.backends.torch_gpu.capture import Capture
from egm_edge.backends.transformers_reference import Prepared, TransformersReference
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.grounder import Grounder
from egm_edge.grounding import Task
from egm_edge.loaded_model import read_tokenizer
from tests.bench.gpu_reckoning import ANSWER_TOKENS, CARDS, SIZES, reckon, step_bytes_of

SENTENCES = ("the red mug left of the kettle", "the second cup from the left")
PRESETS = {"2b": "2b", "4b": "egm-4b-widths", "8b": "8b"}
Values = dict[str, Any]


class Findings:
    """A part's JSON file."""

    def __init__(self, path: Path) -> None:
        self._path, self._values = path, Values()

    def add(self, **values: Any) -> None:
        self._values |= values
        self._path.write_text(json.dumps(self._values, indent=1), encoding="utf-8")
        print(json.dumps(values), flush=True)


def on_gpu() -> bool:
    return torch.cuda.is_available()


def settled() -> float:
    """`time.perf_counter()` when the device is idle."""
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def copy_rate(megabytes: int, rounds: int) -> float:
    """TB/s read and written together by device copies."""
    source = torch.ones(megabytes << 18, device="cuda" if on_gpu() else "cpu")
    target = torch.empty_like(source)
    target.copy_(source)
    began = settled()
    for _ in range(rounds):
        target.copy_(source)
    return 2 * source.nbytes * rounds / (settled() - began) / 1e12


def facts(findings: Findings, options: argparse.Namespace) -> None:
    findings.add(python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda)
    findings.add(device=torch.cuda.get_device_name() if on_gpu() else f"{platform.machine()} CPU")
    with suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total,power.limit", "--format=csv"]
        findings.add(driver=subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip())
    findings.add(copy_tb_s=round(copy_rate(16 if options.tiny else 4096, 3 if options.tiny else 30), 4))


def make(findings: Findings, options: argparse.Namespace) -> None:
    """The checkpoint of `options.model`."""
    began = time.perf_counter()
    if options.tiny:
        from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

        write_tiny_qwen3_vl(options.work / options.model, max_pixels=1 << 14)
    else:
        from tests.support.large_checkpoints import write_qwen3_vl_dims

        write_qwen3_vl_dims(options.work / options.model, PRESETS[options.model])
    findings.add(seconds=round(time.perf_counter() - began, 1))


def parity(findings: Findings, options: argparse.Namespace) -> None:
    """Logits against transformers in float32, graphs against plain calls, and answers in the GPU's own 16 bits.

    Exits 3 where graphs fail or differ, so that what follows is measured without them.
    """
    from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl

    checkpoints = {"egm-nano": shipped_checkpoint()}
    for name, write in (("qwen3_vl", write_tiny_qwen3_vl), ("internvl3", write_tiny_internvl3)):
        checkpoints[name] = write(options.work / f"tiny-{name}")
    image, graphs_work = picture((120, 90)), True
    for name, checkpoint in checkpoints.items():
        reference = TransformersReference(checkpoint)
        theirs = reference.trace(prepared(reference, checkpoint, image), (), 1).logits[-1]
        found: Values = {}
        for label, dtype in (("float32", torch.float32), ("16 bits", None)):
            with opened(checkpoint, dtype, plain=True) as plain:
                expected = stepped(plain, image)
                text = plain.ground(image, SENTENCES[0], color="rgb", max_new_tokens=48, force_syntax=False).text
            found[label] = {"logits differ from transformers by at most": float(np.abs(expected[0] - theirs).max()), "text": text}
            try:
                with opened(checkpoint, dtype) as captured:
                    apart = float(np.abs(stepped(captured, image) - expected).max() / np.abs(expected).max())
            except Exception as error:  # whatever it is, the other parts go on without graphs
                found[label]["graphs"] = "".join(traceback.format_exception(error))[-2000:]
                graphs_work = False
            else:
                found[label]["graphs differ from plain calls by at most, of the largest logit"] = apart
                graphs_work = graphs_work and apart < 0.05
        found["one text"] = found["float32"]["text"] == found["16 bits"]["text"]
        findings.add(**{name: found})
    findings.add(graphs_work=graphs_work)
    if not graphs_work:
        sys.exit(3)


def stepped(grounder: Grounder, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits [rows, V] after the request, after steps of every size and of rows of a batch; what is captured was replayed."""
    for seed in (1, 2, None):  # run, captured, replayed
        frame = grounder.frame(image if seed is None else picture(image.shape[1::-1], seed), color="rgb")
        session: Any = grounder.backend.open_session(grounder.engine_frame(frame))
        rows = [session.extend(grounder.token_ids(SENTENCES[0], Task.MODAL))]
        for count in STEP_TOKENS:
            rows += [*session.extend([5 + (i + (seed or 0)) % 9 for i in range(count)], every_position=True)]
        rows += [*session.fork(4, 8).step([5, 6, 7, 8 + (seed or 0)])]
    return np.array(rows)


def measure(findings: Findings, options: argparse.Namespace) -> None:
    """Speed, memory and energy of `options.model`, transformers beside it in turns; what matters most comes first."""
    checkpoint, rounds, tokens = options.work / options.model, 2 if options.tiny else 5, 8 if options.tiny else ANSWER_TOKENS
    sizes = ((64, 48), (128, 72)) if options.tiny else SIZES
    began = time.perf_counter()
    with opened(checkpoint, plain=options.plain) as grounder:
        findings.add(open_s=round(time.perf_counter() - began, 1), runtime=grounder.backend.facts.runtime, tokens=tokens)
        config = json.loads((checkpoint / "config.json").read_text("utf-8"))
        findings.add(step_bytes=step_bytes_of(ModelSize.of(config), 400), graphs=not options.plain, allocated_gb=allocated())
        findings.add(step_ms=steps(grounder, 5 if options.tiny else 40))
        findings.add(**{"x".join(map(str, sizes[0])): answers(grounder, sizes[0], rounds, tokens)})
        findings.add(peak_gb=allocated(peak=True))
        try:
            findings.add(beside=beside(grounder, checkpoint, min(rounds, 3), tokens))
        except Exception as error:  # two models do not fit every card
            findings.add(beside={"failed": f"{type(error).__name__}: {error}"[:500]})
        findings.add(energy=energy(lambda: asked(grounder, picture((640, 480)), SENTENCES[0], tokens), rounds))
        findings.add(**{"x".join(map(str, sizes[1])): answers(grounder, sizes[1], rounds, tokens)})


def answers(grounder: Grounder, wh: tuple[int, int], rounds: int, tokens: int) -> Values:
    """Percentiles of answers on fresh frames, drafts on and off, of second sentences and of four votes, ms."""
    runs: dict[str, list[Values]] = {"drafts": [], "no drafts": [], "second sentence": [], "4 votes": []}
    for turn in range(rounds + 2):  # the first two capture graphs
        for name in ("drafts", "no drafts"):
            grounder.speculate = name == "drafts"
            frame = grounder.frame(picture(wh, turn), color="rgb")
            done = [asked(grounder, frame, SENTENCES[0], tokens)]
            if name == "drafts":
                done.append(asked(grounder, frame, SENTENCES[1], tokens))
                done.append(asked(grounder, frame, SENTENCES[0], tokens, samples=4, temperature=0.7, seed=turn))
            names = (name, "second sentence", "4 votes") if name == "drafts" else (name,)
            for kind, values in zip(names, done, strict=True):
                runs[kind] += [values] if turn >= 2 else []
    grounder.speculate = True
    return {name: {key: percentiles([run[key] for run in kept]) for key in kept[0]} for name, kept in runs.items()}


def asked(grounder: Grounder, image: Any, sentence: str, tokens: int, **decoding: Any) -> Values:
    color = "rgb" if isinstance(image, np.ndarray) else None
    began = settled()
    found = grounder.ground(image, sentence, color=color, max_new_tokens=tokens, force_syntax=False, **decoding)
    total_ms = (settled() - began) * 1e3
    counts, timings = found.tokens, found.timings
    values = {"total_ms": total_ms, "ttft_ms": timings.ttft_ms, "vision_ms": timings.vision_ms, "prefill_ms": timings.prefill_ms}
    values |= {"tokens": counts.completion, "steps": counts.decode_steps}
    return values | {"tokens_s": counts.completion / max(total_ms - timings.ttft_ms, 1e-9) * 1e3}


def steps(grounder: Grounder, rounds: int) -> Values:
    """Milliseconds of a step by how many tokens it is fed, logits on the host included."""
    frame = grounder.frame(picture((640, 480)), color="rgb")
    session = grounder.backend.open_session(grounder.engine_frame(frame))
    session.extend(grounder.token_ids(SENTENCES[0], Task.MODAL))
    start, found = session.length, Values()
    for count in STEP_TOKENS:
        taken = []
        for _ in range(rounds + 3):
            began = settled()
            session.extend(list(range(5, 5 + count)), every_position=True)
            taken.append((settled() - began) * 1e3)
            session.truncate(start)
        found[str(count)] = percentiles(taken[3:])
    return found


@without_cudnn  # transformers' caches grow by a token a step, and each length would cost it a plan
def beside(grounder: Grounder, checkpoint: Path, rounds: int, tokens: int) -> Values:
    """Whole answers in turns with transformers in the same type, ms a token."""
    kind, device = ("bfloat16", "cuda") if on_gpu() else ("float32", "cpu")
    reference = TransformersReference(checkpoint, dtype=kind, device=device)
    ours, theirs = [], []
    for turn in range(rounds + 1):
        image = picture((640, 480), 50 + turn)
        done = asked(grounder, image, SENTENCES[0], tokens)
        began = settled()
        request = prepared(reference, checkpoint, image)
        ids = reference.generate([request], tokens)[0]
        taken = (settled() - began) * 1e3
        if turn:  # the first warms both up
            ours.append(done["total_ms"] / max(done["tokens"], 1))
            theirs.append(taken / max(len(ids), 1))
    ratio = float(np.median(theirs) / np.median(ours))
    return {"ours_ms_a_token": percentiles(ours), "transformers_ms_a_token": percentiles(theirs), "ratio": round(ratio, 2)}


def energy(run: Callable[[], Values], rounds: int) -> Values | None:
    """Joules a token by the board's own power readings; None where there are none."""
    query = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms", "50"]
    try:
        sampler = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except OSError:
        return None
    began, tokens = settled(), 0
    for _ in range(rounds):
        tokens += run()["tokens"]
    seconds = settled() - began
    sampler.terminate()
    watts = [float(line) for line in sampler.communicate()[0].split() if line.replace(".", "").isdigit()]
    if not watts:
        return None
    mean = float(np.mean(watts))
    return {"watts": round(mean, 1), "joules_a_token": round(mean * seconds / max(tokens, 1), 3), "samples": len(watts)}


def train(findings: Findings, options: argparse.Namespace) -> None:
    """A trial of `egm train nano` on the device; its last lines are kept."""
    device, out = "cuda" if on_gpu() else "cpu", options.work / "nano"
    command = [sys.executable, "-m", "egm_edge.cli", "train", "nano", "--smoke", "--minutes", str(options.minutes)]
    began, log = time.perf_counter(), options.work / "nano.log"
    with log.open("w") as file, suppress(subprocess.TimeoutExpired):
        limit = options.minutes * 60 + (120 if options.tiny else 15)  # a machine without a GPU starts slowly
        done = subprocess.run(
            [*command, "--device", device, "--out", str(out)], stdout=file, stderr=subprocess.STDOUT, timeout=limit
        )
        findings.add(rc=done.returncode)
    tail = log.read_text("utf-8", errors="replace").strip().splitlines()[-25:]
    findings.add(seconds=round(time.perf_counter() - began, 1), tail=tail)


def report(findings: Findings, options: argparse.Namespace) -> None:
    """OUT/report.md of whatever the parts left."""
    parts = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(options.out.glob("*.json"))}
    found = parts.get("facts", {})
    lines = ["# The PyTorch engine, measured", "", f"{found.get('device')}, torch {found.get('torch')}, CUDA {found.get('cuda')}"]
    rate = found.get("copy_tb_s")
    lines += [f"Copies: {rate} TB/s. Random weights: their texts are noise, which drafts seldom guess.", ""]
    columns = ("step, ms", "memory limit, ms", "share", "reckoned step, ms", "answer, ms", "second sentence", "x transformers")
    lines += [f"| model | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    card = CARDS["H200" in str(found.get("device"))]
    for name in (n for n in PRESETS if f"measure-{n}" in parts):
        values = parts[f"measure-{name}"]
        first = next((part for key, part in values.items() if key[0].isdigit()), {})  # "640x480"
        step = values.get("step_ms", {}).get("1", {}).get("p50")
        limit = values["step_bytes"] / rate / 1e9 if rate and "step_bytes" in values else None
        answer, second = (first.get(kind, {}).get("total_ms", {}).get("p50") for kind in ("drafts", "second sentence"))
        cells = [step, limit, limit / step if limit and step else None, reckon(name, card, SIZES[0]).step_ms, answer]
        cells += [second / answer if second and answer else None, values.get("beside", {}).get("ratio")]
        lines.append(f"| {name} | {' | '.join('' if cell is None else f'{cell:.3g}' for cell in cells)} |")
    (options.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    findings.add(parts=sorted(parts))


def picture(wh: tuple[int, int], seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (wh[1], wh[0], 3), np.uint8)


def opened(checkpoint: Path, dtype: torch.dtype | None = None, *, plain: bool = False) -> Grounder:
    bundle = describe_checkpoint(checkpoint)
    return Grounder(TorchBackend(bundle, dtype=dtype, capture=Capture() if plain else None), bundle, read_tokenizer(bundle))


def prepared(reference: TransformersReference, checkpoint: Path, image: np.ndarray[Any, Any]) -> Prepared:
    return reference.prepare(Image.fromarray(image), read_prompt_spec(checkpoint).task_text(SENTENCES[0], Task.MODAL))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 3) for p in (50, 90, 99)}


def allocated(*, peak: bool = False) -> float | None:
    if not on_gpu():
        return None
    return round((torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 1e9, 3)


PARTS: dict[str, Callable[[Findings, argparse.Namespace], None]] = {
    "facts": facts, "make": make, "parity": parity, "measure": measure, "train": train, "report": report,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", help=f"{', '.join(PARTS)}; make and measure as make-2b, measure-8b")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints are written here")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--plain", action="store_true", help="without CUDA graphs")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training")
    options = parser.parse_args()
    kind, _, options.model = options.part.partition("-")
    options.out.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    place = options.work if kind in ("make", "report") else options.out  # few files are to be carried home
    PARTS[kind](Findings(place / f"{options.part}.json"), options)


if __name__ == "__main__":
    main()
