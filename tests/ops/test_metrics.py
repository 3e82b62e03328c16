"""Each finished request is counted once, under a name that is a model's."""

import time

from prometheus_client.parser import text_string_to_metric_families

from llamahost.core.observe import RequestRecord
from llamahost.ops.exposition import Family, Spread
from llamahost.ops.metrics import Metrics, ModelLoad


def lines(metrics: Metrics) -> list[str]:
    return "".join(metrics.lines([])).splitlines()


def test_a_request_counts_its_tokens_and_times() -> None:
    metrics = Metrics()
    metrics.finished(
        RequestRecord(
            model="m",
            kind="chat",
            n_prompt=10,
            n_cached=4,
            n_generated=5,
            queued_s=0.02,
            first_s=0.2,
            generation_s=0.4,
            total_s=0.6,
            outcome="stop",
        )
    )
    told = lines(metrics)
    assert 'llamahost_requests_total{model="m",outcome="stop"} 1.0' in told
    assert 'llamahost_prompt_tokens_total{model="m"} 10.0' in told
    assert 'llamahost_cached_tokens_total{model="m"} 4.0' in told
    assert 'llamahost_generated_tokens_total{model="m"} 5.0' in told
    assert 'llamahost_queue_seconds_sum{model="m"} 0.02' in told
    assert 'llamahost_time_to_first_token_seconds_sum{model="m"} 0.2' in told
    assert 'llamahost_time_per_output_token_seconds_sum{model="m"} 0.1' in told
    assert 'llamahost_request_duration_seconds_sum{model="m"} 0.6' in told


def test_the_arms_of_a_route_and_further_tries_are_counted_apart() -> None:
    metrics = Metrics()
    for model, n_tries in (("a", 1), ("a", 1), ("b", 3)):
        metrics.finished(RequestRecord(model=model, kind="chat", route="split", n_tries=n_tries))
    metrics.finished(RequestRecord(model="a", kind="chat"))
    told = lines(metrics)
    assert 'llamahost_route_requests_total{model="a",outcome="stop",route="split"} 2.0' in told
    assert 'llamahost_route_requests_total{model="b",outcome="stop",route="split"} 1.0' in told
    assert 'llamahost_requests_total{model="a",outcome="stop"} 3.0' in told
    assert 'llamahost_retries_total{model="b"} 2.0' in told


def test_names_that_clients_make_up_are_no_labels() -> None:
    metrics = Metrics()
    list(metrics.lines([ModelLoad(model="known")]))
    for name in ("known", "made up", "made up too"):
        metrics.finished(RequestRecord(model=name, kind="chat", outcome="rejected"))
    told = lines(metrics)
    assert 'llamahost_requests_total{model="known",outcome="rejected"} 1.0' in told
    assert 'llamahost_requests_total{model="",outcome="rejected"} 2.0' in told
    assert not any("made up" in line for line in told)
    assert not any(line.startswith("llamahost_queue_seconds_count") for line in told)


def test_what_a_memory_of_prompts_was_good_for_is_counted_by_model() -> None:
    load = ModelLoad(model="m", n_chars_asked=900, n_chars_tokenised=40)
    told = "".join(Metrics().lines([load])).splitlines()
    assert 'llamahost_prompt_memory_characters_total{model="m"} 900.0' in told
    assert 'llamahost_prompt_memory_missed_characters_total{model="m"} 40.0' in told


def test_two_live_in_one_process() -> None:
    first, second = Metrics(), Metrics()
    first.responded(200)
    assert 'llamahost_http_responses_total{status="200"} 1.0' in lines(first)
    assert not any(line.startswith("llamahost_http_responses_total{") for line in lines(second))


def test_prometheus_own_parser_reads_what_is_told() -> None:
    metrics, name = Metrics(), 'a "model"\\of\nmany words'
    load = ModelLoad(model=name, n_slots=4, thread_s=1e-7)
    list(metrics.lines([load]))
    metrics.finished(RequestRecord(model=name, kind="chat", n_prompt=7, first_s=0.05, total_s=2e3))
    metrics.responded(200)
    families = list(text_string_to_metric_families("".join(metrics.lines([load]))))
    assert len(families) == len({family.name for family in families})
    assert all(family.documentation and family.type in ("counter", "gauge", "histogram") for family in families)
    told = {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}
    who = ("model", name)
    assert told["llamahost_slots", who] == 4
    assert told["llamahost_step_seconds_total", who] == 1e-7
    assert told["llamahost_prompt_tokens_total", who] == 7
    assert told["llamahost_http_responses_total", ("status", "200")] == 1
    assert told["llamahost_time_to_first_token_seconds_bucket", ("le", "0.05"), who] == 1
    assert told["llamahost_time_to_first_token_seconds_bucket", ("le", "0.025"), who] == 0
    assert told["llamahost_request_duration_seconds_bucket", ("le", "600.0"), who] == 0
    assert told["llamahost_request_duration_seconds_bucket", ("le", "+Inf"), who] == 1
    assert told["llamahost_request_duration_seconds_sum", who] == 2000
    assert 2**20 < told["process_resident_memory_bytes",] < told["process_virtual_memory_bytes",]
    assert 0 < told["process_cpu_seconds_total",] < time.time() - told["process_start_time_seconds",] + 60
    assert 3 <= told["process_open_fds",] <= told["process_max_fds",]


def test_a_histogram_s_bounds_are_included_and_its_counts_grow() -> None:
    spreads = Family("s", "Some.", (), lambda: Spread((1.0, 2.0)))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        spreads.of().see(value)
    told = "".join(spreads.lines()).splitlines()[2:]
    assert told == [
        's_bucket{le="1.0"} 2.0',
        's_bucket{le="2.0"} 4.0',
        's_bucket{le="+Inf"} 5.0',
        "s_count 5.0",
        "s_sum 14.0",
    ]


def test_a_model_that_comes_between_two_lines_is_told_the_next_time() -> None:
    metrics = Metrics()
    metrics.finished(RequestRecord(model="a", kind="chat"))
    lines = metrics.lines([])
    told = next(line for line in lines if line.startswith("llamahost_requests_total"))
    metrics.finished(RequestRecord(model="b", kind="chat"))
    assert 'model="a"' in told
    assert 'model="b"' not in next(lines)
    assert any('model="b"' in line for line in metrics.lines([]))
