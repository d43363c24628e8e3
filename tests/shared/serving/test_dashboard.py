"""The Grafana dashboard against what a running server really renders: every metric and every label is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.shared.serving.served import Served

_FILE = Path(__file__).parents[3] / "docs" / "grafana" / "haechi.json"
_FROM_PROMETHEUS = {"instance", "job"}
"""Labels that the scraper adds."""
_METRIC = re.compile(r"\b(?:nv|haechi|process|python)_[a-z0-9_]+")
_SELECTOR = re.compile(r"(\b[a-z][a-z0-9_]*)\{([^}]*)\}")
_BY = re.compile(r"\bby \(([^)]*)\)")


def _board() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return board


def _expressions() -> list[str]:
    return [target["expr"] for panel in _board()["panels"] for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def rendered(served: Served) -> dict[str, set[str]]:
    """The labels of every sample of /metrics, after a request and a failure."""
    body = json.dumps({"inputs": [{"name": "index", "shape": [1], "datatype": "INT64", "data": [0]}]})
    with served.client() as client:
        assert client.post("/v2/models/picky/infer", content=body).status_code == 200
        assert client.post("/v2/models/picky/infer", content="{").status_code == 400
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # The parser writes Prometheus' own suffix to counters that have none in the text.
            name = sample.name if re.search(rf"^{sample.name}[ {{]", text, re.M) else sample.name.removesuffix("_total")
            found.setdefault(name, set()).update(sample.labels)
    return found


def test_every_metric_of_the_dashboard_is_rendered(rendered: dict[str, set[str]]) -> None:
    expressions = _expressions()
    assert len(expressions) > 20
    for expression in expressions:
        names = _METRIC.findall(expression)
        assert names, expression
        assert set(names) <= rendered.keys(), expression


def test_every_label_is_one_that_its_metric_has(rendered: dict[str, set[str]]) -> None:
    for expression in _expressions():
        have = set.union(*(rendered[name] for name in _METRIC.findall(expression))) | _FROM_PROMETHEUS
        for name, selector in _SELECTOR.findall(expression):
            asked = set(re.findall(r"(\w+)\s*=~?", selector))
            assert asked <= rendered[name] | _FROM_PROMETHEUS, expression
        for group in _BY.findall(expression):
            assert {label.strip() for label in group.split(",")} <= have, expression
    for panel in _board()["panels"]:
        for target in panel.get("targets", []):
            grouped = {label.strip() for group in _BY.findall(target["expr"]) for label in group.split(",")}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert shown <= (grouped or _FROM_PROMETHEUS), target["expr"]


def test_every_metric_of_inference_is_on_the_dashboard(rendered: dict[str, set[str]]) -> None:
    used = {name for expression in _expressions() for name in _METRIC.findall(expression)}
    ours = {name for name in rendered if name.startswith(("nv_", "haechi_"))}
    # Shown by the histogram, with percentiles; and moments of creation, which nobody plots.
    left_out = {"nv_inference_request_duration_us"} | {name for name in ours if name.endswith("_created")}
    assert ours - used == left_out


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = _board()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps(panels)
    asked = set(re.findall(r"\$\{?([a-z_]+)", text)) - {"__rate_interval"}
    assert asked == variables
    places = [panel["gridPos"] for panel in panels]
    for first in range(len(places)):
        for second in range(first):
            assert not _overlap(places[first], places[second]), (panels[first]["title"], panels[second]["title"])
    assert all(place["x"] + place["w"] <= 24 for place in places)


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )
