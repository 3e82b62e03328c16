"""Each finished request is counted once, under a name that is a model's."""

from llamahost.core.observe import RequestRecord
from llamahost.ops.metrics import N_TOGETHER, Metrics, ModelLoad


def lines(metrics: Metrics) -> list[str]:
    return metrics.scrape([])().decode().splitlines()


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
    metrics.scrape([ModelLoad(model="known")])
    for name in ("known", "made up", "made up too"):
        metrics.finished(RequestRecord(model=name, kind="chat", outcome="rejected"))
    told = lines(metrics)
    assert 'llamahost_requests_total{model="known",outcome="rejected"} 1.0' in told
    assert 'llamahost_requests_total{model="",outcome="rejected"} 2.0' in told
    assert not any("made up" in line for line in told)
    assert not any(line.startswith("llamahost_queue_seconds_count") for line in told)


def test_what_a_memory_of_prompts_was_good_for_is_counted_by_model() -> None:
    told = Metrics().scrape([ModelLoad(model="m", n_chars_asked=900, n_chars_tokenised=40)])().decode().splitlines()
    assert 'llamahost_prompt_memory_characters_total{model="m"} 900.0' in told
    assert 'llamahost_prompt_memory_missed_characters_total{model="m"} 40.0' in told


def test_two_live_in_one_process() -> None:
    first, second = Metrics(), Metrics()
    first.responded(200)
    assert 'llamahost_http_responses_total{status="200"} 1.0' in lines(first)
    assert not any(line.startswith("llamahost_http_responses_total{") for line in lines(second))


def test_every_request_and_every_response_is_counted_however_many_come_between_two_looks() -> None:
    metrics = Metrics()
    for n in (1, 3 * N_TOGETHER):
        for _ in range(n):
            metrics.finished(RequestRecord(model="m", kind="chat", n_prompt=2))
            metrics.responded(200)
        told = lines(metrics)
    assert f'llamahost_prompt_tokens_total{{model="m"}} {2.0 * (1 + 3 * N_TOGETHER)}' in told
    assert f'llamahost_http_responses_total{{status="200"}} {1.0 + 3 * N_TOGETHER}' in told
