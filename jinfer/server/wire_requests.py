"""Requests on their way to the engine process: what of them crosses, and what they become there."""

import dataclasses
import time

from jinfer.requests.request import Request, Sequence
from jinfer.server.wire import WireRequest


def to_wire(request: Request, first_key: int) -> WireRequest:
    """A request of the front as the engine needs it. Stop strings stay, for they need text."""
    first = request.sequences[0]
    return WireRequest(
        first_key=first_key,
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=dataclasses.replace(request.params, stop=None),
        seeds=tuple(sequence.seed for sequence in request.sequences),
        stop_token_ids=first.stop_token_ids,
        max_total_tokens=first.max_total_tokens,
        priority=request.priority,
    )


def from_wire(wire: WireRequest) -> Request:
    """The request that the engine runs. It arrives now, and has no text."""
    request = Request(
        request_id=wire.request_id,
        prompt=None,
        prompt_token_ids=wire.prompt_token_ids,
        params=wire.params,
        arrival_time=time.perf_counter(),
        priority=wire.priority,
    )
    request.sequences += [
        Sequence(
            request=request,
            index=index,
            token_ids=list(wire.prompt_token_ids),
            stop_token_ids=wire.stop_token_ids,
            max_total_tokens=wire.max_total_tokens,
            seed=seed,
        )
        for index, seed in enumerate(wire.seeds)
    ]
    return request
