"""The dashboard that ships: every name in its queries is a metric of the server."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jinfer.server.metrics import ServerMetrics
from tests.server.http.scripted_engine import IDLE

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana" / "jinfer.json"
NAME = re.compile(r"jinfer:\w+")


def exported() -> set[str]:
    """The names of all samples of a server that has answered something."""
    metrics = ServerMetrics("m", lambda: IDLE)
    metrics.count_answer(200)
    metrics.count_finished("stop", latency_s=1, num_output_tokens=1)
    families = text_string_to_metric_families(metrics.render().decode())
    return {sample.name for family in families for sample in family.samples}


def queries() -> list[str]:
    """Those of the panels, and that of the variable."""
    page = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in page["panels"] for target in panel["targets"]]
    return [
        *panels,
        *(each["query"]["query"] for each in page["templating"]["list"] if each["type"] == "query"),
    ]


def test_every_query_of_the_dashboard_names_metrics_that_there_are():
    assert len(queries()) > 15
    for query in queries():
        names = NAME.findall(query)
        assert names
        assert set(names) <= exported(), query


def test_the_dashboard_shows_nearly_every_metric():
    shown = {name for query in queries() for name in NAME.findall(query)}
    hidden = {name for name in exported() if name.removesuffix("_bucket") == name} - shown
    assert not {name for name in hidden if not name.endswith(("_sum", "_count", "_created"))}
