"""The content of messages, in the form that a chat template reads."""

from collections.abc import Callable, Sequence
from typing import Any

from jinfer.errors import RequestError
from jinfer.text.content_format import ContentUse

PlainMessage = dict[str, Any]
Render = Callable[[list[PlainMessage]], str]

MEDIA = ("image", "video", "audio")
NEEDLE = "jinferneedle"  # letters alone, which every template's filters leave together
MARK = "jinfermark"


def fit_content(messages: list[PlainMessage], use: ContentUse, render: Render) -> list[PlainMessage]:
    """Messages whose content has the form that the template reads. `render` renders the template.

    A string is one part of type text for a template that reads parts, and text parts are joined for one that
    reads strings. A template that reads both gets what the caller gave. Which of them it reads may depend on
    the message; where the template does not test it, a word is rendered in either form to see which one comes
    out.

    Raises RequestError for content that is no text and that the template does not read.
    """
    return [
        _fit(messages, index, use, render) if "content" in message else message
        for index, message in enumerate(messages)
    ]


def _fit(messages: list[PlainMessage], index: int, use: ContentUse, render: Render) -> PlainMessage:
    message = messages[index]
    content = message["content"]
    where = f"messages[{index}].content"
    if not _is_text(content):
        return {**message, "content": _data(content, use, where)}
    as_given = "parts" if isinstance(content, list | tuple) else "string"
    form = _form(messages, index, use, render, as_given) if use.reads_parts else "string"
    return {**message, "content": _as_parts(content) if form == "parts" else _as_string(content)}


def _form(messages: list[PlainMessage], index: int, use: ContentUse, render: Render, as_given: str) -> str:
    """The form of this message's text for a template that reads parts somewhere."""
    if not use.prints_text:
        return "parts"
    if use.tests_string:
        return as_given
    probes = {"string": NEEDLE, "parts": [{"type": "text", "text": NEEDLE, MARK: MARK}]}
    for form in sorted(probes, key=lambda form: form != as_given):
        changed = [*messages[:index], {**messages[index], "content": probes[form]}, *messages[index + 1 :]]
        try:
            text = render(changed)
        except Exception:  # a template can raise anything that Python's operators raise
            continue
        if NEEDLE in text and MARK not in text:  # the mark shows where a list is printed whole
            return form
    return as_given


def _is_text(content: Any) -> bool:
    return isinstance(content, str) or (
        isinstance(content, list | tuple) and all(map(_is_text_part, content))
    )


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _as_string(content: str | Sequence[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _as_parts(content: str | Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _data(content: Any, use: ContentUse, where: str) -> Any:
    """Content that is no text, for a template that reads such content, as it is."""
    if not isinstance(content, list | tuple | dict):
        raise RequestError(
            f"{where} is a {type(content).__name__}; it must be a string or a list of text parts"
        )
    parts = [content] if isinstance(content, dict) else content
    is_read = use.takes_data or (use.reads_parts and not isinstance(content, dict))
    for index, part in enumerate(parts):
        part_name = where if isinstance(content, dict) else f"{where}[{index}]"
        if not is_read or _is_media(part):
            _refuse_part(part, part_name)
    return content


def _is_media(part: Any) -> bool:
    """True for a part that a model of text cannot see."""
    part_type = part.get("type") if isinstance(part, dict) else None
    return isinstance(part_type, str) and any(word in part_type for word in MEDIA)


def _refuse_part(part: Any, where: str) -> None:
    if _is_text_part(part):
        return
    part_type = part.get("type") if isinstance(part, dict) else None
    if part_type != "text":
        raise RequestError(
            f"{where} has the type {part_type!r}; only parts of type 'text' are supported, unless the chat "
            "template reads others; give its text as a part of type 'text'"
        )
    raise RequestError(f"{where} has the text {part.get('text')!r}; it must be a string")
