"""Server-sent events out of the bytes of a stream. Plain Python.

The format is that of the WHATWG HTML standard, section 9.2 (`text/event-stream`), of which fields other than
`data` are not used here.
"""

DATA = b"data:"


class EventBuffer:
    """Collects bytes, however they are cut, and gives the data of each event that is complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that end in `piece`, without those that have none, such as comments."""
        held = self._rest + piece
        if b"\r" in held:
            held = held.replace(b"\r\n", b"\n")
        *events, self._rest = held.split(b"\n\n")
        return [data for data in map(_data_of, events) if data is not None]


def _data_of(event: bytes) -> bytes | None:
    if event.startswith(DATA) and b"\n" not in event:  # one line of data, as nearly all events are
        return event[len(DATA) :].removeprefix(b" ")
    lines = [line[len(DATA) :].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(DATA)]
    return b"\n".join(lines) if lines else None
