"""The front's side of output queues: what the engine process says of their requests, applied to them."""

import asyncio
import itertools
import time
from dataclasses import dataclass

from jinfer.async_queue import AsyncOutputQueue
from jinfer.requests.request import FinishReason, Request, Sequence, SequenceOutput, append_token
from jinfer.server.waiting_line import QueueLimits, WaitingLine
from jinfer.server.wire import Abort, Begun, End, Logprobs, PromptLogprobs, Step, Submit
from jinfer.server.wire_requests import to_wire

MAX_UNTAKEN_OUTPUTS = 16_384


@dataclass(slots=True, eq=False)
class OpenSequence:
    """A sequence whose end has not come, and the queue that waits for it."""

    sequence: Sequence
    queue: AsyncOutputQueue


class Submissions:
    """The output queues whose requests are at the engine, by the numbers that the front gave them. For one
    event loop's thread."""

    def __init__(self, limits: QueueLimits, *, max_untaken_outputs: int = MAX_UNTAKEN_OUTPUTS) -> None:
        """A queue in which more than `max_untaken_outputs` wait for their taker fails."""
        self.waiting_line = WaitingLine(limits)
        self.is_idle = asyncio.Event()
        self.is_idle.set()
        self._max_untaken_outputs = max_untaken_outputs
        self._next_submission = itertools.count()
        self._next_key = 0
        self._queues: dict[int, AsyncOutputQueue] = {}
        self._numbers: dict[AsyncOutputQueue, int] = {}
        self._open: dict[int, OpenSequence] = {}
        self._first_keys: dict[Request, int] = {}

    def add(self, queue: AsyncOutputQueue) -> Submit:
        """Takes in a queue, and makes the message that brings its requests to the engine. Raises
        OverloadedError where too many wait."""
        self.waiting_line.check(queue.requests)
        number = next(self._next_submission)
        self._queues[number], self._numbers[queue] = queue, number
        self.is_idle.clear()
        timeout_s = None if queue.deadline is None else queue.deadline - time.monotonic()
        first_keys = [self._add_request(each, queue) for each in queue.requests]
        return to_wire(number, queue.requests, first_keys, timeout_s=timeout_s)

    def _add_request(self, request: Request, queue: AsyncOutputQueue) -> int:
        first_key = self._first_keys[request] = self._next_key
        self._next_key += len(request.sequences)
        for sequence in request.sequences:
            self._open[first_key + sequence.index] = OpenSequence(sequence, queue)
        self.waiting_line.add(request)
        return first_key

    def remove(self, queue: AsyncOutputQueue) -> int | None:
        """Forgets a queue. Gives its number, or None if it is over or unknown."""
        number = self._numbers.pop(queue, None)
        if number is None:
            return None
        del self._queues[number]
        for request in queue.requests:
            first_key = self._first_keys.pop(request)
            self.waiting_line.drop(request)
            for sequence in request.sequences:
                self._open.pop(first_key + sequence.index, None)
        if not self._queues:
            self.is_idle.set()
        return number

    def fail(self, number: int, reason: str) -> None:
        """Ends a queue early, if it is still there."""
        queue = self._queues.get(number)
        if queue is not None:
            self.remove(queue)
            queue.fail(reason)

    def fail_all(self, reason: str) -> None:
        """Ends all queues early."""
        for number in tuple(self._queues):
            self.fail(number, reason)

    def apply(self, step: Step) -> Abort:
        """Gives the outputs of a step to their queues. What the engine should stop for is in the answer."""
        answer = Abort(submissions=[], keys=[])
        for begun in step.begun:
            self._begin(begun)
        for logprobs in step.logprobs:
            self._add_logprobs(logprobs)
        for key, token_id in zip(step.keys, step.token_ids, strict=True):
            opened = self._open.get(key)
            if opened is not None:  # or nobody waits for it any more
                self._put(key, opened, _with_token(opened.sequence, token_id), answer)
        for end in step.ends:
            opened = self._open.get(end.key)
            if opened is not None:
                self._put(end.key, opened, _with_end(opened.sequence, end), None)
        return answer

    def add_prompt_logprobs(self, message: PromptLogprobs) -> None:
        """Gives a part of the prompt's log probabilities to its request. The parts come in order."""
        opened = self._open.get(message.first_key)
        if opened is not None:
            request = opened.sequence.request
            request.prompt_logprobs = (request.prompt_logprobs or [])[: message.start] + message.by_token_id

    def _begin(self, begun: Begun) -> None:
        opened = self._open.get(begun.first_key)
        if opened is not None:
            request = opened.sequence.request
            request.num_cached_tokens = begun.num_cached_tokens
            request.begun_time = request.arrival_time + begun.queue_time_s
            self.waiting_line.begin(request)

    def _add_logprobs(self, logprobs: Logprobs) -> None:
        opened = self._open.get(logprobs.key)
        if opened is not None:
            opened.sequence.logprobs.append(logprobs.by_token_id)
            opened.sequence.cumulative_logprob += logprobs.by_token_id[logprobs.token_id]

    def _put(self, key: int, opened: OpenSequence, output: SequenceOutput, answer: Abort | None) -> None:
        """Gives an output to its queue. `answer` is None where the engine knows of an end already."""
        queue = opened.queue
        if output.finish_reason is not None:
            self._end(key, opened.sequence, output.finish_reason)
            if answer is not None:
                answer.keys.append(key)
        queue.put(output)
        if queue.is_complete:
            self.remove(queue)
        elif queue.num_untaken > self._max_untaken_outputs:
            queue.fail(f"{queue.num_untaken} outputs wait for their taker, who is too slow; the request ends")
            number = self.remove(queue)
            if answer is not None and number is not None:
                answer.submissions.append(number)

    def _end(self, key: int, sequence: Sequence, reason: FinishReason) -> None:
        del self._open[key]
        sequence.finish_reason = reason
        if sequence.request.is_finished:
            sequence.request.finished_time = time.perf_counter()
            self.waiting_line.drop(sequence.request)


def _with_token(sequence: Sequence, token_id: int) -> SequenceOutput:
    if sequence.request.first_token_time is None:
        sequence.request.first_token_time = time.perf_counter()
    return append_token(sequence, token_id)


def _with_end(sequence: Sequence, end: End) -> SequenceOutput:
    """The last output. Where the text and the engine each name an end, `append_token` knows which counts."""
    sequence.error, sequence.is_refused = end.error, end.is_refused
    if end.token_id is None:
        return SequenceOutput(sequence, None, None, end.finish_reason)
    output = _with_token(sequence, end.token_id)
    if output.finish_reason is not None:
        return output
    sequence.stop_reason = end.stop_reason
    detokenizer = sequence.detokenizer
    text = output.text if output.text is None or detokenizer is None else output.text + detokenizer.finish()
    return SequenceOutput(sequence, end.token_id, text, end.finish_reason)
