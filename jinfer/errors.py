"""Every exception that jinfer raises on purpose.

    JinferError
    ├── ConfigError                 an engine option is unknown, malformed or contradicts another
    │   └── InsufficientMemoryError what the options ask for does not fit on the device
    ├── ModelError
    │   ├── ModelNotFoundError      no such directory, and no such model on the hub or in its cache
    │   ├── UnsupportedModelError   config.json describes something jinfer cannot run
    │   ├── CheckpointError         weights are missing, left over, misshapen, truncated or corrupt
    │   └── TokenizerError          no tokenizer, or no chat template, where one is needed
    ├── RequestError                this request is invalid; no other request is affected
    └── EngineError                 the engine failed or is closed

A message gives the value, the rule that it breaks and the remedy. The classes that report a caller's bad value are
also ValueErrors, so that code written against the standard library's habits catches them.
"""

MOST_CHARACTERS_SHOWN = 200


def shown(value: object) -> str:
    """`repr` of a value for a message: short, whatever the value is. Python refuses to print very long integers."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: {error}>"
    return text if len(text) <= MOST_CHARACTERS_SHOWN else text[: MOST_CHARACTERS_SHOWN - 3] + "..."


class JinferError(Exception):
    """Base of all errors below."""


class ConfigError(JinferError, ValueError):
    """An engine option is unknown, malformed or contradicts another."""


class InsufficientMemoryError(ConfigError):
    """What the options ask for does not fit on the device; the message has the sizes in GB."""


class ModelError(JinferError):
    """A model directory cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """Neither a directory of this name nor a hub model that can be had."""


class UnsupportedModelError(ModelError, ValueError):
    """config.json describes an architecture or an option of one that jinfer does not implement."""


class CheckpointError(ModelError, ValueError):
    """A weight is missing, left over or misshapen, or its file is truncated or corrupt."""


class TokenizerError(ModelError, ValueError):
    """The model has no tokenizer or chat template, and the call needs one."""


class RequestError(JinferError, ValueError):
    """This request is invalid; no other request is affected."""


class EngineError(JinferError, RuntimeError):
    """The engine failed or was closed; the message says which."""
