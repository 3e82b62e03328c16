"""Say with a template what it cannot say by itself. Messages in, messages out; knows no Jinja.

Only what the probe found missing is rewritten; a conversation that the template can tell passes as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from llamahost.core.messages import Message, Part, Text, Tool, ToolCall
from llamahost.text.template_facts import Facts
from llamahost.text.template_tools import call_text, described, result_text

_BETWEEN = Text("\n\n")


WriteCalls = Callable[[Sequence[ToolCall]], str]
"""The calls of one turn as the model writes them."""


def in_generic_form(calls: Sequence[ToolCall]) -> str:
    return "\n".join(call_text(call.name, call.arguments) for call in calls)


def bridged(
    messages: Sequence[Message], tools: Sequence[Tool], facts: Facts, *, is_generic: bool, write_calls: WriteCalls
) -> list[Message]:
    """The conversation in turns that the template knows. Tools that it describes itself are not described here.

    In the generic form all of tools is text; in the template's own, what it cannot say of them.
    """
    turns = [message if facts.developer else _no_developer(message) for message in messages]
    turns = _named(turns)
    if is_generic or not facts.calls:
        turns = [_with_written_calls(turn, in_generic_form if is_generic else write_calls) for turn in turns]
    else:
        if not facts.parallel_calls:
            turns = list(_one_by_one(turns))
        if not facts.any_call_id:
            turns = [_with_short_ids(turn) for turn in turns]
        if not facts.calls_beside_reasoning:
            turns = [_with_content_as_reasoning(turn) for turn in turns]
    if is_generic or not facts.results:
        turns = _results_told(turns)
    if tools and (is_generic or not facts.tools):
        turns = _with_described(turns, described(tools, "" if is_generic else facts.call_example))
    if not facts.later_system:
        turns = _one_system(turns)
    if not facts.system:
        turns = _folded(turns)
    return turns if facts.repeated_roles else _merged(turns)


def _no_developer(message: Message) -> Message:
    return replace(message, role="system") if message.role == "developer" else message


def _named(turns: Iterable[Message]) -> list[Message]:
    """Results that say which function gave them: many templates ask, and OpenAI's give only the call's id."""
    names: dict[str, str] = {}
    found: list[Message] = []
    for turn in turns:
        names.update((call.id, call.name) for call in turn.tool_calls)
        if turn.role == "tool" and not turn.name and turn.tool_call_id in names:
            turn = replace(turn, name=names[turn.tool_call_id])
        found.append(turn)
    return found


def _with_written_calls(turn: Message, write_calls: WriteCalls) -> Message:
    if not turn.tool_calls:
        return turn
    calls = Text(write_calls(turn.tool_calls))
    return replace(turn, parts=(*turn.parts, _BETWEEN, calls) if turn.text else (calls,), tool_calls=())


def _results_told(turns: Iterable[Message]) -> list[Message]:
    """Results as the user's words; those that follow each other are one turn."""
    found: list[Message] = []
    is_result = False  # what was found last
    for turn in turns:
        was_result, is_result = is_result, turn.role == "tool"
        if not is_result:
            found.append(turn)
            continue
        told = Text(result_text(turn.name, turn.text))
        if was_result:
            found[-1] = replace(found[-1], parts=(*found[-1].parts, Text("\n"), told))
        else:
            found.append(Message(role="user", parts=(told,)))
    return found


def _with_described(turns: Sequence[Message], description: str) -> list[Message]:
    told = Text(description)
    if turns and turns[0].role in ("system", "developer"):
        return [replace(turns[0], parts=_joined(turns[0].parts, (told,))), *turns[1:]]
    return [Message(role="system", parts=(told,)), *turns]


def _one_by_one(turns: Sequence[Message]) -> Iterator[Message]:
    """Calls made at once as if made one after the other, each with its result behind it."""
    at = 0
    while at < len(turns):
        turn = turns[at]
        at += 1
        if len(turn.tool_calls) < 2:
            yield turn
            continue
        results: list[Message] = []
        while at < len(turns) and turns[at].role == "tool":
            results.append(turns[at])
            at += 1
        for number, call in enumerate(turn.tool_calls):
            if number == 0:
                yield replace(turn, tool_calls=(call,))
            else:
                yield Message(role="assistant", tool_calls=(call,))
            mine = [result for result in results if result.tool_call_id == call.id] or results[:1]
            for result in mine[:1]:
                results.remove(result)
                yield result
        yield from results


def _with_short_ids(turn: Message) -> Message:
    calls = tuple(ToolCall(_short_id(call.id), call.name, call.arguments) for call in turn.tool_calls)
    return replace(turn, tool_calls=calls, tool_call_id=turn.tool_call_id and _short_id(turn.tool_call_id))


def _short_id(given: str) -> str:
    """Nine letters and digits, as Mistral's templates demand; the same for the same id."""
    if len(given) == 9 and given.isascii() and given.isalnum():
        return given
    return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:9]


def _with_content_as_reasoning(turn: Message) -> Message:
    """What was said before a call, behind what was thought before it."""
    if not (turn.tool_calls and turn.reasoning and turn.text):
        return turn
    return replace(turn, parts=(), reasoning=f"{turn.reasoning}\n\n{turn.text}")


def _one_system(turns: Sequence[Message]) -> list[Message]:
    """Those at the beginning as one; the later ones as the user's, where they stand."""
    n_first = next((k for k, turn in enumerate(turns) if turn.role != "system"), len(turns))
    head = turns[:n_first]
    found: list[Message] = []
    if head:
        parts = head[0].parts
        for turn in head[1:]:
            parts = _joined(parts, turn.parts)
        found.append(replace(head[0], parts=parts))
    found += [replace(turn, role="user") if turn.role == "system" else turn for turn in turns[n_first:]]
    return found


def _folded(turns: Sequence[Message]) -> list[Message]:
    """The system's words at the beginning of the user's first."""
    if not turns or turns[0].role != "system":
        return list(turns)
    first = next((k for k, turn in enumerate(turns) if turn.role == "user"), None)
    if first != 1:  # none, or the assistant speaks first: then the user says this alone
        return [replace(turns[0], role="user"), *turns[1:]]
    user = turns[1]
    return [replace(user, parts=_joined(turns[0].parts, user.parts)), *turns[2:]]


def _merged(turns: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one turn; results of calls stay apart, since each has its id."""
    found: list[Message] = []
    for turn in turns:
        last = found[-1] if found else None
        if last is None or last.role != turn.role or turn.role == "tool" or last.tool_calls:
            found.append(turn)
            continue
        found[-1] = replace(
            last,
            parts=_joined(last.parts, turn.parts),
            tool_calls=turn.tool_calls,
            reasoning="\n\n".join(filter(None, (last.reasoning, turn.reasoning))),
        )
    return found


def _joined(first: tuple[Part, ...], second: tuple[Part, ...]) -> tuple[Part, ...]:
    return (*first, _BETWEEN, *second) if first and second else first or second
