"""The lines of a server's log: for people, or one JSON object each."""

import logging
from datetime import UTC, datetime

import msgspec

UVICORN = "uvicorn.error"  # the logger's name, whatever it logs


class TextFormatter(logging.Formatter):
    """Time, level and message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")


class JsonFormatter(logging.Formatter):
    """An object with time, level, logger and message, and the fields that a record brings in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(_encodable(entry)).decode()


def set_log_format(chosen: str) -> None:
    """Gives what handles jinfer's messages the chosen format, and lets it handle uvicorn's errors."""
    uvicorn_logger = logging.getLogger(UVICORN)
    uvicorn_logger.setLevel(logging.ERROR)  # it warns of each request that is no HTTP
    uvicorn_logger.propagate = False
    for handler in logging.getLogger("jinfer").handlers:
        handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
        if handler not in uvicorn_logger.handlers:
            uvicorn_logger.addHandler(handler)


def _encodable(entry: dict[str, object]) -> dict[str, object]:
    """The entry with lone surrogates of its texts escaped."""
    return {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in entry.items()
    }
