"""Messages in a file: a list of JSON objects with `role` and `content`, as `LLM.chat` takes it."""

import json
from pathlib import Path
from typing import Any

from jinfer.cli.chat_session import Message
from jinfer.errors import RequestError

RULE = (
    'it must be a list of objects with the texts "role" and "content", a system message only at its beginning'
)


def write_messages(name: str, messages: list[Message], *, overwrite: bool) -> None:
    """Raises RequestError where there is nothing to write, or a file that must not be lost, and OSError."""
    path = _path(name)
    if not messages:
        raise RequestError("there are no messages to save; say something first")
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(json.dumps(messages, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError as error:
        raise RequestError(
            f"{path} exists; /save! {name} overwrites it, or give the name of a new file"
        ) from error


def read_messages(name: str) -> tuple[str | None, list[Message]]:
    """The text of the system message, and the other messages. Raises RequestError for a file that holds
    something else, and OSError."""
    path = _path(name)
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, or of UTF-8
        raise RequestError(f"{path} is no JSON ({error}); {RULE}") from error
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise RequestError(f"{path} holds no messages; {RULE}")
    has_system = messages[0]["role"] == "system"
    rest = messages[has_system:]
    if any(message["role"] == "system" for message in rest):
        raise RequestError(f"{path} has a system message after its beginning; {RULE}")
    return (messages[0]["content"] if has_system else None), rest


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _path(name: str) -> Path:
    if not name:
        raise RequestError("the name of a file is missing; write it after the command")
    return Path(name).expanduser()
