"""The reader of each syntax of calls."""

from collections.abc import Mapping

from jinfer.text.output_parsing.calls.call_reader import CallReader, CallSink
from jinfer.text.output_parsing.calls.function_xml_call import FunctionXmlCallReader
from jinfer.text.output_parsing.calls.headed_json_call import HeadedJsonCallReader
from jinfer.text.output_parsing.calls.json_calls import JsonCallsReader
from jinfer.text.output_parsing.calls.python_calls import PythonCallsReader
from jinfer.text.output_parsing.calls.template_calls import TemplateCallsReader
from jinfer.text.output_parsing.response_format import (
    CallSyntax,
    FunctionXmlCall,
    HeadedJsonCall,
    JsonCalls,
    PythonCalls,
    TemplateCalls,
)
from jinfer.text.output_parsing.tool_schemas import ToolSchemas


def call_reader(
    syntax: CallSyntax, *, sink: CallSink, captures: Mapping[str, str], schemas: ToolSchemas
) -> CallReader:
    """A reader for one region. `captures` are the named groups of the marker that opened it."""
    match syntax:
        case JsonCalls():
            return JsonCallsReader(syntax, sink)
        case HeadedJsonCall():
            return HeadedJsonCallReader(syntax, sink, captures.get("name"))
        case FunctionXmlCall():
            return FunctionXmlCallReader(sink, schemas)
        case PythonCalls():
            return PythonCallsReader(sink, schemas)
        case TemplateCalls():
            return TemplateCallsReader(syntax, sink, captures, schemas)
