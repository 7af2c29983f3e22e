"""The answers of /v1/completions: chunks of a stream, or all at once."""

import uuid
from collections.abc import Mapping, Sequence
from itertools import accumulate

from jinfer.requests.echo import Echo
from jinfer.requests.prompts import Prompt
from jinfer.server.api import Api
from jinfer.server.errors import ErrorReply
from jinfer.server.generation import Generation, Piece
from jinfer.server.protocol.completions import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from jinfer.server.protocol.sampling_fields import wants_usage
from jinfer.server.protocol.usage import usage_body
from jinfer.server.streaming import DONE, ChunkFrames, encode, error_frame, now_s
from jinfer.server.token_texts import TokenTexts, finite, likeliest, prompt_logprobs_body

Scored = tuple[int, Mapping[int, float] | None]
"""A token and the log probabilities where it stands."""


class CompletionWriter:
    """Completions as chunks, or together as one answer."""

    def __init__(
        self,
        api: Api,
        body: CompletionRequest,
        generation: Generation,
        *,
        model: str,
        prompts: Sequence[Prompt],
    ) -> None:
        self._body = body
        self._generation = generation
        self._model = model
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = now_s()
        self._frames = ChunkFrames(
            response_id=self._id, kind="text_completion", created=self._created, model=model, field="text"
        )
        self._texts = TokenTexts(api.tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
        self._has_end_usage, self._has_every_usage = wants_usage(body)
        self._n = generation.num_choices // len(generation.requests)
        self._echoes = self._new_echoes(api, prompts) if body.echo else None
        self._offsets = [0] * generation.num_choices
        self._wants_prompt_logprobs = body.prompt_logprobs is not None
        self._unscored = (
            set(range(generation.num_choices)) if body.echo else set()
        )  # their prompts come first
        self._is_plain = not (body.echo or body.return_token_ids or self._has_every_usage)

    def write(self, pieces: Sequence[Piece]) -> bytes:
        """A chunk for each piece."""
        return b"".join(map(self._chunk, pieces))

    def finish(self) -> bytes:
        """The counts, where they were asked for, and the end."""
        return (
            self._frames.usage(usage_body(self._generation.usage())) if self._has_end_usage else b""
        ) + DONE

    def fail(self, reply: ErrorReply) -> bytes:
        """The error."""
        return error_frame(reply)

    def response(self, pieces: Sequence[Sequence[Piece]]) -> CompletionResponse:
        """The answer that the pieces of each choice make up."""
        return CompletionResponse(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[self._choice(index, own) for index, own in enumerate(pieces)],
            usage=usage_body(self._generation.usage()),
        )

    def _chunk(self, piece: Piece) -> bytes:
        if self._is_plain and piece.finish_reason is None and piece.logprobs is None:
            return self._frames.chunk(piece.choice, encode(piece.text))
        return self._frames.chunk(
            piece.choice,
            encode(self._text(piece)),
            logprobs=self._logprobs([piece]),
            finish_reason=piece.finish_reason,
            stop_reason=piece.stop_reason,
            more=b',"token_ids":' + encode(piece.token_ids) if self._body.return_token_ids else b"",
            usage=usage_body(self._generation.usage(piece)) if self._has_every_usage else None,
        )

    def _choice(self, index: int, pieces: Sequence[Piece]) -> CompletionChoice:
        wants_ids = bool(self._body.return_token_ids)
        request = self._generation.requests[index // self._n]
        return CompletionChoice(
            index=index,
            text="".join(map(self._text, pieces)),
            logprobs=self._logprobs(pieces),
            finish_reason=pieces[-1].finish_reason,
            stop_reason=pieces[-1].stop_reason,
            token_ids=[token_id for piece in pieces for token_id in piece.token_ids] if wants_ids else None,
            prompt_token_ids=list(request.prompt_token_ids) if wants_ids else None,
            prompt_logprobs=prompt_logprobs_body(request, self._texts)
            if self._wants_prompt_logprobs
            else None,
        )

    def _new_echoes(self, api: Api, prompts: Sequence[Prompt]) -> list[tuple[list[str], Echo]]:
        """The echo of each choice, with its beginning, which is taken out when it was written."""
        sources = [prompt.token_ids or () if prompt.text is None else prompt.text for prompt in prompts]
        echoes = [Echo(source, api.tokenizer) for source in sources for _ in range(self._n)]
        return [([echo.text], echo) for echo in echoes]

    def _text(self, piece: Piece) -> str:
        """The text of a piece, after what of the prompt belongs before it."""
        if self._echoes is None:
            return piece.text
        beginning, echo = self._echoes[piece.choice]
        return (beginning.pop() if beginning else "") + echo.end_before(piece) + piece.text

    def _logprobs(self, pieces: Sequence[Piece]) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        choice = pieces[0].choice
        scored = self._scored_prompt(choice)
        scored += [(piece.token_ids[0], piece.logprobs) for piece in pieces if piece.logprobs is not None]
        tokens = [self._texts.text(token_id) for token_id, _ in scored]
        *offsets, self._offsets[choice] = accumulate(map(len, tokens), initial=self._offsets[choice])
        return CompletionLogprobs(
            text_offset=offsets,
            token_logprobs=[None if found is None else finite(found[own]) for own, found in scored],
            tokens=tokens,
            top_logprobs=[None if found is None else self._top(own, found) for own, found in scored],
        )

    def _scored_prompt(self, choice: int) -> list[Scored]:
        """The tokens of a choice's prompt, once, if it is echoed."""
        if choice not in self._unscored:
            return []
        self._unscored.discard(choice)
        request = self._generation.requests[choice // self._n]
        return list(zip(request.prompt_token_ids, request.prompt_logprobs or (), strict=False))

    def _top(self, token_id: int, found: Mapping[int, float]) -> dict[str, float]:
        """The most likely tokens and the one that is there, by rising probability: of tokens with one text,
        the likeliest stays."""
        kept = dict(likeliest(found, self._body.logprobs or 0)) | {token_id: finite(found[token_id])}
        return {self._texts.text(each): kept[each] for each in sorted(kept, key=kept.__getitem__)}
