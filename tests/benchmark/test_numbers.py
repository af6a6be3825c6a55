"""Statistics, fixed rate, conditions, energy and rooflines: against values worked by hand, fake clocks and fake sysfs trees."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from egm_edge.benchmark.conditions import Conditions, others_share, snapshot
from egm_edge.benchmark.energy import Energy, RailMeter, RaplMeter
from egm_edge.benchmark.fixed_rate import run_at_rate
from egm_edge.benchmark.gpu import GpuWatch
from egm_edge.benchmark.limits import MachineLimits, measure_limits
from egm_edge.benchmark.onnx_graph import Product, products, read_graph
from egm_edge.benchmark.roofline import RequestModel, Work, _is_int8, bound_ms, reached
from egm_edge.benchmark.runner import parse_sweeps
from egm_edge.bundle import Bundle
from egm_edge.errors import BundleError, InputError
from egm_edge.reporting.statistics import median_ratio, paired_ratio, spread

LIMITS = MachineLimits(
    bandwidth_gb_s=10.0,
    bandwidth_median_gb_s=9.0,
    bandwidth_by="",
    bandwidth_passes=5,
    fp32_gflop_s=100.0,
    int8_gop_s=400.0,
    threads=2,
)


def test_percentiles_are_numpys_linear_ones() -> None:
    found = spread([float(v) for v in range(101)])
    assert found
    assert (found.p50, found.p90, found.p95, found.p99, found.min, found.max) == (50.0, 90.0, 95.0, 99.0, 0.0, 100.0)
    assert spread([]) is None


def test_ratios_know_noise_from_difference() -> None:
    rng = np.random.default_rng(0)
    a, b = (100 + rng.normal(0, 5, 40) for _ in range(2))
    same = median_ratio(a.tolist(), b.tolist())
    assert same and same.noise
    slower = median_ratio((2 * a).tolist(), b.tolist())
    assert slower and not slower.noise and slower.ratio == pytest.approx(2.0, rel=0.1)
    mood = rng.random(20) * 10 + 1  # pairs share the machine's mood, which would drown the difference otherwise
    pairs = paired_ratio((1.1 * mood).tolist(), mood.tolist())
    assert pairs and not pairs.noise and pairs.ratio == pytest.approx(1.1)
    for two in (median_ratio([2.0, 2.0], [1.0, 1.0]), paired_ratio([2.0, 2.0], [1.0, 1.0])):
        assert two and two.noise and (two.ratio, two.low, two.high) == (2.0, None, None)  # two values prove nothing
    assert median_ratio([], [1.0]) is None
    assert median_ratio([1.0], [0.0]) is None


class Clock:
    """Stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("answer_s", "rate_hz", "frames", "missed"),
    [
        pytest.param(0.05, 10.0, [0, 1, 2, 3], 0, id="faster than the camera"),
        pytest.param(0.10, 10.0, [0, 1, 2, 3], 0, id="just as fast"),
        pytest.param(0.25, 10.0, [0, 2, 5, 7], 4, id="two and a half frames each"),
        pytest.param(1.00, 30.0, [0, 30, 60, 90], 87, id="a second on a 30 Hz camera"),
    ],
)
def test_missed_frames_at_a_fixed_rate(answer_s: float, rate_hz: float, frames: list[int], missed: int) -> None:
    clock = Clock()
    found = run_at_rate(lambda frame: clock.sleep(answer_s), rate_hz, 4, clock=clock, sleep=clock.sleep)
    assert [a.frame for a in found.answered] == frames
    assert found.missed == missed
    assert found.missed_share == pytest.approx(missed / (missed + 4))
    for answered in found.answered:
        assert 0.0 <= answered.wait_ms < 1e3 / rate_hz + 1e-6  # always the newest frame
        assert answered.age_ms == pytest.approx(answered.wait_ms + answer_s * 1e3)


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_conditions_of_a_jetson(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu0"
    root = put(
        tmp_path,
        {
            f"{cpu}/cpufreq/scaling_governor": "schedutil\n",
            f"{cpu}/cpufreq/scaling_cur_freq": "1510400\n",
            f"{cpu}/cpufreq/scaling_max_freq": "1984000\n",
            f"{cpu}/thermal_throttle/core_throttle_count": "3\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48218\n",
            "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",  # off: its temp file cannot be read
            "var/lib/nvpmodel/status": "pmode:0002",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n",
            "proc/loadavg": "0.52 0.58 0.59 1/389 4242\n",
            "proc/self/status": "VmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n",
            "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\n",
        },
    )
    found = snapshot(root)
    assert (found.governor, found.clock_mhz, found.clock_max_mhz) == ("schedutil", 1510.4, 1984.0)
    assert found.temperatures_c == {"cpu-thermal 0": 48.218}
    assert (found.throttled, found.power_mode, found.load_1min) == (3, "2 15W", 0.52)
    assert (found.rss_mb, found.peak_rss_mb) == (1.024, 2.048)
    assert found.busy_s is not None and found.idle_s == 4 * found.busy_s


def test_conditions_of_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = snapshot(tmp_path)
    assert (found.governor, found.clock_mhz, found.power_mode, found.throttled, found.rss_mb) == (None,) * 5
    assert others_share(found, found) is None
    with Energy(tmp_path) as energy:
        pass
    assert set(energy.joules) <= {"nvml"}  # a real board may still be there


def test_cpu_time_of_others() -> None:
    def at(busy_s: float, idle_s: float, own_s: float) -> Conditions:
        return Conditions(None, None, None, busy_s=busy_s, idle_s=idle_s, own_s=own_s)

    assert others_share(at(10, 10, 1), at(14, 16, 2)) == pytest.approx(0.3)
    assert others_share(at(10, 10, 1), at(10, 10, 1)) is None


def test_rapl_counts_over_a_wrap_and_over_packages_and_not_the_platform_round_them(tmp_path: Path) -> None:
    files = {
        f"sys/class/powercap/intel-rapl:{i}/{name}": text
        for i, zone, joules in ((0, "package-0", "900"), (1, "package-1", "100"), (2, "psys", "1"))
        for name, text in (("name", zone), ("energy_uj", f"{joules}000000"), ("max_energy_range_uj", "1000000000"))
    }
    meter = RaplMeter(put(tmp_path, files))
    assert meter.available
    meter.start()
    later = {"0": "50000000", "1": "107500000", "2": "400000000"}
    put(tmp_path, {f"sys/class/powercap/intel-rapl:{i}/energy_uj": text for i, text in later.items()})
    assert meter.stop_j() == pytest.approx(150.0 + 7.5)


def test_a_jetsons_rails_prefer_the_whole_module(tmp_path: Path) -> None:
    monitor = "sys/class/hwmon/hwmon3"
    rails = {
        "in1_label": "VDD_IN",
        "in1_input": "5000",
        "curr1_input": "2000",
        "in2_label": "VDD_CPU_GPU_CV",
        "in2_input": "5000",
    }
    meter = RailMeter(
        put(tmp_path, {f"{monitor}/{n}": t for n, t in (rails | {"curr2_input": "900", "name": "ina3221"}).items()})
    )
    assert meter.name == "jetson rails VDD_IN"
    assert meter._watts() == pytest.approx(10.0)
    meter.start()
    assert meter.stop_j() > 0.0


def test_the_graph_reader_agrees_with_the_onnx_package(tiny_cpu_bundle: Bundle, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for name in ("vision", "decoder", "head"):
        path = tiny_cpu_bundle.path(f"graphs/{name}.onnx")
        expected = onnx.load(path, load_external_data=False).graph
        found = read_graph(path)
        assert [(n.op, n.inputs) for n in found.nodes] == [(n.op_type, tuple(n.input)) for n in expected.node]
        assert found.shapes == {i.name: tuple(i.dims) for i in expected.initializer}
        whole = [{a.name: a.i for a in n.attribute if a.type == onnx.AttributeProto.INT} for n in expected.node]
        assert [
            {k: v for k, v in n.attributes.items() if k in w} for n, w in zip(found.nodes, whole, strict=True)
        ] == whole
        assert products(found)
    data = tiny_cpu_bundle.path("graphs/vision.onnx").read_bytes()
    for damaged in (b"", b"\xff" * 40, data[: len(data) // 2], b"hello"):
        (tmp_path / "bad.onnx").write_bytes(damaged)
        with pytest.raises(BundleError, match="an ONNX model"):
            read_graph(tmp_path / "bad.onnx")


def test_work_of_a_tiny_model_equals_its_parameters(tiny_cpu_bundle: Bundle) -> None:
    model = RequestModel(tiny_cpu_bundle, fast=True)
    config = tiny_cpu_bundle.manifest.model
    hidden, layers, ffn, heads, head_dim = 64, 3, 160, 4, 32  # as write_tiny_qwen3_vl makes it
    queries, keys = heads * head_dim, config["kv_heads"] * head_dim
    per_token = layers * (hidden * queries * 2 + hidden * keys * 2 + hidden * ffn * 3)
    head = hidden * config["vocab_size"]
    context = 50
    step = model.decode_step(context)
    assert step.operations == 2 * (per_token + head + 2 * layers * queries * context)
    weights = sum(
        r.bytes for n, r in tiny_cpu_bundle.manifest.files.items() if n.startswith(("graphs/decoder", "graphs/head"))
    )
    assert step.bytes == weights + 2 * layers * keys * 4 * context
    assert model.prefill(30).operations == 2 * (30 * per_token + head + layers * queries * 30**2)
    assert model.vision(6).operations > 24 * 2 * 64 * 64


@pytest.mark.parametrize(
    ("op", "int8"),
    [
        ("MatMul", False),
        ("Gemm", False),
        ("MatMulNBits", True),
        ("DynamicQuantizeMatMul", True),
        ("MatMulInteger", True),
        ("MatMulIntegerToFloat", True),
    ],
)
def test_products_of_8_bit_numbers_are_held_against_the_8_bit_rate(op: str, int8: bool) -> None:
    assert _is_int8([Product("w", 64, 64, op), Product("first", 8, 8, "MatMul")]) is int8


def test_the_bound_is_the_slower_of_memory_and_arithmetic() -> None:
    assert bound_ms(Work(1e9, 1e9, int8=False), LIMITS) == (100.0, "memory")
    assert bound_ms(Work(1e6, 1e10, int8=False), LIMITS) == (100.0, "arithmetic")
    assert bound_ms(Work(1e6, 1e10, int8=True), LIMITS) == (25.0, "arithmetic")


def test_shares_of_the_roofline(tiny_cpu_bundle: Bundle) -> None:
    stages = {"vision_ms": 10.0, "prefill_ms": 20.0, "think_ms": 30.0, "answer_ms": 10.0}
    tokens = {"prompt": 30, "image": 6, "completion": 8, "decode_steps": 8}
    found = reached(RequestModel(tiny_cpu_bundle, fast=True), LIMITS, [{"stages": stages, "tokens": tokens}])
    assert [r.stage for r in found] == ["vision", "prefill", "decode (per step)"]
    assert [r.measured_ms for r in found] == [10.0, 20.0, 5.0]
    assert all(r.share == r.bound_ms / r.measured_ms == r.best_share for r in found)


def test_limits_are_measured_here() -> None:
    found = measure_limits(1, buffer_bytes=8 << 20, passes=2, side=64)
    assert found.bandwidth_gb_s >= found.bandwidth_median_gb_s > 0
    assert found.fp32_gflop_s > 0
    assert found.int8_gop_s is None or found.int8_gop_s > 0


@pytest.mark.parametrize(
    "text",
    [
        "pixels=3",
        "tokens",
        "tokens=",
        "tokens=0",
        "tokens=-3",
        "resolution=640",
        "resolution=0x4",
        "prompt=a",
        "commands=1e3",
    ],
)
def test_sweeps_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--sweep"):
        parse_sweeps([text])


class FakeNvml:
    """A board that warms up, fills and throttles once; the calls are those of pynvml."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self) -> None:
        self.looks = 0

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return "board"

    def nvmlDeviceGetName(self, board: str) -> bytes:  # noqa: N802
        return b"A board"

    def nvmlDeviceGetMemoryInfo(self, board: str) -> SimpleNamespace:  # noqa: N802
        self.looks += 1
        return SimpleNamespace(total=80e9, used=1e9 * min(self.looks, 3))

    def nvmlDeviceGetClockInfo(self, board: str, kind: int) -> int:  # noqa: N802
        return 1500

    def nvmlDeviceGetTemperature(self, board: str, kind: int) -> int:  # noqa: N802
        return 40 + self.looks

    def nvmlDeviceGetPowerUsage(self, board: str) -> int:  # noqa: N802
        raise RuntimeError("not supported")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, board: str) -> int:  # noqa: N802
        return 0x1 | (0x20 if self.looks == 2 else 0)  # idle says nothing; too hot does


def test_a_board_is_watched_through_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    with GpuWatch() as watch:
        time.sleep(0.2)
    assert watch.run
    assert (watch.run.name, watch.run.memory_total_mb) == ("A board", 80e3)
    assert (watch.run.memory_before_mb, watch.run.memory_peak_mb) == (2e3, 3e3)
    assert watch.run.temperature_before_c == 42.0 < watch.run.temperature_peak_c
    assert (watch.run.throttled, watch.run.power_peak_w, watch.run.clock_mhz) == (("too hot",), None, 1500.0)


class MuteNvml(FakeNvml):
    """An integrated board: its driver knows no clock."""

    def nvmlDeviceGetClockInfo(self, board: str, kind: int) -> int:  # noqa: N802
        raise RuntimeError("not supported")


@pytest.mark.parametrize("nvml", [None, MuteNvml()], ids=["no package", "a board that does not tell"])
def test_no_board_is_no_number(nvml: FakeNvml | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with GpuWatch() as watch:
        pass
    assert watch.run is None
