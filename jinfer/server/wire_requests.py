"""Requests on their way to the engine process: what of them crosses, and what they become there."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.requests.request import Request
from jinfer.requests.request import Sequence as RequestSequence
from jinfer.requests.request_rules import RulesFactory
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.server.wire import Submit, WireParams, WireRequest
from jinfer.text.output_parsing.plain_json import json_text


def to_wire(
    submission: int, requests: Sequence[Request], first_keys: Sequence[int], *, timeout_s: float | None
) -> Submit:
    """Requests of the front as the engine needs them. Stop strings stay, for they need text."""
    places: dict[int, int] = {}  # of parameters in the message, by their identity
    params: list[WireParams] = []
    for request in requests:
        if id(request.params) not in places:
            places[id(request.params)] = len(params)
            params.append(_wire_params(request))
    return Submit(
        submission,
        tuple(params),
        tuple(
            _wire_request(request, first_key, places[id(request.params)])
            for request, first_key in zip(requests, first_keys, strict=True)
        ),
        timeout_s,
    )


def _wire_params(request: Request) -> WireParams:
    given = request.params
    structure = _as_text(given.structured_outputs)
    return WireParams(
        dataclasses.replace(given, stop=None, structured_outputs=structure),
        request.sequences[0].stop_token_ids,
    )


def _wire_request(request: Request, first_key: int, params_index: int) -> WireRequest:
    return WireRequest(
        first_key=first_key,
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        params_index=params_index,
        seeds=tuple(sequence.seed for sequence in request.sequences),
        max_total_tokens=request.sequences[0].max_total_tokens,
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


def from_wire(submit: Submit, factory: RulesFactory) -> dict[Request, int]:
    """The requests that the engine runs, each with its first key. They arrive now, and have no text. A
    structure that cannot be had becomes their maskers' error."""
    rules = [factory.make_late(each.params, each.stop_token_ids) for each in submit.params]
    requests = {}
    for wire in submit.requests:
        request = _request(wire, submit.params[wire.params_index])
        rules[wire.params_index].give_to(request)
        requests[request] = wire.first_key
    return requests


def _request(wire: WireRequest, shared: WireParams) -> Request:
    request = Request(
        request_id=wire.request_id,
        prompt=None,
        prompt_token_ids=wire.prompt_token_ids,
        params=shared.params,
        arrival_time=time.perf_counter(),
        priority=wire.priority,
    )
    request.sequences += [
        RequestSequence(
            request=request,
            index=index,
            token_ids=list(wire.prompt_token_ids),
            stop_token_ids=shared.stop_token_ids,
            max_total_tokens=wire.max_total_tokens,
            seed=seed,
        )
        for index, seed in enumerate(wire.seeds)
    ]
    return request
