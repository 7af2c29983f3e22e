"""The process in which a server renders chat templates: one that is never done, or grows, ends no server.

The setup is {"special_tokens", "max_characters"}, and a question {"source": the template's, "messages",
"options": those of ChatTemplate.render}. An answer is {"text"}, or {"kind", "error"}: the name of an error's
class in jinfer.errors, and its message.
"""

from typing import Any

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.chat_template import ChatTemplate
from jinfer.text.limited_process.answering import Answer, answer_lines


def new_answer(setup: Any) -> Answer:
    """The rendering with one model's special tokens. Each template is compiled once."""
    templates: dict[str, ChatTemplate] = {}

    def answer(question: Any) -> dict[str, str]:
        try:
            source = question["source"]
            if source not in templates:
                templates[source] = _compiled(source, setup["special_tokens"])
            text = templates[source].render(question["messages"], **question["options"])
            _check_length(text, setup["max_characters"])
        except (RequestError, TokenizerError) as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from None
            return {"kind": type(error).__name__, "error": str(error)}
        return {"text": text}

    return answer


def _compiled(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """Raises TokenizerError where the template cannot be compiled, for whatever reason but memory."""
    try:
        return ChatTemplate(source, special_tokens)
    except (TokenizerError, MemoryError):
        raise
    except Exception as error:  # Jinja's own limits: nesting, the names of a scope
        raise TokenizerError(
            f"the chat template cannot be compiled: {type(error).__name__}: {error}; correct it, or pass a "
            "prompt instead of messages"
        ) from error


def _check_length(text: str, max_characters: int) -> None:
    if len(text) > max_characters:
        raise RequestError(
            f"the chat template makes {len(text)} characters of these messages, and at most {max_characters} "
            "may be; send fewer or shorter ones"
        )


if __name__ == "__main__":
    answer_lines(new_answer)
