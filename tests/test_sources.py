"""One resolver for every verb: what a text is taken for, and what is said of one that is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from egm_edge.assets import shipped_bundle, shipped_checkpoint
from egm_edge.errors import BundleError, EgmError, InputError
from egm_edge.sources import LOCAL_KINDS, SourceKind, resolve


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGM_BUNDLE", raising=False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param("nvidia/EGM-4B", SourceKind.HUB, id="hub id"),
        pytest.param("nvidia/EGM-4B@main", SourceKind.HUB, id="hub id with a revision"),
        pytest.param("http://127.0.0.1:30000", SourceKind.SERVER, id="address"),
        pytest.param("HTTPS://robot.local/v1", SourceKind.SERVER, id="address in capitals"),
        pytest.param("egm-nano", SourceKind.BUNDLE, id="the shipped name"),
        pytest.param(str(shipped_checkpoint()), SourceKind.CHECKPOINT, id="checkpoint directory"),
        pytest.param(str(shipped_bundle()), SourceKind.BUNDLE, id="bundle directory"),
    ],
)
def test_what_a_text_is_taken_for(text: str, kind: SourceKind) -> None:
    assert resolve(text).kind is kind


def test_nothing_named_is_the_environments_choice_or_the_shipped_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(None).directory == shipped_bundle()
    monkeypatch.setenv("EGM_BUNDLE", str(shipped_checkpoint()))
    assert resolve(None).kind is SourceKind.CHECKPOINT
    monkeypatch.setenv("EGM_BUNDLE", "/no/such")
    with pytest.raises(BundleError, match=r"'/no/such', which \$EGM_BUNDLE names"):
        resolve(None)


def test_an_empty_name_is_not_the_shipped_model_nor_the_folder_one_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped_checkpoint())
    with pytest.raises(BundleError, match="nothing there"):
        resolve("")


def test_the_shipped_name_is_the_checkpoint_where_one_is_wanted() -> None:
    assert resolve("egm-nano", takes=(SourceKind.CHECKPOINT,), prefers=SourceKind.CHECKPOINT).directory == shipped_checkpoint()


def test_a_directory_of_the_shipped_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "egm-nano").mkdir()
    (tmp_path / "egm-nano" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve("egm-nano").directory == Path("egm-nano")


def test_a_path_that_is_not_there_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out" / "egm-4b-cpu").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"nothing there.*did you mean out/egm-4b-cpu\?"):
        resolve("out/egm-4b-cpy")


@pytest.mark.parametrize(
    ("name", "said"),
    [("model.gguf", "llama.cpp"), ("model.safetensors", "pass its directory"), ("notes.txt", "which is a file")],
)
def test_a_file_is_told_what_to_do_with_it(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(BundleError, match=said):
        resolve(tmp_path / name)


def test_a_directory_of_bundles_points_into_itself() -> None:
    with pytest.raises(BundleError, match=r"without bundle\.json.*did you mean .*egm-nano"):
        resolve(shipped_bundle().parent)


@pytest.mark.parametrize("text", ["nvidia/EGM-4B", "http://127.0.0.1:1"])
def test_what_a_verb_cannot_use_says_what_it_was_taken_for(text: str) -> None:
    with pytest.raises(InputError, match=f"taken for a {resolve(text).kind.value}"):
        resolve(text, takes=LOCAL_KINDS)


@pytest.mark.parametrize("text", ["a" * 5000, "a\0b", "~", "//", "nvidia/EGM/4B", "egm-nan0"])
def test_odd_texts_are_one_clear_error(text: str) -> None:
    with pytest.raises(EgmError, match="expected"):
        resolve(text)
