"""/health and /ready: whether to restart, and whether to send requests."""

from __future__ import annotations

import pytest

from llamahost.api.app import create_app
from llamahost.host import ModelStatus
from tests.api.fakes import READY, FakeHost, app_of, client_of, run

LOADING = ModelStatus(name="big", aliases=("large",), state="loading", progress=0.25)
FAILED = ModelStatus(name="broken", state="failed", reason="corrupt")


@pytest.mark.parametrize(
    ("host", "single", "several", "told"),
    [
        (FakeHost(statuses=(READY,)), 200, 200, "ok"),
        (FakeHost(statuses=(LOADING,)), 503, 200, "degraded"),
        (FakeHost(statuses=(READY, FAILED)), 200, 200, "degraded"),
        (FakeHost(statuses=(LOADING, FAILED)), 503, 200, "degraded"),
        (FakeHost(statuses=(FAILED,)), 503, 503, "unavailable"),
        (FakeHost(statuses=()), 503, 503, "unavailable"),
        (FakeHost(is_stalled=True), 503, 503, "unavailable"),
        (FakeHost(is_draining=True), 503, 503, "unavailable"),
    ],
    ids=["ready", "loading", "one failed", "one may come", "all failed", "none", "stalled", "draining"],
)
def test_a_manifest_is_well_while_something_can_come_to_answer(
    host: FakeHost, single: int, several: int, told: str
) -> None:
    async def law() -> None:
        async with client_of(create_app(host)) as client:
            assert (await client.get("/health")).status_code == single
        async with client_of(create_app(host, from_manifest=True)) as client:
            response = await client.get("/health")
            assert (response.status_code, response.json()["status"]) == (several, told)

    run(law)


def test_a_degraded_server_names_the_models_that_lack_and_why() -> None:
    async def law() -> None:
        host = FakeHost(statuses=(READY, LOADING, FAILED))
        async with client_of(create_app(host, from_manifest=True)) as client:
            assert (await client.get("/health")).json() == {
                "status": "degraded",
                "models": {
                    "big": {"state": "loading", "progress": 0.25},
                    "broken": {"state": "failed", "reason": "corrupt"},
                },
            }

    run(law)


@pytest.mark.parametrize("path", ["/ready", "/readiness"])
def test_one_model_is_asked_for_by_name_or_alias(path: str) -> None:
    async def law() -> None:
        host = FakeHost(statuses=(READY, LOADING, FAILED))
        async with client_of(app_of(host, api_key="sesame")) as client:
            everyone = await client.get(path)
            assert everyone.status_code == 200
            assert set(everyone.json()["models"]) == {"tiny", "big", "broken"}
            for name in ("tiny", "small"):
                one = await client.get(path, params={"model": name})
                assert (one.status_code, one.json()["models"]) == (200, {"tiny": {"state": "ready"}})
            late = await client.get(path, params={"model": "large"})
            assert late.status_code == 503
            assert late.json()["error"]["message"] == "big: loading, 25%"
            assert (await client.get(path, params={"model": "broken"})).status_code == 503
            missing = await client.get(path, params={"model": "brokn"})
            assert missing.status_code == 404
            assert "broken" in missing.json()["error"]["message"]
            host.is_stalled = True
            assert (await client.get(path, params={"model": "tiny"})).status_code == 503

    run(law)
