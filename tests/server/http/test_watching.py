"""What watches over a server: health, metrics, version, ids of requests, logs."""

import json
import logging
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

import jinfer
from jinfer.server.log_format import JsonFormatter

# The names under which vLLM's dashboards look for them, without its prefix.
EXPECTED = {
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "num_preemptions_total",
    "time_to_first_token_seconds_bucket",
    "inter_token_latency_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "request_queue_time_seconds_bucket",
    "request_success_total",
}


def samples(http) -> dict[str, float]:
    """The sum of each name's samples over its labels but the buckets'."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_health_asks_the_engine(http):
    assert http.get("/health").status_code == 200
    assert http.head("/health").status_code == 200


def test_version_is_the_packages(http):
    assert http.get("/version").json() == {"version": jinfer.__version__}


def test_metrics_have_the_names_of_vllms(http):
    http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert {"jinfer:" + name for name in EXPECTED} <= set(samples(http))
    head = http.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")


def test_metrics_count_what_was_generated(http):
    before = samples(http)
    http.post("/v1/completions", json={"prompt": "a b c", "max_tokens": 5, "n": 2, "ignore_eos": True})
    after = samples(http)

    def grown(name: str) -> float:
        return after["jinfer:" + name] - before.get("jinfer:" + name, 0)

    assert grown("generation_tokens_total") == 10
    assert grown("request_success_total") == 2
    assert grown("time_to_first_token_seconds_count") == 1
    assert grown("inter_token_latency_seconds_count") == 8
    assert grown("e2e_request_latency_seconds_count") == 2
    assert grown("request_queue_time_seconds_count") == 1
    assert grown("request_prompt_tokens_count") == 1
    assert after["jinfer:num_requests_running"] == 0


def test_the_id_of_a_request_is_echoed_or_made(http):
    assert http.get("/version", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {http.get("/version").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    too_long = http.get("/nowhere", headers={"x-request-id": "x" * 1000}).headers["x-request-id"]
    assert len(too_long) == 32


def test_the_log_tells_of_a_request_and_not_of_the_machines_that_watch(http, caplog):
    caplog.set_level(logging.INFO, logger="jinfer.server.request_log")
    body = {"prompt": "a", "max_tokens": 3, "ignore_eos": True}
    http.post("/v1/completions", json=body, headers={"x-request-id": "logged-1"})
    http.get("/v1/models/a%0Ab")
    http.get("/metrics")
    http.get("/health")
    first, second = [record for record in caplog.records if record.name == "jinfer.server.request_log"]
    assert first.fields["request_id"] == "logged-1"
    assert first.fields["completion_tokens"] == 3
    assert 0 < first.fields["ttft_s"] <= first.fields["duration_s"]
    assert "\n" not in second.getMessage()
    entry = json.loads(JsonFormatter().format(first))
    assert entry["request_id"] == "logged-1"
    assert entry["status"] == 200
    assert entry["level"] == "INFO"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_the_openapi_page_has_the_schema_of_each_body(http, path):
    page = http.get("/openapi.json").json()
    body = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].rpartition("/")[2]
    assert page["components"]["schemas"][name]["properties"]
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(page)))
    assert names <= set(page["components"]["schemas"])
