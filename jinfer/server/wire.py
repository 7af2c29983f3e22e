"""The messages between the front and the engine process, in msgpack.

    front -> engine   Hello, EngineSpec, then Submit, Abort, Ping and Close in any order
    engine -> front   Hello, Starting ..., Ready, then PromptLogprobs, Step, Failed and Pong in any order; at
                      the end Fatal

Each message is an array that begins with its tag, in a frame of its own (frames.py). Sequences are named by
keys, integers that the front gives: those of a request are `first_key`, `first_key` + 1, and so on, and a
request is named by its first. Text never crosses: the front has the tokenizer.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from jinfer.engine.stats import EngineStats
from jinfer.errors import EngineError
from jinfer.requests.request import FinishReason
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.options import LogFormat
from jinfer.server.served_engine import ModelInfo

PROTOCOL = 2
"""The version of these messages. Both sides say theirs first, for jinfer may be upgraded between the start of
the front and a restart of the engine."""


class Hello(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """The first message of each side."""

    protocol: int


class EngineSpec(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The engine to start: a directory, a hub id or None for the demo model; a tokenizer's directory if it is
    not the model's; the options of EngineConfig by name; and the form of what the process logs."""

    model: str | None = None
    tokenizer: str | None = None
    options: Mapping[str, Any] = {}
    log_format: LogFormat = "text"


class WireParams(msgspec.Struct, array_like=True, frozen=True):
    """The parameters of some requests, without stop strings, which are the front's. The engine process makes
    the rules of logits and the maskers of them."""

    params: SamplingParams
    stop_token_ids: frozenset[int]


class WireRequest(msgspec.Struct, array_like=True, frozen=True):
    """A validated request."""

    first_key: int
    request_id: str
    prompt_token_ids: tuple[int, ...]
    params_index: int
    """Among the parameters of its message."""
    seeds: tuple[int, ...]
    """One for each sequence."""
    max_total_tokens: int
    priority: int


class Submit(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The requests of one output queue, which the engine accepts together."""

    submission: int
    params: tuple[WireParams, ...]
    """Parameters that requests share are here once."""
    requests: tuple[WireRequest, ...]
    timeout_s: float | None


class Abort(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The end of whole submissions, and of single sequences whose text has ended: the front waits for neither
    any more."""

    submissions: list[int]
    keys: list[int]


class Ping(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """A question that is answered between two steps."""

    number: int


class Close(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """The end: what runs is aborted, the memory given back, and the process ends."""


class Starting(msgspec.Struct, array_like=True, tag=10, frozen=True):
    """A line about the progress of a start."""

    line: str


class Ready(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """The engine takes requests from now on."""

    info: ModelInfo
    stats: EngineStats


class Begun(msgspec.Struct, array_like=True, frozen=True):
    """A request that was planned for the first time."""

    first_key: int
    num_cached_tokens: int
    queue_time_s: float


class Logprobs(msgspec.Struct, array_like=True, frozen=True):
    """The log probabilities of one token, those of a sequence in order."""

    key: int
    token_id: int
    by_token_id: dict[int, float]


class PromptLogprobs(msgspec.Struct, array_like=True, tag=16, frozen=True):
    """The log probabilities of a request's prompt from a position on. They come before its first output,
    those of a long prompt in several messages."""

    first_key: int
    start: int
    by_token_id: list[dict[int, float] | None]


class End(msgspec.Struct, array_like=True, frozen=True):
    """The last output of a sequence, with a token or without. `is_refused`: the error is what the request
    asks for, and no fault of the engine."""

    key: int
    token_id: int | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    error: str | None
    is_refused: bool


class Step(msgspec.Struct, array_like=True, tag=12):
    """All that a step brought. `keys` and `token_ids` are the tokens after which their sequences go on: lists
    side by side, and not an object for each, for there may be hundreds in every step."""

    keys: list[int]
    token_ids: list[int]
    ends: list[End]
    begun: list[Begun]
    logprobs: list[Logprobs]
    stats: EngineStats | None
    """Now and then."""


class Failed(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """A submission that ended with a fault. The engine goes on."""

    submission: int
    reason: str


class Pong(msgspec.Struct, array_like=True, tag=14, frozen=True):
    """The answer to a Ping."""

    number: int
    stats: EngineStats


class Fatal(msgspec.Struct, array_like=True, tag=15, frozen=True):
    """The engine could not start, or cannot go on. `kind` is the name of a class of jinfer.errors."""

    kind: str
    reason: str


ToEngine = Hello | EngineSpec | Submit | Abort | Ping | Close
ToFront = Hello | Starting | Ready | PromptLogprobs | Step | Failed | Pong | Fatal

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_front = msgspec.msgpack.Decoder(ToFront)


def encode(message: ToEngine | ToFront) -> bytes:
    """The bytes of a message."""
    return _encoder.encode(message)


def decode_for_engine(data: bytes) -> ToEngine:
    """A message of the front. Raises EngineError for bytes that are none."""
    return _decode(_to_engine, data)


def decode_for_front(data: bytes) -> ToFront:
    """A message of the engine. Raises EngineError for bytes that are none."""
    return _decode(_to_front, data)


def _decode(decoder: msgspec.msgpack.Decoder, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise EngineError(f"the other process sent a message that cannot be read: {error}") from error


def check_protocol(message: ToEngine | ToFront) -> None:
    """Raises EngineError unless the other side's first message says the version of this side."""
    if not isinstance(message, Hello) or message.protocol != PROTOCOL:
        said = f"version {message.protocol}" if isinstance(message, Hello) else type(message).__name__
        raise EngineError(
            f"the front and the engine process speak different protocols: {said} came, and version "
            f"{PROTOCOL} was expected; jinfer was probably upgraded while the server ran: start the server "
            "again"
        )
