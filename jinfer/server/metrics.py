"""The metrics of a server for Prometheus, under the names that vLLM's dashboards know, with `jinfer:` before
them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from jinfer.engine.stats import EngineStats

PREFIX = "jinfer:"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's bounds, so that one dashboard reads both.
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    80.0,
)
REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
TOKEN_BUCKETS = tuple(
    float(digit * 10**power) for power in range(6) for digit in (1, 2, 5) if digit * 10**power <= 200_000
)


class Histogram:
    """Counts of values by bucket. It is filled by one thread, once for each token: Prometheus' own takes a
    lock and looks at every bucket."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value, which belongs to the first bucket whose bound it does not exceed."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self._sum += value

    def family(self, model_name: str) -> HistogramMetricFamily:
        """The counts as Prometheus takes them: of each bucket with all before it."""
        family = HistogramMetricFamily(PREFIX + self.name, self.help, labels=["model_name"])
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        family.add_metric([model_name], buckets, self._sum)
        return family


class ServerMetrics(Collector):
    """All metrics of a server: those of the engine as it tells them, and those that the front counts."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._model_name = model_name
        self._stats = stats
        self._finished: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self.time_to_first_token = Histogram(
            "time_to_first_token_seconds", "Time to the first token of a request.", FIRST_TOKEN_BUCKETS_S
        )
        self.inter_token_latency = Histogram(
            "inter_token_latency_seconds",
            "Time between two tokens of a completion, as the front gets them.",
            INTER_TOKEN_BUCKETS_S,
        )
        self.e2e_request_latency = Histogram(
            "e2e_request_latency_seconds", "Time from arrival to the last token.", REQUEST_BUCKETS_S
        )
        self.request_queue_time = Histogram(
            "request_queue_time_seconds", "Time from arrival to the first step.", REQUEST_BUCKETS_S
        )
        self.request_prompt_tokens = Histogram(
            "request_prompt_tokens", "Tokens of a prompt that was accepted.", TOKEN_BUCKETS
        )
        self.request_generation_tokens = Histogram(
            "request_generation_tokens", "Output tokens of a completion.", TOKEN_BUCKETS
        )
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count_finished(self, reason: str, *, latency_s: float, num_output_tokens: int) -> None:
        """Counts a completion that ended."""
        self._finished[reason] += 1
        self.e2e_request_latency.observe(latency_s)
        self.request_generation_tokens.observe(num_output_tokens)

    def count_answer(self, status: int) -> None:
        """Counts an answer of HTTP."""
        self._answers[str(status)] += 1

    def render(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: the registry would otherwise collect once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics at this moment."""
        yield from self._of_engine(self._stats())
        for histogram in self._histograms():
            yield histogram.family(self._model_name)
        yield self._labelled(
            "request_success_total", "Completions that ended, by reason.", "finished_reason", self._finished
        )
        yield self._labelled("http_responses_total", "HTTP answers, by status.", "status", self._answers)

    def _histograms(self) -> tuple[Histogram, ...]:
        return (
            self.time_to_first_token,
            self.inter_token_latency,
            self.e2e_request_latency,
            self.request_queue_time,
            self.request_prompt_tokens,
            self.request_generation_tokens,
        )

    def _of_engine(self, stats: EngineStats) -> Iterator[Metric]:
        num_pages = stats.num_used_pages + stats.num_cached_pages + stats.num_free_pages
        gauges = {
            "num_requests_running": ("Sequences that run.", stats.num_running),
            "num_requests_waiting": ("Sequences that wait to run.", stats.num_waiting),
            "kv_cache_usage_perc": (
                "Share of the KV cache's pages that sequences use; 1 is all of them.",
                stats.num_used_pages / num_pages if num_pages else 0.0,
            ),
        }
        counters = {
            "prefix_cache_queries_total": ("Prompt tokens looked up in the cache.", stats.num_prompt_tokens),
            "prefix_cache_hits_total": (
                "Prompt tokens found in the prefix cache.",
                stats.num_prefix_hit_tokens,
            ),
            "prompt_tokens_total": ("Prompt tokens of sequences that began.", stats.num_prompt_tokens),
            "generation_tokens_total": ("Tokens generated.", stats.num_generated_tokens),
            "num_preemptions_total": ("Sequences preempted for want of pages.", stats.num_preemptions),
        }
        for kind, named in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (help, value) in named.items():
                family = kind(PREFIX + name, help, labels=["model_name"])
                family.add_metric([self._model_name], float(value))
                yield family
        if stats.expert_tokens is not None:
            yield self._expert_tokens(stats.expert_tokens)

    def _expert_tokens(self, by_layer: list[list[int]]) -> CounterMetricFamily:
        labels = ["model_name", "layer", "expert"]
        help = "Tokens of each expert, by layer with experts."
        family = CounterMetricFamily(f"{PREFIX}expert_tokens_total", help, labels=labels)
        for layer, counts in enumerate(by_layer):
            for expert, count in enumerate(counts):
                family.add_metric([self._model_name, str(layer), str(expert)], float(count))
        return family

    def _labelled(self, name: str, help: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
        family = CounterMetricFamily(PREFIX + name, help, labels=["model_name", label])
        for value, count in sorted(counts.items()):
            family.add_metric([self._model_name, value], float(count))
        return family
