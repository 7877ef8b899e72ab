from __future__ import annotations

from collections import Counter

from backend.serving.stats import ModelReading, ModelStats, prometheus
from engine_app.ui.readings import Reading, read_metrics


def test_what_a_server_writes_is_read_back() -> None:
    stats = ModelStats()
    for latency in (0.002, 0.002, 0.002, 0.2):
        stats.note_request("ok", latency)
    stats.note_request("busy", 0.002)
    stats.note_tokens(1.0, 30)
    text = prometheus([ModelReading('a"b', stats, 3, 1, True, 10, 12.5)], Counter())
    found = read_metrics(text)
    assert (found.requests, found.failed, found.queue_depth) == (5, 1, 3)
    assert found.tokens_per_s == 12.5 and found.generated_tokens == 30
    assert found.p50_ms is not None and 1.0 < found.p50_ms <= 2.5
    assert found.p95_ms is not None and 100 < found.p95_ms <= 250


def test_other_text_reads_as_nothing() -> None:
    assert read_metrics("") == Reading()
    assert read_metrics("# HELP\nup 1\ncyxwiz_queue_depth nan\ncyxwiz_queue_depth{\n<html>") == Reading()


def test_no_count_is_without_end() -> None:
    text = 'cyxwiz_requests_total{outcome="ok"} %s\ncyxwiz_queue_depth 2\n'
    for value in ("inf", "-inf", "1.7e308"):
        assert read_metrics(2 * (text % value)) == Reading(queue_depth=4)
