"""ops/: alert rules and the dashboard use metrics that exist, and lead to runbooks that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import ROOT, Document

OPS = ROOT / "ops"
RULES = (OPS / "alerts.yml").read_text("utf-8")
DASHBOARD = json.loads((OPS / "dashboard.json").read_text("utf-8"))
METRICS = Document("events.md").table("metrics")
LABELS = {"job", "instance", "le"} | {
    name for row in METRICS.values() for name in row[1].split(", ")
}


def expressions() -> list[str]:
    """Those of the dashboard."""
    panels: list[Any] = DASHBOARD["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return found + [each["expr"] for each in DASHBOARD["annotations"]["list"]]


def plain(expression: str) -> str:
    """What Grafana makes of an expression."""
    return expression.replace("$__rate_interval", "5m").replace("$job", ".*")


def test_rules_and_dashboard_use_metrics_and_labels_that_exist() -> None:
    for text in (RULES, *expressions()):
        for name in re.findall(r"\bsealedstate_\w+", text):
            kind = METRICS.get(name, [""])[0]
            of_histogram = re.sub(r"_(bucket|count|sum)$", "", name)
            assert kind or METRICS[of_histogram][0] == "histogram", name
    for text in re.findall(r"by \(([\w, ]+)\)", RULES + "\n".join(expressions())):
        assert set(text.split(", ")) <= LABELS, text


def test_events_of_the_rules_and_the_dashboard_exist() -> None:
    events = set(Document("events.md").table("events"))
    for text in (RULES, *expressions()):
        for names in re.findall(r'event=~?"([^"]+)"', text):
            assert set(names.split("|")) <= events, names


def test_every_rule_leads_to_a_runbook() -> None:
    titles = re.findall(r"^## (.*)$", Document("runbooks.md").text, re.MULTILINE)
    anchors = {title.lower().replace(" ", "-") for title in titles}
    alerts = re.findall(r"- alert: (\w+)", RULES)
    links = re.findall(r"runbook_url: docs/runbooks.md#(\S+)", RULES)
    assert len(alerts) == len(set(alerts)) == len(links)
    assert set(links) <= anchors
    named = set(re.findall(r"`(Sealedstate\w+)`", Document("runbooks.md").text))
    assert named == set(alerts)


def promtool(*arguments: str | Path) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("not installed: promtool (Debian: prometheus)")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.server
def test_prometheus_accepts_the_rules_and_their_tests_pass() -> None:
    promtool("check", "rules", OPS / "alerts.yml")
    promtool("test", "rules", OPS / "alerts_test.yml")


@pytest.mark.server
def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel{number}", "expr": plain(expression)}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)
