"""The answers of /v1/chat/completions: chunks of a stream, or all at once."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.requests.request import FinishReason
from jinfer.server.answer_parser import ChoiceParser
from jinfer.server.api import Api
from jinfer.server.chat_message import delta_body, message_body, role_body
from jinfer.server.errors import ErrorReply
from jinfer.server.generation import Generation, Piece
from jinfer.server.protocol.chat import (
    ChatChoice,
    ChatLogprobs,
    ChatRequest,
    ChatResponse,
    ChosenToken,
    ScoredToken,
)
from jinfer.server.protocol.sampling_fields import wants_usage
from jinfer.server.protocol.usage import UsageBody, usage_body
from jinfer.server.streaming import DONE, ChunkFrames, encode, error_frame, now_s
from jinfer.server.token_texts import TokenTexts, finite, likeliest, prompt_logprobs_body
from jinfer.text.output_parsing.deltas import join

TOOL_CALLS = "tool_calls"

NOTHING = Piece(0, "", (), None, None, None)
"""Before the first piece."""


class ChatWriter:
    """Answers as chunks, or together. Each choice has a parser of its own."""

    def __init__(
        self,
        api: Api,
        body: ChatRequest,
        generation: Generation,
        *,
        model: str,
        parsers: Sequence[ChoiceParser],
        has_tools: bool,
    ) -> None:
        self._body = body
        self._generation = generation
        self._model = model
        self._parsers = parsers
        self._has_tools = has_tools
        self._reasoning_fields = api.reasoning_fields
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = now_s()
        self._frames = ChunkFrames(
            response_id=self._id,
            kind="chat.completion.chunk",
            created=self._created,
            model=model,
            field="delta",
        )
        self._texts = TokenTexts(api.tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
        self._has_end_usage, self._has_every_usage = wants_usage(body)
        self._has_begun = False
        self._is_plain = not (body.return_token_ids or self._has_every_usage)

    def write(self, pieces: Sequence[Piece]) -> bytes:
        """A chunk or more for each piece, an empty one where its text is held back. Before the first comes
        one for each choice with its role."""
        beginning = b""
        if not self._has_begun:
            self._has_begun = True
            beginning = b"".join(self._role(index) for index in range(self._generation.num_choices))
        return beginning + b"".join(map(self._chunks, pieces))

    def finish(self) -> bytes:
        """The counts, where they were asked for, and the end."""
        return (self._frames.usage(self._usage()) if self._has_end_usage else b"") + DONE

    def fail(self, reply: ErrorReply) -> bytes:
        """The error."""
        return error_frame(reply)

    def response(self, pieces: Sequence[Sequence[Piece]]) -> ChatResponse:
        """The answer that the pieces of each choice make up."""
        wants_ids = bool(self._body.return_token_ids)
        prompt_ids = self._generation.requests[0].prompt_token_ids
        return ChatResponse(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(index, own) for index, own in enumerate(pieces)],
            usage=self._usage(),
            prompt_token_ids=list(prompt_ids) if wants_ids else None,
            prompt_logprobs=prompt_logprobs_body(self._generation.requests[0], self._texts),
        )

    def _usage(self, last: Piece | None = None) -> UsageBody:
        num_reasoning_tokens = sum(parser.num_reasoning_tokens for parser in self._parsers)
        return usage_body(self._generation.usage(last), num_reasoning_tokens=num_reasoning_tokens)

    def _role(self, index: int) -> bytes:
        usage = self._usage(NOTHING) if self._has_every_usage else None
        return self._frames.chunk(index, encode(role_body(has_tools=self._has_tools)), usage=usage)

    def _chunks(self, piece: Piece) -> bytes:
        deltas = [
            delta_body(delta, reasoning_fields=self._reasoning_fields)
            for delta in self._parsers[piece.choice].read(piece)
        ] or [{}]
        if self._is_plain and piece.finish_reason is None and piece.logprobs is None:
            return b"".join(self._frames.chunk(piece.choice, encode(delta)) for delta in deltas)
        *before, last = deltas
        frames = [self._frames.chunk(piece.choice, encode(delta)) for delta in before]
        frames.append(self._full_chunk(piece, last))
        return b"".join(frames)

    def _full_chunk(self, piece: Piece, delta: Mapping[str, Any]) -> bytes:
        return self._frames.chunk(
            piece.choice,
            encode(delta),
            logprobs=self._logprobs([piece]),
            finish_reason=self._finish_reason(piece),
            stop_reason=piece.stop_reason,
            more=b',"token_ids":' + encode(piece.token_ids) if self._body.return_token_ids else b"",
            usage=self._usage(piece) if self._has_every_usage else None,
        )

    def _choice(self, index: int, pieces: Sequence[Piece]) -> ChatChoice:
        output = join(delta for piece in pieces for delta in self._parsers[index].read(piece))
        wants_ids = bool(self._body.return_token_ids)
        return ChatChoice(
            index=index,
            message=message_body(output, has_tools=self._has_tools, reasoning_fields=self._reasoning_fields),
            logprobs=self._logprobs(pieces),
            finish_reason=self._finish_reason(pieces[-1]),
            stop_reason=pieces[-1].stop_reason,
            token_ids=[token_id for piece in pieces for token_id in piece.token_ids] if wants_ids else None,
        )

    def _finish_reason(self, piece: Piece) -> str | None:
        has_calls = self._parsers[piece.choice].has_tool_calls
        return TOOL_CALLS if has_calls and piece.finish_reason is FinishReason.STOP else piece.finish_reason

    def _logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if not self._body.logprobs:
            return None
        return ChatLogprobs(content=[self._chosen(piece) for piece in pieces if piece.logprobs is not None])

    def _chosen(self, piece: Piece) -> ChosenToken:
        assert piece.logprobs is not None
        token_id = piece.token_ids[0]
        top = likeliest(piece.logprobs, self._body.top_logprobs or 0)
        return ChosenToken(
            token=self._texts.text(token_id),
            logprob=finite(piece.logprobs[token_id]),
            bytes=self._texts.utf8(token_id),
            top_logprobs=[
                ScoredToken(token=self._texts.text(other), logprob=logprob, bytes=self._texts.utf8(other))
                for other, logprob in top
            ],
        )
