"""Bounds on what one HTTP request may hold, and on what one client may do."""

from dataclasses import dataclass

from jinfer.options import check_options, option


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of the HTTP front, each refused with its number and the remedy.

    Those of one prompt and its sampling are `EngineLimits` and `SamplingParams`. Raises ConfigError for a
    malformed option.
    """

    max_body_bytes: int = option(8 * 2**20, help="bytes of a request's body; default 8 MiB", metavar="N")
    max_body_s: int = option(30, help="seconds in which a body must have come; default 30", metavar="S")
    max_num_headers: int = option(100, help="headers of a request; default 100", metavar="N")
    max_header_bytes: int = option(
        32 * 2**10, help="bytes of a request's headers, its address included; default 32 KiB", metavar="N"
    )
    max_header_s: int = option(30, help="seconds in which headers must have come; default 30", metavar="S")
    max_json_depth: int = option(64, help="lists and objects within each other; default 64", metavar="N")
    max_prompts: int = option(1024, help="prompts of a request; default 1024", metavar="N")
    max_sequences: int = option(1024, help="prompts of a request times n; default 1024", metavar="N")
    max_messages: int = option(4096, help="messages of a conversation; default 4096", metavar="N")
    max_tools: int = option(256, help="tools of a request; default 256", metavar="N")
    max_requests_per_client: int = option(
        4096, help="requests of one address, or one key, that generate at a time; default 4096", metavar="N"
    )
    max_stalled_s: int = option(
        30, help="seconds that a reader may leave its answer unread; default 30", metavar="S"
    )

    def __post_init__(self) -> None:
        check_options(self)
