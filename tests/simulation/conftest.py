"""Sums up what all histories of a test run held, over all of its workers."""

import json
from collections import Counter

import pytest

PROPERTY = "histories"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and report.when == "call":
                    total.update(json.loads(value))
    if total:
        listed = ", ".join(f"{count} {what}" for what, count in sorted(total.items()))
        terminalreporter.write_line(f"simulation: {listed}")
