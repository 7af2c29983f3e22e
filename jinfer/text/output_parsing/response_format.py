"""The description of how a family of models writes reasoning and tool calls: data, no code.

An answer is text with regions in it. A marker opens a region and another closes it, or the end of the answer
does. Text outside of all regions is content. Within a region only its own end is looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class TextKind(Enum):
    """The parts of an answer."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Marker:
    """Any of some texts, or what a regular expression matches (see pattern_syntax).

    A text that is one of the tokenizer's added tokens stands for the token.
    """

    texts: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True)
class JsonCalls:
    """Objects with the name of the function and its arguments: {"name": "f", "arguments": {"a": 1}}.

    One, or a list of them, or, with `separators`, several with one of these characters or white space in
    between. With `is_strict`, for a region that no marker opens: an object is a call only if it has both, and
    nothing else but "type" and "id".
    """

    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")
    separators: str | None = None
    is_strict: bool = False


@dataclass(frozen=True)
class HeadedJsonCall:
    """A header that has the name, then the arguments as a JSON object: name[ARGS]{"a": 1}

    The name is what the opening marker captured as "name", if it did; else the header from behind
    `name_after`, which must be there, up to the first of `name_before`. `trailer` has the characters that may
    follow the object and mean nothing. With `may_be_list`, a list as in JsonCalls may stand for it all.
    """

    name_after: str | None = None
    name_before: tuple[str, ...] = ()
    trailer: str = ""
    may_be_list: bool = False


@dataclass(frozen=True)
class FunctionXmlCall:
    """<function=f><parameter=a>\\nvalue\\n</parameter></function>, whose values are typed by the tool's
    schema."""


@dataclass(frozen=True)
class PythonCalls:
    """A list of calls as Python writes them: [f(a="x", b=[1]), g()]"""


@dataclass(frozen=True)
class TemplateCalls:
    """Any body that a response template of transformers describes; read when it is complete."""

    content: str
    content_args: Mapping[str, Any]
    transform: Any
    transform_each: bool


CallSyntax = JsonCalls | HeadedJsonCall | FunctionXmlCall | PythonCalls | TemplateCalls


@dataclass(frozen=True)
class Region:
    """A part of the answer between two markers. `close` is None where only the end of the answer closes it.

    `calls` is how the calls are written, in a region of TOOL_CALLS. `holds_opening`: the opening marker is
    part of what it opens. `only_first`: it opens nothing once the answer has content. `is_stripped`: white
    space beside the markers belongs to them. `join` comes between this region's text and earlier text of the
    kind.
    """

    kind: TextKind
    open: Marker
    close: Marker | None = None
    calls: CallSyntax | None = None
    holds_opening: bool = False
    only_first: bool = False
    is_stripped: bool = True
    join: str = "\n"


@dataclass(frozen=True)
class ResponseFormat:
    """A format. An earlier region is preferred where two open at one place.

    `anchors` are markers that begin the assistant's message in a prompt; the last one counts. `ignored` are
    markers outside of regions that mean nothing. `has_leftover` is False where text outside of regions means
    nothing either; `is_leftover_stripped` is for that text what `is_stripped` is for a region's.
    """

    name: str
    regions: tuple[Region, ...]
    anchors: tuple[Marker, ...]
    ignored: tuple[Marker, ...] = ()
    has_leftover: bool = True
    is_leftover_stripped: bool = True
    call_id_length: int | None = None
    """The number of characters of a call's id, where the chat template asks for one."""
