"""Laws of the router: which models a name stands for, who is asked next, and when no more."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from llamahost.core.errors import (
    ContextTooLong,
    GenerationFailed,
    InvalidRequest,
    LlamahostError,
    LoadFailed,
    ModelNotFound,
    NotAble,
    NotBegun,
    NotRead,
    OutOfReach,
    Overloaded,
    Unavailable,
)
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Message, Text
from llamahost.core.vectors import EmbedRequest
from llamahost.fleet.routing.rates import Answered
from llamahost.fleet.routing.router import PAUSE_S
from llamahost.fleet.routing.trials import EVERY
from llamahost.fleet.settings.manifest import Manifest, ModelSpec
from llamahost.fleet.settings.route_spec import RouteSpec
from tests.fleet.fakes import spec_of
from tests.fleet.routing.router_fakes import FakeFleet, answered, request, route, router_of
from tests.on_loop import on_loop

FAILED = GenerationFailed("a step failed")


@on_loop
async def test_a_replica_that_fails_before_the_first_token_is_followed_by_another_at_once() -> None:
    fleet = FakeFleet({"m": 3})
    router = router_of(fleet, draw=lambda: pytest.fail("it paused"))  # which is drawn
    tries = await answered(router, request(), FAILED, FAILED)
    assert len(set(fleet.leased)) == 3
    assert (tries.model, tries.replica, tries.n_tries) == ("m", fleet.leased[-1], 3)


@on_loop
async def test_after_the_first_token_and_after_all_retries_the_failure_is_told() -> None:
    fleet = FakeFleet({"m": 4})
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet), request(), FAILED, begins=True)
    assert len(fleet.leased) == 1
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet, n_retries=1), request(), FAILED, FAILED, FAILED)
    assert len(fleet.leased) == 3


@pytest.mark.parametrize(
    "error", [InvalidRequest("no"), NotRead("slow"), ContextTooLong(n_prompt=9, n_ctx=8, model="m")]
)
def test_what_the_caller_alone_can_mend_is_told_at_once(error: Exception) -> None:
    @on_loop
    async def law() -> None:
        fleet = FakeFleet({"m": 2})
        with pytest.raises(type(error)):
            await answered(router_of(fleet), request(), error)
        assert len(fleet.leased) == 1

    law()


@on_loop
async def test_the_same_replica_is_asked_again_after_a_pause_and_not_beyond_the_deadline() -> None:
    fleet = FakeFleet({"m": 1})
    loop = asyncio.get_running_loop()
    began = loop.time()
    tries = await answered(router_of(fleet), request(), FAILED)
    assert loop.time() - began >= PAUSE_S / 2
    assert tries.n_tries == 2
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet), request(timeout_s=PAUSE_S / 4), FAILED)
    assert len(fleet.leased) == 3


@on_loop
async def test_all_replicas_full_is_overloaded_and_nobody_is_asked_twice() -> None:
    fleet = FakeFleet({"m": 2}, n_room={"m#0": 0, "m#1": 0})
    with pytest.raises(Overloaded):
        await answered(router_of(fleet), request())
    assert fleet.leased == []


@pytest.mark.parametrize(
    ("refusal", "later"),
    [
        (Overloaded("full", retry_after_s=1.0), Unavailable("b is loading")),
        (Unavailable("not loaded"), Unavailable("b is loading")),
        (LoadFailed("no such file"), OutOfReach("b could not be loaded")),
    ],
)
def test_a_fallback_goes_on_where_one_refuses_and_ends_with_what_the_first_said(
    refusal: LlamahostError, later: LlamahostError
) -> None:
    @on_loop
    async def law() -> None:
        fleet = FakeFleet({"a": 1, "b": 1}, refusals={"a": refusal})
        router = router_of(fleet, route("a", "b"))
        tries = await answered(router, request("r"))
        assert (tries.route, tries.model, tries.replica, tries.n_tries) == ("r", "b", "b#0", 2)
        fleet.refusals["b"] = later
        with pytest.raises(type(refusal), match=str(refusal)):
            await answered(router, request("r"))

    law()


@on_loop
async def test_a_fallback_goes_on_where_one_fails_or_has_too_short_a_context_or_cannot_do_that() -> None:
    fleet = FakeFleet({"a": 1, "b": 1})
    router = router_of(fleet, route("a", "b"))
    assert (await answered(router, request("r"), FAILED)).model == "b"
    too_long = ContextTooLong(n_prompt=9, n_ctx=8, model="a")
    assert (await answered(router, request("r"), too_long)).model == "b"
    assert (await answered(router, request("r"), NotAble("a does not embed"))).model == "b"
    assert fleet.leased == ["a#0", "b#0"] * 3
    with pytest.raises(NotAble, match="a does"):
        await answered(router, request("r"), NotAble("a does not embed"), NotAble("b does not, either"))


@on_loop
async def test_every_model_of_a_route_is_asked_once_though_the_retries_are_spent_on_one_before_it() -> None:
    fleet = FakeFleet({"a": 3, "b": 2, "c": 1})
    tries = await answered(router_of(fleet, route("a", "b", "c")), request("r"), *[FAILED] * 4)
    assert ([id_[0] for id_ in fleet.leased], tries.n_tries) == (["a", "a", "a", "b", "c"], 5)
    fleet.leased.clear()
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet, route("a", "b", "c"), n_retries=0), request("r"), *[FAILED] * 9)
    assert [id_[0] for id_ in fleet.leased] == ["a", "b", "c"]
    fleet.leased.clear()
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet), request("auto"), *[FAILED] * 9)
    assert len(fleet.leased) == 3, "nobody named the others"


@on_loop
async def test_who_could_have_answered_is_heard_before_who_cannot() -> None:
    fleet = FakeFleet({"a": 1, "b": 1, "c": 1}, refusals={"b": Unavailable("b is loading")})
    router = router_of(fleet, route("a", "b", "c"))
    too_long = ContextTooLong(n_prompt=9, n_ctx=8, model="c")
    with pytest.raises(Unavailable, match="b is"):
        await answered(router, request("r"), NotAble("a does not embed"), too_long)
    fleet.refusals["c"] = Overloaded("c is full", retry_after_s=1.0)
    with pytest.raises(Overloaded, match="c is"):
        await answered(router, request("r"), NotAble("a does not embed"))
    del fleet.refusals["c"]
    fleet.refusals["b"] = OutOfReach("b could not be loaded")
    with pytest.raises(ContextTooLong):
        await answered(router, request("r"), NotAble("a does not embed"), too_long)
    fleet.refusals["b"] = NotAble("b does not, either")
    with pytest.raises(ContextTooLong, match="`c`, 8"):
        await answered(router, request("r"), ContextTooLong(n_prompt=9, n_ctx=4, model="a"), too_long)


@on_loop
async def test_two_failures_spare_a_replica_until_a_probe_closes_its_breaker() -> None:
    for breaker_s, next_ones in ((60.0, ["m#1", "m#1"]), (0.0, ["m#0", "m#0"])):
        fleet = FakeFleet({"m": 2}, in_flight={"m#1": 1})  # so that the first is the one to be asked
        router = router_of(fleet, breaker_s=breaker_s)
        for _ in range(2):
            assert (await answered(router, request(), FAILED)).replica == "m#1"
        fleet.leased.clear()
        assert (await answered(router, request())).n_tries == 1
        await answered(router, request())
        assert fleet.leased == next_ones


@on_loop
async def test_a_probe_that_answers_spares_its_replica_no_longer() -> None:
    fleet = FakeFleet({"m": 2}, in_flight={"m#1": 1})
    router = router_of(fleet, breaker_s=0.0)
    for _ in range(2):
        await answered(router, request(), FAILED)
    probe = router.tries(request(), "chat", 1)
    async with probe:
        assert probe.replica == "m#0"
        assert (await answered(router, request())).replica == "m#1"
        probe.begin()
        assert (await answered(router, request())).replica == "m#0"


@on_loop
async def test_a_conversation_goes_where_it_was_and_a_question_about_it_does_not_move_it() -> None:
    fleet = FakeFleet({"m": 2})
    router = router_of(fleet)
    first = await answered(router, request(text="x" * 2000, session_id="chat"))
    fleet.in_flight[first.replica] = 1
    messages = (*request(text="x" * 2000).messages, Message(role="assistant", parts=(Text("y"),)))
    second = ChatRequest(messages=(*messages, *request().messages), model="m", generation=Generation(session_id="chat"))
    assert (await answered(router, second)).replica == first.replica
    title = await answered(router, request(text="A title for this chat, please.", user="", session_id="chat"))
    assert title.is_aside
    assert not first.is_aside
    assert (await answered(router, second)).replica == first.replica


@on_loop
async def test_a_conversation_that_another_model_of_its_route_answers_has_its_home_there() -> None:
    fleet = FakeFleet({"a": 1, "b": 3})
    router = router_of(fleet, route("a", "b"))
    first = await answered(router, request("r", session_id="chat"), FAILED)
    assert first.model == "b"
    fleet.in_flight[first.replica] = 1
    assert (await answered(router, request("b", session_id="chat"))).replica == first.replica
    assert (await answered(router, request("b", session_id="other"))).replica != first.replica


@on_loop
async def test_no_name_and_auto_stand_for_whoever_can_and_is_least_busy() -> None:
    def card(generates: bool = True, pooling: str | None = None, fills_in: bool = False) -> Any:
        return SimpleNamespace(generates=generates, has_chat_template=True, pooling=pooling, fills_in=fills_in)

    fleet = FakeFleet(
        {"vectors": 1, "ranks": 1, "busy": 1, "free": 1, "later": 1},
        cards={
            "vectors": card(generates=False, pooling="mean"),
            "ranks": card(generates=False, pooling="rank"),
            "busy": card(fills_in=True),
            "free": card(),
        },
        loading={"later"},
        in_flight={"busy": 3},
    )
    router = router_of(fleet)
    assert (await answered(router, request(""))).model == "free"
    assert (await answered(router, request("Auto"), kind="completion")).model == "free"
    gap = CompletionRequest(prompts=("def f(",), suffix="):")
    assert (await answered(router, gap, kind="completion")).model == "busy", "the other one does not fill in"
    assert (await answered(router, request(""), kind="embedding")).model == "vectors"
    assert (await answered(router, request("auto"), kind="rerank")).model == "ranks"
    fleet.in_flight = {"busy": 3, "free": 4}
    assert (await answered(router, request(""))).model == "busy", "the other one has no slot left"
    fleet.loading = set(fleet.n_replicas)
    assert (await answered(router, request(""))).model == "busy", "the first that may come to answer"
    fleet.unloaded, fleet.loading = set(fleet.n_replicas), set()
    assert (await answered(router, request(""))).model == "busy", "what embeds alone is loaded for no chat"
    fleet.cards["busy"].has_chat_template = False
    assert (await answered(router, request(""))).model == "free"


@on_loop
async def test_nothing_is_loaded_for_no_name_while_another_is_there_or_on_its_way() -> None:
    fleet = FakeFleet({"later": 1, "coming": 1}, loading={"coming"}, unloaded={"later"})
    fleet.refusals["coming"] = Unavailable("it loads")
    router = router_of(fleet, n_retries=0)
    with pytest.raises(Unavailable, match="it loads"):
        await answered(router, request(""))
    fleet.unloaded.add("coming")
    fleet.loading.clear()
    assert (await answered(router, request(""))).model == "later"


@on_loop
async def test_where_no_model_does_what_is_asked_for_that_is_said() -> None:
    fleet = FakeFleet({"a": 1, "b": 1}, tasks={"a": "chat", "b": "embedding"})
    router = router_of(fleet)
    with pytest.raises(ModelNotFound, match=r"^no model here scores documents$"):
        router.tries(request("auto"), "rerank", 1)
    assert (await answered(router, request(""), kind="completion")).model == "a", "which may yet be loaded"


@on_loop
async def test_a_replica_that_stalls_is_spared_and_a_model_that_stalls_falls_back() -> None:
    fleet = FakeFleet({"a": 2, "b": 1}, stalled={"a#0"})
    router = router_of(fleet, route("a", "b"))
    assert (await answered(router, request("r"))).replica == "a#1"
    fleet.stalled |= {"a#1"}
    assert (await answered(router, request("r"))).replica == "b#0"
    assert (await answered(router, request("a"))).replica in fleet.stalled, "there is nobody else"


@on_loop
async def test_a_route_looks_at_no_other_models_of_which_there_may_be_thousands() -> None:
    class Thousands(FakeFleet):
        def seen(self) -> NoReturn:
            pytest.fail("all of them are looked at")

    router = router_of(Thousands({"a": 1, "b": 1, "c": 1}), route("b", "a", strategy="balanced"))
    tries = router.tries(request("r"), "chat", 1)
    async with tries:
        assert tries.model == "b"
        assert tries.may_go(False)


@on_loop
async def test_no_more_may_go_than_there_is_room_for_and_who_went_did_no_work() -> None:
    fleet = FakeFleet({"a": 1, "b": 1}, n_room={"b#0": 2})
    router = router_of(fleet, route("a", "b"))
    tries = [router.tries(request("r"), "chat", 1) for _ in range(4)]
    for each in tries:
        await each.__aenter__()
    assert [each.may_go(False) for each in tries] == [True, True, False, False]
    for each in tries[:2]:
        assert await each.__aexit__(NotBegun, NotBegun("it waits"), None)
    assert router.ledger._known["a#0"].work == 0.0
    fleet.n_room["b#0"] = 1
    assert [each.may_go(False) for each in tries[2:]] == [True, False], "those two are there by now"
    for each in tries[2:]:
        assert not await each.__aexit__(None, None, None)
    assert not +router.going, "it was answered after all"
    assert router.ledger._known["a#0"].work > 0.0


@on_loop
async def test_nobody_goes_from_where_it_waits_to_that_very_replica_or_to_one_that_fails() -> None:
    fleet = FakeFleet({"m": 2})
    router = router_of(fleet, breaker_failures=1, n_retries=1)
    assert (await answered(router, request("m"), FAILED)).replica == "m#1"
    tries = router.tries(request("m"), "chat", 1)
    assert (await tries.__aenter__()).id == "m#1"  # type: ignore[attr-defined]
    assert not tries.may_go(True)
    await tries.__aexit__(None, None, None)


@on_loop
async def test_what_left_the_manifest_is_forgotten() -> None:
    fleet = FakeFleet({"a": 1, "b": 1})
    router = router_of(fleet)
    for name in ("a", "b"):
        (await answered(router, request(name))).learn(Answered(n_generated=9, generation_s=1.0, total_s=1.0))
    router.adopt(Manifest(models=(spec_of("b"),)))
    assert router.views.keys() == {"b"}
    assert (router.rates.of("a").answer_s, router.rates.of("b").answer_s) == (0.0, 1.0)


@on_loop
async def test_unknown_names_are_told_with_the_nearest_and_known_ones_are_forgiving() -> None:
    router = router_of(
        FakeFleet({"qwen3-8b": 1, "gemma": 1}), RouteSpec(name="chat", models=("gemma",), aliases=("gpt-*",))
    )
    with pytest.raises(ModelNotFound, match="did you mean `qwen3-8b`"):
        router.tries(request("qwen3-9b"), "chat", 1)
    for name, model in (("Qwen3:8B", "qwen3-8b"), ("gpt-4o", "gemma"), ("chat", "gemma")):
        assert (await answered(router, request(name))).model == model
    assert router.named("gpt-4o") == "gemma"


@on_loop
async def test_the_name_of_a_model_that_is_gone_is_not_forgiven_into_that_of_another() -> None:
    def manifest(paths: dict[str, str]) -> Manifest:
        return Manifest(models=tuple(ModelSpec(name=name, path=Path(path)) for name, path in paths.items()))

    fleet = FakeFleet({"m": 1})
    router = router_of(fleet)

    def meant(name: str) -> str | None:
        try:
            return router.named(name)
        except ModelNotFound:
            return None

    router.adopt(manifest({"m": "a/m", "0/m": "0/m", "z": "z"}))
    assert (meant("m"), meant("0/m"), meant("x/m"), meant("0/M")) == ("m", "0/m", None, "0/m")
    router.adopt(manifest({"m": "a/m", "z": "z"}))
    assert (meant("m"), meant("x/m")) == ("m", "m")
    assert meant("0/m") is meant("0/M") is None, "it was another's, and is not this one's now"
    router.adopt(manifest({"m": "other", "0/m": "new", "z": "z"}))
    assert (meant("m"), meant("0/m")) == ("m", "0/m"), "which the manifest says"


@on_loop
async def test_speed_learns_and_a_split_sticks() -> None:
    fleet = FakeFleet({"a": 1, "b": 1})
    router = router_of(fleet, route("a", "b", strategy="speed"))
    for name, generation_s in (("a", 4.0), ("b", 1.0)):
        tries = await answered(router, request(name))
        tries.learn(Answered(n_generated=101, generation_s=generation_s, total_s=generation_s))
    asked = 7 * EVERY * 3  # of the three times longer that "a" takes
    models = [(await answered(router, request("r"))).model for _ in range(asked)]
    assert models.count("a") == 7, "it is tried anew, and costs no more than it may"
    split = router_of(fleet, route("a", "b", strategy="split"))
    for user in map(str, range(8)):
        first = (await answered(split, request("r", user=user))).model
        assert all([(await answered(split, request("r", user=user))).model == first for _ in range(3)])
        texts = EmbedRequest(inputs=("a",), model="r", user=user)
        assert split.tries(texts, "embedding", 1).model == first, "vectors of two models are not to be compared"


@on_loop
async def test_a_priority_and_a_deadline_reach_the_fleet() -> None:
    fleet = FakeFleet({"m": 1})
    clock = asyncio.get_running_loop().time
    before = clock()
    await answered(router_of(fleet), request(priority=3, timeout_s=5.0, waits=False))
    assert (fleet.wants.priority, fleet.wants.waits) == (3, False)
    assert fleet.wants.deadline is not None
    assert before + 5.0 <= fleet.wants.deadline <= clock() + 5.0


@on_loop
async def test_while_draining_nobody_is_tried_again() -> None:
    fleet = FakeFleet({"m": 2}, is_draining=True)
    with pytest.raises(GenerationFailed):
        await answered(router_of(fleet), request(), FAILED)
    assert len(fleet.leased) == 1
