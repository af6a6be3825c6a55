"""Reading chat templates: where they may stand, transformers' dialect of jinja, and what is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from egm_edge.errors import BackendError, CheckpointError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.files import write_json
from tests.support import chat_templates

PLAIN = "U<|image_pad|>{{ messages[0].content[1].text }}A"


def checkpoint(directory: Path, template: str | None = None, model_type: str = "qwen3_vl") -> Path:
    write_json(directory / "config.json", {"model_type": model_type})
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("name", "values"),
    [
        pytest.param("chat_template.json", {"chat_template": PLAIN}, id="chat_template.json"),
        pytest.param("processor_config.json", {"chat_template": PLAIN}, id="processor_config.json"),
        pytest.param("tokenizer_config.json", {"chat_template": PLAIN}, id="tokenizer_config.json"),
        pytest.param(
            "tokenizer_config.json",
            {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": PLAIN}]},
            id="several named templates",
        ),
    ],
)
def test_places_a_template_may_stand(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    write_json(checkpoint(tmp_path) / name, values)
    spec = read_prompt_spec(tmp_path)
    assert (spec.prefix, spec.suffix) == ("U<|image_pad|>", "A")


def test_the_jinja_file_goes_first(tmp_path: Path) -> None:
    write_json(checkpoint(tmp_path, PLAIN) / "tokenizer_config.json", {"chat_template": "other"})
    assert read_prompt_spec(tmp_path).suffix == "A"


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        pytest.param(
            "{% generation %}U{% endgeneration %}" + PLAIN.removeprefix("U"), "U<|image_pad|>", id="generation marks"
        ),
        pytest.param("{{ eos_token }}" + PLAIN, "<|im_end|>U<|image_pad|>", id="special tokens by name"),
        pytest.param("{{ pad_token }}" + PLAIN, "<pad>U<|image_pad|>", id="special token written as an object"),
        pytest.param("{{ {'a': 'é'}|tojson }}" + PLAIN, '{"a": "é"}U<|image_pad|>', id="tojson keeps Unicode"),
        pytest.param("{% for i in [1, 2] %}{% break %}{% endfor %}" + PLAIN, "U<|image_pad|>", id="loop controls"),
        pytest.param("  {% if true %}\n" + PLAIN + "{% endif %}", "U<|image_pad|>", id="blocks are trimmed"),
        pytest.param(
            "{% if tools %}x{% endif %}{{ documents or '' }}" + PLAIN, "U<|image_pad|>", id="no tools, no documents"
        ),
        pytest.param("{% set ns = namespace(n=1) %}{{ ns.n }}" + PLAIN, "1U<|image_pad|>", id="namespace"),
        pytest.param("{{ '<' }}" + PLAIN, "<U<|image_pad|>", id="no HTML escapes"),
    ],
)
def test_transformers_dialect(tmp_path: Path, template: str, prefix: str) -> None:
    tokens = {"eos_token": "<|im_end|>", "pad_token": {"content": "<pad>", "special": True}, "bos_token": None}
    write_json(checkpoint(tmp_path, template) / "tokenizer_config.json", tokens)
    assert read_prompt_spec(tmp_path).prefix == prefix


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(None, "none in", id="no template"),
        pytest.param("{{ messages[0].content[1].text }}", "<|image_pad|> once", id="no image"),
        pytest.param("<|image_pad|>" + PLAIN, "2 times", id="two images"),
        pytest.param("{{ messages[0].content[1].text }}<|image_pad|>", "before the text", id="image after the text"),
        pytest.param("<|image_pad|>", "shows the text once", id="no text"),
        pytest.param(PLAIN + PLAIN, "shows the text once", id="text twice"),
        pytest.param("{{ raise_exception('only tools') }}", "only tools", id="the template refuses"),
        pytest.param("{% if %}", "TemplateSyntaxError", id="syntax error"),
        pytest.param("{{ 1 / 0 }}", "ZeroDivisionError", id="arithmetic"),
        pytest.param("{{ missing.part }}", "UndefinedError", id="undefined name"),
        pytest.param("{{ ''.__class__.__mro__ }}", "SecurityError", id="reaching for the interpreter"),
        pytest.param("{{ messages.append(1) }}", "SecurityError", id="changing its input"),
        pytest.param(
            "{% for i in range(99999) %}{{ 'xxxxxxxx' }}{% endfor %}", "at most 65536 characters", id="endless output"
        ),
        pytest.param("x" * 300_000, "at most 262144 characters", id="a huge template"),
        pytest.param("x" * 2_000_000, "short chat template", id="a huge file"),
    ],
)
def test_refused_templates(tmp_path: Path, template: str | None, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_prompt_spec(checkpoint(tmp_path, template))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf8_is_refused(tmp_path: Path) -> None:
    (checkpoint(tmp_path) / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="readable"):
        read_prompt_spec(tmp_path)


def test_a_missing_config_and_an_unknown_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_prompt_spec(tmp_path)
    with pytest.raises(CheckpointError, match=r"internvl, internvl3, qwen3_vl; found 'llava'"):
        read_prompt_spec(checkpoint(tmp_path, PLAIN, model_type="llava"))


def test_without_jinja2_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def no_jinja(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("jinja2"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_jinja)
    with pytest.raises(BackendError, match=r"egm-edge\[build\]"):
        read_prompt_spec(checkpoint(tmp_path, PLAIN))


def test_an_older_turn_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    spec = read_prompt_spec(checkpoint(tmp_path, chat_templates.QWEN3_VL_THINKING))
    assert spec.prefix.count("<|im_start|>") == 1
