"""An engine whose every token the test gives, so that a test can stop between two of them."""

import queue as queues
import threading
from pathlib import Path

import jinfer
from jinfer.async_queue import AsyncOutputQueue
from jinfer.config import EngineLimits
from jinfer.engine.stats import EngineStats
from jinfer.errors import EngineError
from jinfer.requests.request import FinishReason, SequenceOutput
from jinfer.server.served_engine import ModelInfo

WAIT_S = 120  # nothing takes so long that does not hang
DEMO_MODEL = Path(jinfer.__file__).parent / "demo_model"
INFO = ModelInfo(
    architecture="Scripted",
    dtype="float32",
    vocab_size=4096,
    eos_token_ids=(0,),
    sampling_defaults={},
    tokenizer_directory=str(DEMO_MODEL),
    limits=EngineLimits(
        page_size=16, num_pages=10_000, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=100_000
    ),
    memory="none",
    device="a test",
)
IDLE = EngineStats(
    num_running=0,
    num_waiting=0,
    num_used_pages=0,
    num_cached_pages=0,
    num_free_pages=1,
    num_prompt_tokens=0,
    num_prefix_hit_tokens=0,
    num_generated_tokens=0,
    num_preemptions=0,
)


class ScriptedEngine:
    """A `ServedEngine`. `refusal` is what submitting raises, and `death` what everything raises."""

    info = INFO

    def __init__(self) -> None:
        self.refusal: EngineError | None = None
        self.death: EngineError | None = None
        self._submitted: queues.Queue[AsyncOutputQueue] = queues.Queue()
        self._abandoned: set[AsyncOutputQueue] = set()
        self._changed = threading.Condition()

    def check_open(self) -> None:
        if self.death is not None:
            raise self.death

    def submit(self, queue: AsyncOutputQueue) -> None:
        if self.refusal is not None:
            raise self.refusal
        self._submitted.put(queue)

    def abandon(self, queue: AsyncOutputQueue) -> None:
        with self._changed:
            if not queue.is_complete:
                self._abandoned.add(queue)
            self._changed.notify_all()

    def stats(self) -> EngineStats:
        return IDLE

    async def heartbeat(self) -> float:
        self.check_open()
        return 0.0

    def next_queue(self) -> AsyncOutputQueue:
        """The queue of the request that came next, once it is there."""
        return self._submitted.get(timeout=WAIT_S)

    def wait_abandoned(self, queue: AsyncOutputQueue) -> None:
        """Waits until the server gave an unfinished request up."""
        with self._changed:
            assert self._changed.wait_for(lambda: queue in self._abandoned, WAIT_S)

    def emit(self, queue: AsyncOutputQueue, token_ids: list[int], end: FinishReason | None = None) -> None:
        """Gives tokens to the first sequence of a queue, the last with an end."""
        sequence = queue.requests[0].sequences[0]
        for place, token_id in enumerate(token_ids):
            is_last = place == len(token_ids) - 1
            sequence.token_ids.append(token_id)
            if is_last:
                sequence.finish_reason = end
            queue.put(SequenceOutput(sequence, token_id, None, end if is_last else None))
