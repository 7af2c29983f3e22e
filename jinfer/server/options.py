"""The options of a server besides those of its engine."""

from dataclasses import dataclass
from typing import Literal

from jinfer.errors import ConfigError, shown
from jinfer.options import check_options, option
from jinfer.text.output_parsing.format_choice import check_format_names

LogFormat = Literal["text", "json"]
ReasoningField = Literal["reasoning", "reasoning_content", "both"]
TEXTS = ("model", "tokenizer", "host")
LISTS = ("api_key", "served_model_name", "allowed_origins")


@dataclass(frozen=True)
class ServerOptions:
    """The model, who may call it and where, and how the server ends. Raises ConfigError for a malformed
    option."""

    model: str | None = option(
        None, help="default: the small model that ships with jinfer", metavar="DIR_OR_HUB_ID"
    )
    tokenizer: str | None = option(None, help="default: the model's", metavar="DIR")
    host: str = option("127.0.0.1", help="address to listen at; default 127.0.0.1", metavar="ADDRESS")
    port: int = option(8000, minimum=0, help="default 8000; 0 picks a free one", metavar="N")
    api_key: tuple[str, ...] = option(
        (),
        help="keys, of which a client needs one for all but /health and the page at /; default: "
        "JINFER_API_KEY, which other users of the machine cannot see",
        metavar="KEY",
    )
    served_model_name: tuple[str, ...] = option(
        (), help="names of the model in requests; default: as it is given", metavar="NAME"
    )
    allowed_origins: tuple[str, ...] = option(
        (), help="origins of web pages that may call, or *; default: none", metavar="ORIGIN"
    )
    tool_call_parser: str | None = option(
        None, help="format of the model's tool calls; default: found by its template", metavar="NAME"
    )
    reasoning_parser: str | None = option(
        None, help="format of the model's reasoning; default: found by its template", metavar="NAME"
    )
    reasoning_field: ReasoningField = option(
        "reasoning", help="name of the reasoning in the answers of chat; default reasoning"
    )
    log_format: LogFormat = option("text", help="form of the log's lines, on stderr; default text")
    max_queued_requests: int | None = option(
        1024, help="requests that wait for the engine, past which 503 answers; default 1024", metavar="N"
    )
    max_queued_tokens: int | None = option(
        None, help="tokens of the prompts that wait, past which 503 answers; default: none", metavar="N"
    )
    restart_engine: bool = option(
        False, help="start the engine again when its process dies; default: the server ends, too"
    )
    grace_s: int = option(
        30, minimum=0, help="seconds that requests have to end after SIGTERM; default 30", metavar="S"
    )
    request_timeout_s: int | None = option(
        None, help="seconds after which a request ends with what it has; default: none", metavar="S"
    )

    def __post_init__(self) -> None:
        check_options(self)
        for name in TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str | None) or value == "":
                raise ConfigError(f"{name}={shown(value)} must be a text, and not empty")
        for name in LISTS:
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(each, str) and each for each in value):
                raise ConfigError(f"{name}={shown(value)} must be a list of texts, none of them empty")
        check_format_names(tool_call_parser=self.tool_call_parser, reasoning_parser=self.reasoning_parser)
        if self.port > 65535:
            raise ConfigError(f"port={self.port} must be from 0 to 65535")
