"""A small random Nano, written once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch; install the train extra")
pytest.importorskip("transformers", reason="training needs transformers; install the train extra")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors are tiny here: a second thread costs more in barriers than it gives, up to 8 times on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A freshly initialised EGM-Nano checkpoint."""
    from training.nano.build import NanoShape, fresh_model, save_checkpoint

    folder = tmp_path_factory.mktemp("nano") / "checkpoint"
    save_checkpoint(fresh_model(NanoShape(), seed=3), folder)
    return folder
