"""The seam between the HTTP front and an engine, which may run in another process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jinfer.async_queue import AsyncOutputQueue
from jinfer.config import EngineLimits
from jinfer.engine.stats import EngineStats


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a served model that a front needs. Plain data, which can cross a socket.

    `tokenizer_directory` is None where the model has no tokenizer, so that prompts and outputs are token ids.
    """

    architecture: str
    dtype: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    sampling_defaults: Mapping[str, Any]
    tokenizer_directory: str | None
    limits: EngineLimits
    memory: str
    """The engine's memory plan, in a line."""
    device: str


class ServedEngine(Protocol):
    """An engine as the front sees it: requests go in with the queue that takes their outputs.

    `EngineLoop` has the same submit, abandon and check_open, and runs in the front's own process.
    """

    @property
    def info(self) -> ModelInfo: ...

    def check_open(self) -> None:
        """Raises EngineError if the engine is closed or dead; the message says why."""

    def submit(self, queue: AsyncOutputQueue) -> None:
        """Queues all requests of an output queue at once. If the engine fails, the queue fails with the
        reason. Raises OverloadedError where the engine takes no more requests at present."""

    def abandon(self, queue: AsyncOutputQueue) -> None:
        """Aborts the unfinished requests of a queue that has no taker any more. May be repeated."""

    def stats(self) -> EngineStats:
        """The newest figures of the engine that are known here."""

    async def heartbeat(self) -> float:
        """Waits until the engine has answered, for a bounded time, and gives the seconds that it took. Raises
        EngineError where no answer came."""
