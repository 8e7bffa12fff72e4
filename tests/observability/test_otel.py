"""Test the spans that OpenTelemetry exports, with a collector in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from minitoolai.observability.otel import Traces, _OncePerMinute, try_collector
from tests.support.collector import Collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def traces_to(collector: Collector, ratio: float = 1.0) -> Traces:
    return Traces(url=f"{collector.url}/v1/traces", headers={}, ratio=ratio, version="1.2", instance="here:1")


def test_spans_are_exported_below_the_callers_span(collector: Collector) -> None:
    traces = traces_to(collector)
    request = traces.request("GET /", {"traceparent": SAMPLED}, {"a": 1})
    assert request is not None
    child = request.child("engine", {"b": True}, is_client=True)
    assert child.headers()["traceparent"].startswith(f"00-{TRACE}-")
    child.end()
    request.rename("GET /v1/models")
    request.set_attribute("c", "x")
    request.add_event("first token", 1_700_000_000_123)
    request.end()
    traces.close()
    (recorded,) = collector.where({"a": 1})
    assert (recorded.name, recorded.trace, recorded.parent) == ("GET /v1/models", TRACE, PARENT)
    assert (recorded.facts, recorded.events) == ({"a": 1, "c": "x"}, ["first token"])
    assert recorded.event_ns == [1_700_000_000_123_000_000]
    (below,) = collector.under(recorded, "engine")
    assert below.facts == {"b": True}
    assert (collector.service["service.name"], collector.service["service.version"]) == ("minitoolai", "1.2")


def test_a_failed_span_has_the_error_code_and_no_message(collector: Collector) -> None:
    traces = traces_to(collector)
    span = traces.job("image job", {}, {})
    assert span is not None
    span.fail("upstream_error")
    span.end()
    traces.close()
    (recorded,) = collector.where({})
    assert (recorded.is_error, recorded.facts) == (True, {"error.type": "upstream_error"})


def test_changes_after_the_end_are_ignored(collector: Collector) -> None:
    traces = traces_to(collector)
    span = traces.request("GET /", {}, {"a": 1})
    assert span is not None
    span.end()
    span.set_attribute("late", "x")
    span.add_event("late", 1)
    span.fail("late")
    traces.close()
    (recorded,) = collector.where({})
    assert (recorded.facts, recorded.events, recorded.is_error) == ({"a": 1}, [], False)


def test_a_callers_traceparent_can_only_reduce_sampling(collector: Collector) -> None:
    all_sampled, none_sampled = traces_to(collector), traces_to(collector, ratio=0.0)
    assert all_sampled.request("a", {"traceparent": NOT_SAMPLED}, {}) is None
    assert all_sampled.request("a", {"traceparent": SAMPLED}, {}) is not None
    assert none_sampled.request("a", {"traceparent": SAMPLED}, {}) is None
    all_sampled.close()
    none_sampled.close()


def test_a_collector_is_tried_with_an_empty_message(collector: Collector) -> None:
    assert try_collector(f"{collector.url}/v1/traces", {"x-tenant": "7"})
    assert collector.headers[0]["x-tenant"] == "7"
    assert collector.spans == []
    assert not try_collector("http://127.0.0.1:9/v1/traces", {})


def test_export_errors_are_logged_once_a_minute() -> None:
    once, record = _OncePerMinute(), logging.makeLogRecord({"created": time.time()})
    assert [once.filter(record), once.filter(record)] == [True, False]
    record.created += 61
    assert once.filter(record)
