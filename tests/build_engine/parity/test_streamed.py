"""The gate for checkpoints too large for a float32 reference: layers from disk, the bundle's own replies judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engine.compilers.cpu import build_cpu
from build_engine.exporters import text_decoder
from build_engine.parity import build_gate
from build_engine.parity.witnesses import task_text
from egm_edge.errors import BuildError
from egm_edge.golden.replies import read_golden
from tests.build_engine.parity.conftest import Verify

pytest.importorskip("transformers")


def _without_q_norm_of_the_third_layer(patch: pytest.MonkeyPatch) -> None:
    written = text_decoder._LayerWriter._head_norm

    def skipped(self: text_decoder._LayerWriter, x: str, name: str, heads: int) -> str:
        return x if "layers.2.self_attn.q_norm" in name else written(self, x, name, heads)

    patch.setattr(text_decoder._LayerWriter, "_head_norm", skipped)


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl3"])
def test_a_streamed_reference_computes_what_the_whole_one_does(checkpoints: dict[str, Path], family: str) -> None:
    from build_engine.parity.cases import probes
    from build_engine.parity.reference_side import ReferenceSide
    from build_engine.parity.streamed_reference import StreamedReference
    from egm_edge.backends.transformers_reference import TransformersReference

    found = []
    for kind in (TransformersReference, StreamedReference):
        reference = kind(checkpoints[family])
        prepared = ReferenceSide(reference, family, probes(), 4).prepared(probes()[1])
        found.append(reference.trace(prepared, [5, 6, 7], 9))
    np.testing.assert_allclose(found[1].logits, found[0].logits, atol=1e-5)
    np.testing.assert_allclose(found[1].embeddings, found[0].embeddings, atol=1e-5)


@pytest.mark.parametrize("broken", [False, True], ids=["faithful", "a fault in the third layer"])
def test_a_large_checkpoint_is_verified_or_refused(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Verify, broken: bool
) -> None:
    from build_engine.parity.reference_side import opened
    from egm_edge.backends.transformers_reference import TransformersReference

    monkeypatch.setattr(build_gate, "MAX_PARAMETERS", 0)
    if broken:
        _without_q_norm_of_the_third_layer(monkeypatch)
        with pytest.raises(BuildError, match="another prefill logits"):
            build_cpu(checkpoints["qwen3_vl"], tmp_path / "bundle", precision="int4")
        return
    bundle = build_cpu(checkpoints["qwen3_vl"], tmp_path / "bundle", precision="int4")
    assert bundle.manifest.parity["status"] == "verified"
    golden, reference = read_golden(bundle), TransformersReference(checkpoints["qwen3_vl"])
    assert golden.replies
    for reply in golden.replies:  # drafted by the bundle, and yet the reference's own
        request = reference.prepare(opened(reply.picture), task_text("qwen3_vl", reply.expression, reply.task))
        assert reference.generate([request], golden.max_new_tokens) == [list(reply.token_ids)]
    monkeypatch.setattr("build_engine.parity.build_gate.memory_gb", lambda: (1.0, 1e-6))
    monkeypatch.setattr(TransformersReference, "generate", None)  # no whole reference where there is no memory for it
    assert verify(bundle.root)[1]["status"] == "verified"


@pytest.mark.long
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("broken", [False, True], ids=["faithful", "a fault in the third layer"])
def test_the_gate_at_egm_4b_widths_fits_20_gb(tmp_path: Path, broken: bool) -> None:
    import subprocess
    import sys

    from tests.support.large_checkpoints import write_qwen3_vl_dims

    checkpoint = write_qwen3_vl_dims(
        tmp_path / "checkpoint", "egm-4b-widths", text_layers=4, vision_layers=3, max_pixels=400_000
    )
    script = (
        "import sys, time, pytest; from build_engine.cli import main; from egm_edge.machine import peak_rss_mb\n"
        "from egm_edge.errors import EgmError\n"
        "from tests.build_engine.parity.test_streamed import _without_q_norm_of_the_third_layer as fault\n"
        "started = time.monotonic()\n"
        f"fault(pytest.MonkeyPatch()) if {broken} else None\n"
        "try:\n    main(sys.argv[1:]); said = 'built'\nexcept EgmError as error:\n    said = str(error)\n"
        "print(said); print(f'{(time.monotonic() - started) / 60:.1f} minutes'); print(peak_rss_mb())\n"
    )
    arguments = [str(checkpoint), "--precision", "int4", "--quiet", "-o", str(tmp_path / "bundle")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    *said, minutes, peak_mb = done.stdout.strip().splitlines()
    print(f"\n{minutes}, peak {float(peak_mb):.0f} MB")
    assert float(peak_mb) < 20_000
    assert ("another prefill logits" in "\n".join(said)) == broken, said
