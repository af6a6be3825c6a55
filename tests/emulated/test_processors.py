"""Other processors, emulated: the shipped bundle gives the same boxes there as here. Needs apt for the emulator and its root."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.assets import ASSETS_DIR
from egm_edge.boxes import Box

ROOT = Path(__file__).parents[2]
BUNDLE = ASSETS_DIR / "egm-nano-cpu"
NOT_AVAILABLE = 77
REQUESTS = 3
SAME_BOX_IOU = 0.8
# Of all pictures together. Float32 sums of another processor differ in the last bit, which tips an activation that lies on a tie;
# from there on one picture's rounding is another sample of the same noise (docs/parity.md). Saturated products: 0.9992.
LEAST_COSINE = {"avx2": 0.9999, "arm64": 0.999}
LEAST_COSINE_OF_A_TOKEN = 0.999
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def _asked(command: list[str], out: Path) -> tuple[dict[str, Any], np.ndarray]:
    arguments = [str(ROOT / ".ci/golden_here.py"), str(BUNDLE), str(REQUESTS), str(out)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == NOT_AVAILABLE:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), np.load(out)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], np.ndarray]:
    return _asked([str(ROOT / ".venv/bin/python")], tmp_path_factory.mktemp("native") / "embeddings.npy")


@pytest.mark.parametrize("machine", ["arm64", "avx2"])
def test_the_same_boxes_on_an_emulated_processor(
    machine: str, native: tuple[dict[str, Any], np.ndarray], tmp_path: Path
) -> None:
    here, embeddings = native
    there, found = _asked([str(ROOT / ".ci/emulation.sh"), machine], tmp_path / "embeddings.npy")
    by_token = (embeddings * found).sum(1) / np.linalg.norm(embeddings, axis=1) / np.linalg.norm(found, axis=1)
    cosine = float((embeddings * found).sum() / np.linalg.norm(embeddings) / np.linalg.norm(found))
    seconds = [answer["seconds"] for answer in there["answers"]]
    measured = f"cosine {cosine:.6f}, of one token at least {by_token.min():.6f}; {there['kl_nats']:.2g} nats"
    print(f"\n{machine}: {there['engine']}; {seconds} s a request; {measured}")
    print("\n".join(f"  {a['box']} (native {b['box']})" for a, b in zip(there["answers"], here["answers"], strict=True)))
    assert cosine >= LEAST_COSINE[machine] and by_token.min() >= LEAST_COSINE_OF_A_TOKEN
    assert there["kl_nats"] <= there["kl_bound"]
    for a, b in zip(there["answers"], here["answers"], strict=True):
        assert Box(*a["box"]).iou(Box(*b["box"])) >= SAME_BOX_IOU
    if machine == "avx2":
        assert "exact products" in there["engine"]
