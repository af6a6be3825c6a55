"""PromptSpec from a checkpoint: its own chat template, rendered once around a marker and split there.

Build-time only: needs jinja2 (imported when called), in the sandbox and with the settings that transformers uses. A
template is code from a download, so it runs sandboxed, with bounded input and output, and may not see anything but one message.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from egm_edge._processor_config import read_json
from egm_edge.errors import BackendError, CheckpointError
from egm_edge.families.base import Family, PromptSpec
from egm_edge.families.registry import family_for

MAX_TEMPLATE_CHARS = 256 << 10
MAX_PROMPT_CHARS = 64 << 10
MAX_CHOSEN_BOX_CHARS = 32
MARKER = "EGMTASKTEXT"
_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_HINT = "use the chat template of the released checkpoint"


def read_prompt_spec(checkpoint: Path | str) -> PromptSpec:
    """The prompt of a checkpoint directory.

    Raises:
        CheckpointError: no chat template, one that fails, or one that does not show one image and then the text.
        BackendError: jinja2 is not installed.
    """
    directory = Path(checkpoint)
    family = family_for(str(read_json(directory / "config.json").get("model_type", "")))
    prompt = _render(_template_text(directory), directory)
    prefix, suffix = _split(prompt, family)
    return PromptSpec(
        family=family.name,
        modal=family.modal,
        amodal=family.amodal,
        prefix=prefix,
        suffix=suffix,
        image_token=family.image_token,
        answer_syntax=family.answer_syntax,
        chosen_box=_chosen_box(directory),
    )


def _chosen_box(directory: Path) -> str:
    """`PromptSpec.chosen_box`, which tokenizer_config.json states beside the chat template."""
    path = directory / "tokenizer_config.json"
    word = read_json(path).get("thought_chosen_box", "") if path.is_file() else ""
    return word[:MAX_CHOSEN_BOX_CHARS] if isinstance(word, str) else ""


def _split(prompt: str, family: Family) -> tuple[str, str]:
    if prompt.count(MARKER) != 1:
        raise CheckpointError("a chat template that shows the text once", f"{prompt.count(MARKER)} times", _HINT)
    prefix, suffix = prompt.split(MARKER)
    if prefix.count(family.image_token) != 1 or family.image_token in suffix:
        raise CheckpointError(
            f"a chat template that shows {family.image_token} once, before the text",
            f"{prompt.count(family.image_token)} times in {prompt[:120]!r}",
            _HINT,
        )
    return prefix.replace(family.image_token, family.image_span(family.image_token)), suffix


def _template_text(directory: Path) -> str:
    """The template that transformers' processor would use: its own file first, the tokenizer's last."""
    jinja_file = directory / "chat_template.jinja"
    if jinja_file.is_file():
        try:
            if jinja_file.stat().st_size > 4 * MAX_TEMPLATE_CHARS:
                raise CheckpointError("a short chat template", f"{jinja_file.stat().st_size} bytes", _HINT)
            return _bounded(jinja_file.read_text(encoding="utf-8"), jinja_file)
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"a readable {jinja_file}", str(error), _HINT) from None
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = directory / name
        template = read_json(path).get("chat_template") if path.is_file() else None
        if isinstance(template, list):  # several named templates
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        if isinstance(template, str):
            return _bounded(template, path)
    raise CheckpointError(
        "a chat template (chat_template.jinja, chat_template.json or in tokenizer_config.json)",
        f"none in {directory}",
        "copy it from the released checkpoint",
    )


def _bounded(template: str, path: Path) -> str:
    if len(template) > MAX_TEMPLATE_CHARS:
        found = f"{len(template)} characters in {path}"
        raise CheckpointError(f"a chat template of at most {MAX_TEMPLATE_CHARS} characters", found, _HINT)
    return template


def _render(template: str, directory: Path) -> str:
    try:
        import jinja2
    except ImportError:
        raise BackendError(
            "jinja2, which renders chat templates", "no such package", "pip install 'egm-edge[build]'"
        ) from None
    content = [{"type": "image"}, {"type": "text", "text": MARKER}]
    known = {
        "messages": [{"role": "user", "content": content}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
    }
    pieces: list[str] = []
    length = 0
    try:
        for piece in _environment().from_string(template).generate(**(_special_tokens(directory) | known)):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_PROMPT_CHARS:
                raise CheckpointError(f"a prompt of at most {MAX_PROMPT_CHARS} characters", "a longer one", _HINT)
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        RecursionError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            "a chat template that renders one user turn", f"{type(error).__name__}: {str(error)[:200]}", _HINT
        ) from None
    return "".join(pieces)


def _special_tokens(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    values = read_json(path) if path.is_file() else {}
    found = {name: values.get(name) for name in _SPECIAL_NAMES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _environment() -> Any:
    """transformers' environment (utils/chat_template_utils.py): same trimming, filters, globals and extensions."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` … `{% endgeneration %}` marks what training supervises; here it renders as its content."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, **({"ensure_ascii": False} | options))

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
