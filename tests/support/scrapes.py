"""Counters on a page of Prometheus, as a scraper reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Counts = dict[tuple[str, str, str], float]
"""(event, reason, kid) -> count."""


def counts_on(page: str, name: str = "sealedstate_events_total") -> Counts:
    return {
        (sample.labels["event"], sample.labels["reason"], sample.labels["kid"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def page_of(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()
