"""A running server as the tests use it."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from shared.serving.keys import ROLES
from shared.serving.server import RunningServer


class Served:
    """A running server with a key for each role."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.state = server.state
        self.url = server.url
        self.address = server.url.removeprefix("http://")
        self.keys = {role: server.state.auth.store.create(f"test {role}", role) for role in ROLES}

    def headers(self, role: str = "operator") -> dict[str, str]:
        return {"X-Api-Key": self.keys[role]}

    def client(self, role: str | None = "operator") -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers(role) if role else {}, timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics."""
        with self.client("viewer") as client:
            text = client.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in (name, f"{name}_total") and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"{name} {labels} is not among the metrics")
