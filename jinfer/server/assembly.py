"""A server from its parts: an engine, options and limits."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinfer import __version__
from jinfer.requests.request_factory import RequestFactory
from jinfer.server.api import Api, ServedModels
from jinfer.server.app import create_app
from jinfer.server.generation_service import GenerationService
from jinfer.server.http_server import HttpServer, url_of
from jinfer.server.limits import ServerLimits
from jinfer.server.metrics import ServerMetrics
from jinfer.server.options import ServerOptions
from jinfer.server.served_engine import ModelInfo, ServedEngine
from jinfer.text.output_parsing.answer_parsing import AnswerParsing
from jinfer.text.output_parsing.format_choice import choose_format
from jinfer.text.tokenizer import Tokenizer

KEY_VARIABLE = "JINFER_API_KEY"
DEMO_NAME = "jinfer-demo"
REASONING_FIELDS: Mapping[str, tuple[str, ...]] = {
    "reasoning": ("reasoning",),
    "reasoning_content": ("reasoning_content",),
    "both": ("reasoning", "reasoning_content"),
}


def build_server(engine: ServedEngine, options: ServerOptions, limits: ServerLimits) -> HttpServer:
    """The server of an engine that takes requests. Raises what `build_app` raises."""
    app, service = build_app(engine, options, limits)
    return HttpServer(app, service, limits=limits, grace_s=options.grace_s)


def build_app(
    engine: ServedEngine, options: ServerOptions, limits: ServerLimits
) -> tuple[Any, GenerationService]:
    """The ASGI app of an engine that takes requests, for any HTTP server, and the service to close after it.
    Raises TokenizerError where the model's tokenizer cannot be read, and ConfigError where a parser's name is
    not one of the model's."""
    names = model_names(options)
    tokenizer = tokenizer_of(engine.info)
    parsing = None if tokenizer is None else answer_parsing_of(tokenizer, options)
    metrics = ServerMetrics(names[0], engine.stats)
    service = GenerationService(
        engine,
        request_factory_of(engine.info, tokenizer, parsing),
        limits=limits,
        metrics=metrics,
        request_timeout_s=options.request_timeout_s,
    )
    api = Api(
        service=service,
        models=ServedModels.begun_now(names, root=options.model or DEMO_NAME),
        answer_parsing=parsing,
        reasoning_fields=REASONING_FIELDS[options.reasoning_field],
    )
    app = create_app(
        api, metrics, keys=api_keys(options, os.environ), allowed_origins=options.allowed_origins
    )
    return app, service


def tokenizer_of(info: ModelInfo) -> Tokenizer | None:
    """The tokenizer of a model that another process may run, if it has one."""
    directory = info.tokenizer_directory
    return None if directory is None else Tokenizer.from_directory(Path(directory))


def answer_parsing_of(tokenizer: Tokenizer, options: ServerOptions) -> AnswerParsing:
    """The format in which the model answers. Raises ConfigError for one that the model does not have."""
    chosen = choose_format(
        tokenizer,
        tool_call_parser=options.tool_call_parser,
        reasoning_parser=options.reasoning_parser,
    )
    return AnswerParsing(tokenizer, chosen)


def request_factory_of(
    info: ModelInfo, tokenizer: Tokenizer | None, parsing: AnswerParsing | None
) -> RequestFactory:
    """Makes the requests of a model that another process may run, where their maskers are made."""
    return RequestFactory(
        tokenizer=tokenizer,
        vocab_size=info.vocab_size,
        eos_token_ids=frozenset(info.eos_token_ids),
        sampling_defaults=info.sampling_defaults,
        limits=info.limits,
        placed_token_ids=frozenset() if parsing is None else parsing.marker_token_ids,
        makes_maskers=False,
    )


def model_names(options: ServerOptions) -> tuple[str, ...]:
    """The names that were given, or the model's own as it was given."""
    return options.served_model_name or (options.model or DEMO_NAME,)


def api_keys(options: ServerOptions, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that were given, or the one of the environment."""
    from_environment = environment.get(KEY_VARIABLE)
    return options.api_key or ((from_environment,) if from_environment else ())


def banner(info: ModelInfo, options: ServerOptions, bound: socket.socket) -> str:
    """The lines that a server begins with: what is served, on what, how much of it, and where."""
    limits = info.limits
    has_key = bool(api_keys(options, os.environ))
    lines = {
        "model": f"{', '.join(model_names(options))} ({info.architecture}, {info.dtype}) on {info.device}",
        "memory": info.memory.removeprefix("memory: "),
        "context": f"{limits.max_model_len} tokens, {limits.max_num_seqs} sequences at a time, "
        f"{limits.num_pages} pages of {limits.page_size}",
        "address": f"{url_of(bound)}/v1, {'with a key' if has_key else 'without a key'}",
    }
    return "\n".join([f"jinfer {__version__}", *(f"  {name:<8} {value}" for name, value in lines.items())])
