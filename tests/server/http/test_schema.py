"""Requests made from the OpenAPI page, good and bad, a bounded number for each endpoint."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

MAX_EXAMPLES = 10
OPERATIONS = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/tokenizer_info"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/version"),
    ("POST", "/detokenize"),
    ("POST", "/tokenize"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/responses"),
]
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def schema(served):
    return schemathesis.openapi.from_url(served.url + "/openapi.json")


def test_every_operation_is_in_the_list(schema):
    found = [result.ok() for result in schema.get_all_operations()]
    assert sorted((each.method.upper(), each.path) for each in found) == OPERATIONS


def bounded(case):
    """The request with an end soon, whatever else it has."""
    if isinstance(case.body, dict):
        case.body = {**case.body, "max_tokens": 2, "max_completion_tokens": 2, "max_output_tokens": 2}
    return case


GOOD = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
# Of requests without a body there are no bad ones.
BAD = [(*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[0] == "POST"]


@pytest.mark.parametrize(("method", "path", "mode"), [*GOOD, *BAD])
def test_no_request_breaks_the_server_and_answers_are_as_the_page_says(schema, method, path, mode):
    strategy = schema[path][method].as_strategy(generation_mode=mode)

    @given(case=strategy)
    @settings(
        max_examples=MAX_EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case) -> None:
        bounded(case).call_and_validate(checks=CHECKS, timeout=60)

    run()
