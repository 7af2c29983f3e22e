"""A server that the tests of benchmarks share, for a start is what takes time."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks.server_process import ServerProcess, running_server
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.conftest import COMPILES_FAST


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[ServerProcess]:
    directory = write_checkpoint(tmp_path_factory.mktemp("served"))
    options = {"model": str(directory), "served_model_name": ["tiny"], **TINY_ENGINE}
    with ExitStack() as stack:
        # No longer than the server starts: children of later tests have other needs.
        with pytest.MonkeyPatch.context() as environment:
            for name, value in COMPILES_FAST.items():
                environment.setenv(name, value)
            server = stack.enter_context(running_server(options))
        yield server
