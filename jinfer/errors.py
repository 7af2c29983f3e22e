"""Every exception that jinfer raises on purpose.

    JinferError
    ├── ConfigError                 an engine option is unknown, malformed or contradicts another
    │   └── InsufficientMemoryError the options ask for more than fits on the device
    ├── ModelError
    │   ├── ModelNotFoundError      no such directory, and no such model on the hub or in its cache
    │   ├── UnsupportedModelError   config.json describes something jinfer cannot run
    │   ├── CheckpointError         weights are missing, left over, misshapen, truncated or corrupt
    │   └── TokenizerError          no tokenizer, or no chat template, where one is needed
    ├── RequestError                a request is invalid; no other request is affected
    └── EngineError                 the engine failed or is closed
        └── OverloadedError         the engine takes no more requests at present

A message gives the value, the rule that it breaks and the remedy. The classes that report a caller's bad
value are also ValueErrors, so that code written against the standard library's habits catches them.
"""

MAX_CHARACTERS_SHOWN = 200


def shown(value: object) -> str:
    """`repr` of a value for a message: short, whatever the value is. Python refuses to print very long
    integers."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) <= MAX_CHARACTERS_SHOWN else text[: MAX_CHARACTERS_SHOWN - 3] + "..."


class JinferError(Exception):
    """Base of all errors below."""


class ConfigError(JinferError, ValueError):
    """An engine option is unknown, malformed or contradicts another."""


class InsufficientMemoryError(ConfigError):
    """The options ask for more than fits on the device; the message has the sizes in GB."""


class ModelError(JinferError):
    """A model directory cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No such directory, and no such model on the hub or in its cache."""


class UnsupportedModelError(ModelError, ValueError):
    """config.json describes an architecture or an option of one that jinfer does not implement."""


class CheckpointError(ModelError, ValueError):
    """A weight is missing, left over or misshapen, or its file is truncated or corrupt."""


class TokenizerError(ModelError, ValueError):
    """The model has no tokenizer or chat template, and the call needs one."""


class RequestError(JinferError, ValueError):
    """A request is invalid; no other request is affected. `param` is the name of the parameter at fault, if
    one is, and `code` names the rule for programs, as OpenAI's API does: "context_length_exceeded"."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class EngineError(JinferError, RuntimeError):
    """The engine failed or was closed; the message says which."""


class OverloadedError(EngineError):
    """The engine takes no more requests at present: its queue is full, or it is about to start again.

    `retry_after_s` is an estimate of the seconds until it may take one, different for each caller, so that
    not all come back at the same moment.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
