"""Benchmark scripts: `python -m tests.bench.NAME`; none of them is run by the tests."""
