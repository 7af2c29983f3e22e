"""The import of llguidance, which is optional."""

from types import ModuleType

from jinfer.errors import RequestError

MAX_ERROR_CHARACTERS = 500


def llguidance() -> ModuleType:
    """The module. Raises RequestError where it is not installed."""
    try:
        import llguidance
    except ImportError as error:
        raise RequestError(
            f"structured outputs need llguidance, which cannot be imported: {error}; "
            "pip install 'jinfer[structured]'"
        ) from error
    return llguidance


def error_words(message: str) -> str:
    """llguidance's message, shortened, and without its remark that it is not verbose."""
    words = message.removesuffix("<non-verbose/>").strip()
    return words if len(words) <= MAX_ERROR_CHARACTERS else words[: MAX_ERROR_CHARACTERS - 3] + "..."
