"""Requests on their way to the engine process: what of them crosses, and what they become there."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from jinfer.requests.masker_factory import MaskerFactory
from jinfer.requests.new_logits_rules import new_logits_rules
from jinfer.requests.request import Request, Sequence
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.server.wire import WireRequest
from jinfer.text.output_parsing.plain_json import json_text


def to_wire(request: Request, first_key: int) -> WireRequest:
    """A request of the front as the engine needs it. Stop strings stay, for they need text."""
    first = request.sequences[0]
    return WireRequest(
        first_key=first_key,
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params=dataclasses.replace(
            request.params, stop=None, structured_outputs=_as_text(request.params.structured_outputs)
        ),
        seeds=tuple(sequence.seed for sequence in request.sequences),
        stop_token_ids=first.stop_token_ids,
        max_total_tokens=first.max_total_tokens,
        priority=request.priority,
    )


def _as_text(structure: StructuredOutputs | None) -> StructuredOutputs | None:
    """Schemas as JSON texts, whose numbers may be larger than those of messages."""
    if structure is None:
        return None
    return dataclasses.replace(
        structure, json=_text(structure.json), structural_tag=_text(structure.structural_tag)
    )


def _text(value: Mapping[str, Any] | str | None) -> str | None:
    return json_text(dict(value)) if isinstance(value, Mapping) else value


def from_wire(wire: WireRequest, maskers: MaskerFactory) -> Request:
    """The request that the engine runs. It arrives now, and has no text. A structure that cannot be had
    becomes its maskers' error."""
    bad_words = maskers.bad_words(wire.params)
    request = Request(
        request_id=wire.request_id,
        prompt=None,
        prompt_token_ids=wire.prompt_token_ids,
        params=wire.params,
        arrival_time=time.perf_counter(),
        logits_rules=new_logits_rules(
            wire.params, bad_words, stop_token_ids=wire.stop_token_ids, vocab_size=maskers.vocab_size
        ),
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
    maskers.add_late(request, bad_words)
    return request
