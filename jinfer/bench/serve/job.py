"""A load as data: what a process needs to know to make its part of it. Plain Python."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinfer.bench.serve.bodies import request_body
from jinfer.bench.serve.conversations import Conversation, Conversations, WorkloadOptions, find_conversations
from jinfer.bench.serve.load import History, LoadPlan
from jinfer.bench.serve.records import RequestRecord

DEFAULT_NUM_CONVERSATIONS = 100  # where neither the workload nor an option says how many


@dataclass(frozen=True)
class LoadJob:
    """`fields` are added to every body. `api_key_variable` names the environment variable of the key, so that
    the key is in no command and no file."""

    url: str
    endpoint: str
    workload: str
    workload_options: WorkloadOptions
    plan: LoadPlan
    fields: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0
    api_key_variable: str | None = None

    def line(self) -> dict[str, Any]:
        """The job as JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> "LoadJob":
        """The job of a `line`."""
        options, plan = WorkloadOptions(**line["workload_options"]), LoadPlan(**line["plan"])
        return cls(**{**line, "workload_options": options, "plan": plan})

    def with_model(self, model: str) -> "LoadJob":
        """The same job, whose requests name a model."""
        return dataclasses.replace(self, fields={"model": model, **self.fields})

    def checked(self) -> "LoadJob":
        """The same job, bounded. Raises ConfigError for a workload that there is not, or that the endpoint
        does not take."""
        conversations, plan = self.conversations(), self.plan
        for number in range(conversations.count or 1):
            conversation = conversations.get(number)
            for turn in range(len(conversation.turns)):
                self.body(conversation, [(said, "") for said in conversation.turns[:turn]])
        if plan.num_conversations is None and plan.duration_s is None:
            count = conversations.count or DEFAULT_NUM_CONVERSATIONS
            plan = dataclasses.replace(plan, num_conversations=count)
        return dataclasses.replace(self, plan=plan)

    @property
    def name(self) -> str:
        """The end of a load's id: random-1024x128-rate4, random-1024x128-c64, trace-x2."""
        if self.workload == "trace":
            return f"trace-x{self.workload_options.speed:g}"
        if self.plan.concurrency is not None:
            return f"{self.workload}-c{self.plan.concurrency}"
        return f"{self.workload}-rate{self.plan.rate_per_s:g}"

    @property
    def title(self) -> str:
        """The load for people."""
        if self.workload == "trace":
            return f"trace at {self.workload_options.speed:g} times its speed"
        if self.plan.concurrency is not None:
            return f"{self.workload}, {self.plan.concurrency:,} at a time"
        return f"{self.workload} at {self.plan.rate_per_s:g}/s"

    def conversations(self) -> Conversations:
        """Raises ConfigError for a workload that there is not."""
        return find_conversations(self.workload, self.workload_options)

    def body(self, conversation: Conversation, history: History) -> bytes:
        """Raises ConfigError for a content that the endpoint does not take."""
        return request_body(self.endpoint, conversation, history, self.fields)

    def headers(self) -> dict[str, str]:
        """The key, where there is one."""
        key = None if self.api_key_variable is None else os.environ.get(self.api_key_variable)
        return {} if key is None else {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class LoadOutcome:
    """The outcome of a load, or of a part.

    - `cpu_share`: the part of a core that the busiest process used.
    - `lags_s`: how late the client was, at regular moments, to see what had happened: so much later than it
      came a chunk may have been read.
    """

    records: list[RequestRecord]
    cpu_share: float
    lags_s: list[float]
    was_interrupted: bool
