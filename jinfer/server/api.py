"""The service and the model's names, as every route is given them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from jinfer.requests.prompts import Prompt
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.answer_parser import MAX_INLINE_TOKENS, ChoiceParser, choice_parsers
from jinfer.server.errors import ApiError
from jinfer.server.generation import Generation
from jinfer.server.generation_service import GenerationService
from jinfer.server.json_body import read_json
from jinfer.server.served_engine import ModelInfo
from jinfer.server.streaming import now_s
from jinfer.text.grammar.answer_grammar import answer_grammar
from jinfer.text.grammar.tool_calls import ToolChoice
from jinfer.text.output_parsing.answer_parsing import AnswerParsing
from jinfer.text.tokenizer import Tokenizer

Body = TypeVar("Body", bound=msgspec.Struct)


@dataclass(frozen=True)
class ServedModels:
    """The names under which the one model is served. `root` is where it came from, and `created` when the
    server began, in seconds since 1970."""

    names: tuple[str, ...]
    root: str
    created: int

    @classmethod
    def begun_now(cls, names: Sequence[str], root: str) -> "ServedModels":
        """The names of a server that starts at this moment."""
        return cls(names=tuple(names), root=root, created=now_s())

    def chosen(self, name: str | None) -> str:
        """The name as an answer shows it; the first where a request has none. Raises ApiError for another."""
        if name is None:
            return self.names[0]
        if name not in self.names:
            served = ", ".join(map(repr, self.names))
            raise ApiError(
                f"the model {name[:200]!r} is not served here; the names are {served}",
                status=HTTPStatus.NOT_FOUND,
                code="model_not_found",
                param="model",
            )
        return name


@dataclass(frozen=True, eq=False)
class Api:
    """The service, the names of its model, and how its answers are read: not at all without a tokenizer."""

    service: GenerationService
    models: ServedModels
    answer_parsing: AnswerParsing | None
    reasoning_fields: tuple[str, ...] = ("reasoning",)
    """The names that reasoning has in a message of chat."""

    @property
    def info(self) -> ModelInfo:
        return self.service.engine.info

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.service.requests.tokenizer

    async def read(self, request: Request, body_type: type[Body]) -> Body:
        """The body of a request. Raises ApiError."""
        return await read_json(request, body_type, self.service.limits)

    async def choice_parsers(
        self, prompt: Prompt, num_choices: int, *, tools: Sequence[Any] | None, allows_parallel: bool | None
    ) -> list[ChoiceParser]:
        """A parser for each answer to a prompt of chat, with the tools that are offered."""
        return await choice_parsers(
            self.service,
            self.answer_parsing,
            prompt,
            num_choices=num_choices,
            tools=tools,
            allows_parallel_calls=allows_parallel,
        )

    async def with_grammar(
        self,
        params: SamplingParams,
        prompt: Prompt,
        *,
        tools: Sequence[Any] | None,
        choice: ToolChoice,
    ) -> SamplingParams:
        """The parameters of an answer of chat, whose structure becomes that of the whole answer, with its
        reasoning and calls. Raises RequestError where the model's format has no grammar for it."""
        parsing, structure = self.answer_parsing, params.structured_outputs
        if structure is None and tools is None:
            return params
        assert parsing is not None, "a prompt of chat without a tokenizer"

        def make() -> SamplingParams:
            grammar = answer_grammar(
                parsing, prompt.token_ids or (), structure=structure, tools=tools, choice=choice
            )
            return dataclasses.replace(params, structured_outputs=grammar)

        return await self.service.in_thread_if(len(prompt.token_ids or ()) > MAX_INLINE_TOKENS, make)

    async def generate(
        self,
        request: Request,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        priority: int | None,
        keeps_output: bool = True,
    ) -> Generation:
        """Starts completions for the client of a request, who must stay. Without `keeps_output` their tokens
        are left out."""
        client = "" if request.client is None else request.client.host
        generation = await self.service.start(
            prompts,
            params,
            receive=request.receive,
            client=client,
            priority=priority or 0,
            keeps_output=keeps_output,
        )
        request.state.generation = generation
        return generation
