"""The engine over a device in plain Python: whose token is whose, faults, log probabilities, and a new
beginning."""

import dataclasses

import pytest

from jinfer.config import EngineLimits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.engine.steps import SHORT_WAIT_S, StepOutput, StepQueue, one_at_a_time, overlapped
from jinfer.requests.new_request import create_request
from jinfer.requests.request import FinishReason, Request, Sequence
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.scheduler import Scheduler
from tests.scheduling.fake_device import VOCAB_SIZE, FakeDevice, expected_token

LIMITS = EngineLimits(page_size=4, num_pages=24, max_num_seqs=4, max_num_batched_tokens=8, max_model_len=40)
NUM_TOKENS = 9


def new_engine(device: type[FakeDevice] = FakeDevice) -> Engine:
    scheduler = Scheduler(LIMITS, Counters())
    return Engine(scheduler, device(LIMITS, scheduler.page_pool))


def new_requests(count: int, **params: int) -> list[Request]:
    """Prompts of different lengths, some longer than a step."""
    options = SamplingParams(max_tokens=NUM_TOKENS, seed=0, **params).with_defaults({})
    return [
        create_request(
            f"{i}",
            None,
            range(i, 3 * i + 3),
            options,
            eos_token_ids=frozenset(),
            vocab_size=VOCAB_SIZE,
            limits=LIMITS,
        )
        for i in range(count)
    ]


def run(engine: Engine, requests: list[Request]) -> None:
    for request in requests:
        engine.add(request)
    while engine.has_work:
        engine.step()
    engine.check_integrity()


def expected_tokens(sequence: Sequence) -> list[int]:
    """The tokens of a sequence that ran alone."""
    (alone,) = create_request(
        "alone",
        None,
        sequence.request.prompt_token_ids,
        sequence.params,
        eos_token_ids=frozenset(),
        vocab_size=VOCAB_SIZE,
        limits=LIMITS,
    ).sequences
    for _ in range(NUM_TOKENS):
        alone.token_ids.append(expected_token(alone))
    return alone.output_token_ids


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_sequence_gets_its_own_tokens_however_many_steps_are_in_flight(depth):
    engine, requests = new_engine(), new_requests(7)
    engine.in_flight.depth = lambda last_wait_s: depth
    run(engine, requests)
    for request in requests:
        (sequence,) = request.sequences
        assert sequence.output_token_ids == expected_tokens(sequence)
        assert sequence.finish_reason is FinishReason.LENGTH
    assert engine.stats().num_generated_tokens == 7 * NUM_TOKENS


class FailingDevice(FakeDevice):
    """The third step has no token for its first row."""

    num_reads = 0

    def read(self, handle, logprob_rows) -> StepOutput:
        output = super().read(handle, logprob_rows)
        self.num_reads += 1
        return (
            dataclasses.replace(output, token_ids=[None, *output.token_ids[1:]])
            if self.num_reads == 3
            else output
        )


def test_a_row_without_a_token_fails_its_sequence_alone():
    engine, requests = new_engine(FailingDevice), new_requests(3, logprobs=1)
    run(engine, requests)
    sequences = [sequence for request in requests for sequence in request.sequences]
    (failed,) = [sequence for sequence in sequences if sequence.finish_reason is FinishReason.ERROR]
    assert "not finite" in failed.error
    assert len(failed.logprobs) == failed.num_output_tokens < NUM_TOKENS
    for sequence in sequences:
        assert sequence.output_token_ids == expected_tokens(sequence)[: sequence.num_output_tokens]


class RecordingDevice(FakeDevice):
    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.asked: list[int] = []

    def read(self, handle, logprob_rows) -> StepOutput:
        self.asked += logprob_rows
        return super().read(handle, logprob_rows)


def test_log_probabilities_are_read_for_those_who_asked_and_no_others():
    engine = new_engine(RecordingDevice)
    run(engine, new_requests(3))
    assert engine.executor.asked == []
    (asking,), others = new_requests(1, logprobs=1), new_requests(2)
    run(engine, [*others, asking])
    (sequence,) = asking.sequences
    assert len(engine.executor.asked) == NUM_TOKENS
    assert sequence.logprobs == [{token_id: -float(token_id)} for token_id in sequence.output_token_ids]
    assert not any(sequence.logprobs for request in others for sequence in request.sequences)


def test_a_reset_fails_what_runs_and_keeps_the_counters():
    engine, requests = new_engine(), new_requests(5, logprobs=1)
    for request in requests:
        engine.add(request)
    for _ in range(4):
        engine.step()
    before = engine.stats().num_generated_tokens
    engine.reset("a fault")
    assert {(s.finish_reason, s.error) for r in requests for s in r.sequences} == {
        (FinishReason.ERROR, "a fault")
    }
    assert not engine.has_work
    assert not engine.in_flight
    again = new_requests(5)
    run(engine, again)
    assert [s.output_token_ids for r in again for s in r.sequences] == [
        expected_tokens(s) for r in again for s in r.sequences
    ]
    assert engine.stats().num_generated_tokens == before + 5 * NUM_TOKENS


def test_the_depth_follows_the_last_wait():
    assert [overlapped(wait_s) for wait_s in (0.0, SHORT_WAIT_S / 2, SHORT_WAIT_S, 1.0)] == [2, 2, 1, 1]
    assert one_at_a_time(0.0) == 0
    queue = StepQueue(overlapped)
    for number in range(3):
        queue.append(number, None)
    assert [step.plan for step in queue.take_due(has_new_step=True)] == [0, 1]
    assert queue.newest.plan == 2
    queue.append(3, None)
    queue.last_wait_s = 0.0
    assert queue.take_due(has_new_step=True) == []
    assert [step.plan for step in queue.take_due(has_new_step=False)] == [2]
    assert [step.plan for step in queue.take_due(has_new_step=False)] == [3]
    assert queue.take_due(has_new_step=False) == []
    assert queue.newest is None
