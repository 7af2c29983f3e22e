"""An engine without jax: a scheduler, and a device in plain Python whose tokens depend on all before them."""

from jinfer.config import Limits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.requests.request import Sequence
from jinfer.requests.request_factory import RequestFactory
from jinfer.scheduling.scheduler import Scheduler
from jinfer.server.served_engine import ModelInfo
from tests.scheduling.fake_device import VOCAB_SIZE, FakeDevice, expected_token

LIMITS = Limits(page_size=4, num_pages=40, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
INFO = ModelInfo(
    architecture="FakeForCausalLM",
    dtype="float32",
    vocab_size=VOCAB_SIZE,
    eos_token_ids=(),
    sampling_defaults={},
    tokenizer_directory=None,
    limits=LIMITS,
    memory="memory: none",
    device="a device in plain Python",
)


def new_engine(device: type[FakeDevice] = FakeDevice) -> Engine:
    scheduler = Scheduler(LIMITS, Counters())
    return Engine(scheduler, device(LIMITS, scheduler.page_pool))


def new_factory() -> RequestFactory:
    """Makes requests of token ids."""
    return RequestFactory(
        tokenizer=None,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset(),
        sampling_defaults={},
        limits=LIMITS,
    )


def expected_tokens(sequence: Sequence, count: int) -> list[int]:
    """The first tokens of a sequence that runs alone."""
    token_ids = sequence.token_ids
    sequence.token_ids = list(sequence.request.prompt_token_ids)
    for _ in range(count):
        sequence.token_ids.append(expected_token(sequence))
    expected, sequence.token_ids = sequence.output_token_ids, token_ids
    return expected
