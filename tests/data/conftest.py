from tests.benchmark.conftest import frames_dir

__all__ = ["frames_dir"]
