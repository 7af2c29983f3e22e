"""The processes that render chat templates for a server, as its event loop sees them."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jinfer.errors import OverloadedError
from jinfer.server.errors import DrainingError
from jinfer.server.waiting_line import jittered
from jinfer.text.template_renderer import TemplateLimits, TemplateRenderer
from jinfer.text.tokenizer import Tokenizer

NUM_WORKERS = 2  # so that one conversation that takes its whole time leaves the others a process
MAX_WAITING = 256
RETRY_AFTER_S = 1.0


class TemplateWorkers:
    """Renders conversations in a few processes, which start when the first is asked for."""

    def __init__(self, tokenizer: Tokenizer, limits: TemplateLimits | None = None) -> None:
        self._renderers = [TemplateRenderer(tokenizer, limits) for _ in range(NUM_WORKERS)]
        self._idle = list(self._renderers)  # as many as the threads have no use for
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(NUM_WORKERS, thread_name_prefix="jinfer-templates")
        self._num_waiting = 0
        self._is_closed = False

    def start(self) -> None:
        """Starts a process, so that the first conversation does not wait for it."""
        self._threads.submit(self._with_renderer, TemplateRenderer.start)

    async def token_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        **options: Any,
    ) -> list[int]:
        """The token ids of a conversation. Raises what `TemplateRenderer.token_ids` raises, and
        OverloadedError where too many conversations wait."""
        if self._num_waiting >= MAX_WAITING:
            raise OverloadedError(
                f"{self._num_waiting} conversations wait for their template, and at most {MAX_WAITING} may; "
                "try again later",
                retry_after_s=jittered(RETRY_AFTER_S),
            )
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads,
                self._with_renderer,
                lambda renderer: renderer.token_ids(messages, tools=tools, **options),
            )
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Ends the processes, and what they render."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for renderer in idle:
            renderer.close()
        for renderer in self._renderers:
            renderer.kill()

    def _with_renderer(self, use: Callable[[TemplateRenderer], Any]) -> Any:
        """The result of a function of a renderer that nobody else uses meanwhile."""
        with self._lock:
            if self._is_closed:
                raise DrainingError(RETRY_AFTER_S)
            renderer = self._idle.pop()
        try:
            return use(renderer)
        finally:
            with self._lock:
                if self._is_closed:
                    renderer.close()
                else:
                    self._idle.append(renderer)
