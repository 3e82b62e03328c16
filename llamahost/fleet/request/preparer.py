"""Words to tokens: a request becomes the jobs that compute it and the replies that tell it. Knows no thread, no slot.

Nothing is cut silently: what does not fit, or is not served yet, is refused with the field that asks for it.
"""

from __future__ import annotations

import copy
import itertools
import math
import secrets
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import ContextTooLong, InvalidRequest, TemplateFailed
from llamahost.core.messages import ChatRequest, CompletionRequest, Generation, Snippet, Text, Tool
from llamahost.core.sampling import Sampling, SamplingOptions
from llamahost.core.work import Job, Tokens
from llamahost.fleet.request.forms import AnswerForm, Forms
from llamahost.fleet.request.infill import N_ANSWER, around, behind_a_mark, filled_in, marks_of
from llamahost.fleet.request.known import beginning, check_known, given_ids, spelling
from llamahost.fleet.request.prepared import Prepared
from llamahost.text.constraint import Compile
from llamahost.text.echo import Echo, scored_echo
from llamahost.text.formats.format import PLAIN, Asked, Format
from llamahost.text.formats.table import format_of
from llamahost.text.remembered import Heard, Remembered
from llamahost.text.reply import Reply
from llamahost.text.template import Template

MAX_ANSWERS = 1024
"""Of one request: prompts times n."""

MAX_SCORES = 2**21
"""Logprobs that a request may ask for of its prompts' tokens: each is held, at some 200 bytes, until it is told."""

_job_ids = itertools.count(1)


class Preparer:
    """Turns requests for one model into jobs. Never changes; may be called in several threads at once, off the loop.

    `template_error` says why there is no template; then completions are served and chats refused. `defaults` are the
    model's own sampling, below what the manifest and a request give. `compiles` raises InvalidRequest on a
    grammar that cannot be followed, and has it ready for the job; without it no form of output is served.
    """

    __slots__ = (
        "_bos", "_defaults", "_draw_seed", "_formats", "_forms", "_most", "_n_most", "_own", "_template",
        "_template_error", "model", "n_ctx", "vocabulary",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        n_ctx: int,
        vocabulary: Vocabulary,
        template: Template | None,
        template_error: str = "",
        defaults: Sampling | None = None,
        compiles: Compile | None = None,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(32),
    ) -> None:
        self.model = model
        self.n_ctx = n_ctx
        self.vocabulary = vocabulary
        self._template = template
        self._template_error = template_error or f"`{model}` has no chat template"
        self._own = defaults or Sampling()
        self._set({}, {})
        self._draw_seed = draw_seed
        self._bos = spelling(vocabulary, vocabulary.bos)
        self._formats = {
            has_tools: PLAIN if template is None else _format(template.chosen(has_tools=has_tools), has_tools=has_tools)
            for has_tools in (False, True)
        }
        self._forms = Forms(vocabulary, compiles)

    def _set(self, sampling: SamplingOptions, most: Mapping[str, float]) -> None:
        self._defaults = self._own.with_options(sampling)
        self._most, self._n_most = most, int(most.get("max_tokens", 2**31))

    def with_sampling(self, sampling: SamplingOptions, most: Mapping[str, float]) -> Preparer:
        """The same, memory of prompts among it, with these above the model's own. Raises InvalidRequest."""
        other = copy.copy(self)
        other._set(sampling, most)
        return other

    @property
    def heard(self) -> Heard:
        """What the memory of prompts was good for."""
        return self.vocabulary.heard if isinstance(self.vocabulary, Remembered) else Heard()

    def chat(self, request: ChatRequest) -> Prepared:
        """Raises InvalidRequest, TemplateFailed or ContextTooLong."""
        prompt = self.render(request)
        tools = _callable(request)
        format_ = self._formats[bool(tools)]
        named = [tool for tool in tools if tool.name == request.tool_choice]
        asked = Asked(
            tools=tuple(named) or tools,
            n_calls=1 if named else request.n_calls,
            tells_thoughts=request.tells_reasoning,
            may_think=request.thinking is not False,
            is_thinking=request.continued == "reasoning"
            or (request.continued == "no" and format_.begins_thinking(prompt)),
        )
        form = self._forms.chat(request, format_, asked)
        return self._prepared([self.encode(prompt)], request.generation, "messages", form)

    def complete(self, request: CompletionRequest) -> Prepared:
        """Raises InvalidRequest or ContextTooLong."""
        form = AnswerForm(self._forms.words(request.output))
        if len(request.prompts) * request.generation.n > MAX_ANSWERS:
            raise InvalidRequest(f"at most {MAX_ANSWERS} answers (prompts times n) in one request", param="prompt")
        if request.snippets is not None:
            return self._infill(request, request.snippets, form)
        if request.suffix:
            prompts = [self._around(p, request.suffix) for p in request.prompts]
        else:
            prompts = [self.encode(p) if isinstance(p, str) else given_ids(self.vocabulary, p) for p in request.prompts]
        if request.n_prompt_logprobs is not None:
            n_scores = sum(map(len, prompts)) * request.generation.n * (1 + request.n_prompt_logprobs)
            if n_scores > MAX_SCORES:
                raise InvalidRequest(
                    f"the logprobs of the prompts' tokens would be {n_scores} (tokens times answers times likeliest), "
                    f"and at most {MAX_SCORES} are told at once: ask for fewer of them, or in several requests",
                    param="logprobs",
                )
        return self._prepared(prompts, request.generation, "prompt", form, request)

    def render(self, request: ChatRequest) -> str:
        """The text that the model is to continue. Raises InvalidRequest, TemplateFailed."""
        if self._template is None:
            raise TemplateFailed(self._template_error, param="messages")
        for k, message in enumerate(request.messages):
            for part in message.parts:
                if not isinstance(part, Text):
                    raise InvalidRequest(
                        "images and audio are not supported by this version", param=f"messages[{k}].content"
                    )
        tools = _callable(request)
        return self._template.chosen(has_tools=bool(tools)).render(
            request.messages,
            tools=tools,
            thinking=request.thinking,
            continued=request.continued,
            options=request.template_options,
        )

    def encode(self, text: str) -> Tokens:
        """The tokens of a whole prompt. A beginning-of-text that stands there already is not put there twice."""
        has_bos = self.vocabulary.adds_bos and bool(self._bos) and text.startswith(self._bos)
        return self.vocabulary.encode(text, add_special=not has_bos, parse_special=True)

    def _infill(self, request: CompletionRequest, snippets: Sequence[Snippet], form: AnswerForm) -> Prepared:
        """One gap, with as much around it as there is room for."""
        prefix = request.prompts[0]
        assert isinstance(prefix, str), "code is given as text"
        n_answer = request.generation.max_tokens
        n_room = self.n_ctx - (min(N_ANSWER, self.n_ctx // 4) if n_answer is None else n_answer)
        found = filled_in(self.vocabulary, prefix, request.suffix, snippets, n_room=n_room, model=self.model)
        prepared = self._prepared([found.tokens], request.generation, "input_prefix", form, request)
        for reply in prepared.replies:
            reply.is_cut = found.is_cut
        return prepared

    def _around(self, prefix: str | Sequence[int], suffix: str) -> Tokens:
        """In the order that the model was trained in. What is text in them stays text."""
        vocabulary = self.vocabulary
        marks = marks_of(vocabulary, self.model, "suffix")
        begin = array("i", [vocabulary.bos] if vocabulary.adds_bos and vocabulary.bos >= 0 else [])
        if isinstance(prefix, str):
            head = vocabulary.encode(prefix, add_special=False, parse_special=False)
        else:
            head = given_ids(self.vocabulary, prefix)
        return begin + around(marks, head, behind_a_mark(vocabulary, suffix))

    def _echo(self, request: CompletionRequest, number: int, tokens: Tokens) -> Echo | None:
        """What is told again of this prompt, whose tokens these are; nothing of what was put around it."""
        prompt = request.prompts[number]
        given = prompt if isinstance(prompt, str) else None
        if request.n_prompt_logprobs is not None:
            return scored_echo(self.vocabulary, tokens, given, is_shown=request.echo)
        if not request.echo:
            return None
        if given is None:
            given = self.vocabulary.decode(array("i", prompt)).decode("utf-8", "replace")  # type: ignore[arg-type] # tokens
        return Echo(given)

    def _prepared(
        self,
        prompts: Sequence[Tokens],
        generation: Generation,
        param: str,
        form: AnswerForm,
        request: CompletionRequest | None = None,
    ) -> Prepared:
        if (form.constraint is not None or form.thoughts is not None) and generation.is_post_sampling:
            raise InvalidRequest(
                "what the samplers left is not told of an answer in a form, or with a budget for reasoning",
                param="post_sampling_probs",
            )
        sampling = self._sampling(generation)
        end_ids = self._end_ids(generation)
        seed = sampling.seed if sampling.seed is not None else self._draw_seed()
        jobs: list[Job] = []
        replies: list[Reply] = []
        for number, prompt in enumerate(prompts):
            tokens = prompt or beginning(self.vocabulary, param)
            n_max = self._n_answer(tokens, generation, param)
            echo = self._echo(request, number, tokens) if request else None
            for k in range(generation.n):
                # A seed that was asked for gives each prompt the same answers wherever it stands; one drawn differs.
                offset = k if sampling.seed is not None else len(jobs)
                job = Job(
                    id=next(_job_ids),
                    tokens=tokens,
                    n_max=n_max,
                    sampling=sampling.with_seed((seed + offset) % 2**32),
                    end_ids=end_ids,
                    n_logprobs=generation.n_logprobs,
                    n_prompt_logprobs=request.n_prompt_logprobs if request else None,
                    is_post_sampling=generation.is_post_sampling,
                    tells_progress=generation.tells_progress,
                    constraint=form.constraint,
                    thoughts=form.thoughts,
                    priority=generation.priority,
                )
                reply = Reply(
                    len(replies),
                    model=self.model,
                    n_prompt=len(tokens),
                    vocabulary=self.vocabulary,
                    stop=generation.stop,
                    splitter=form.new_splitter(),
                    markers=form.markers,
                    echo=echo,
                    line_limit_s=generation.line_limit_s,
                    least_indent=generation.least_indent,
                    tells_progress=generation.tells_progress,
                    tells_timings=generation.tells_timings,
                )
                jobs.append(job)
                replies.append(reply)
        return Prepared(tuple(jobs), tuple(replies))

    def _n_answer(self, tokens: Tokens, generation: Generation, param: str) -> int:
        """Tokens that the answer may have at most. Raises ContextTooLong."""
        n_rest = self.n_ctx - len(tokens)
        if n_rest < (0 if generation.max_tokens == 0 else 1):  # an answer has at least one token, if it may
            raise ContextTooLong(n_prompt=len(tokens), n_ctx=self.n_ctx, model=self.model, param=param)
        return min(n_rest if generation.max_tokens is None else generation.max_tokens, n_rest, self._n_most)

    def _end_ids(self, generation: Generation) -> frozenset[int]:
        if generation.stop_ids:
            check_known(self.vocabulary, generation.stop_ids, "stop_token_ids")
        own = frozenset() if generation.ignore_eos else self.vocabulary.end_ids
        return own | frozenset(generation.stop_ids)

    def _sampling(self, generation: Generation) -> Sampling:
        try:
            sampling = self._defaults.with_options(generation.sampling)
        except TypeError as error:  # a program's mistake: a name or a type that Sampling does not have
            raise InvalidRequest(f"sampling: {error}") from error
        if sampling.logit_bias:
            check_known(self.vocabulary, (token for token, _ in sampling.logit_bias), "logit_bias")
        if generation.ignore_eos:
            banned = tuple((token, -math.inf) for token in sorted(self.vocabulary.end_ids))
            kept = tuple((token, bias) for token, bias in sampling.logit_bias if token not in self.vocabulary.end_ids)
            sampling = replace(sampling, logit_bias=kept + banned)
        self._check_most(sampling)
        return sampling

    def _check_most(self, sampling: Sampling) -> None:
        """What the manifest bounds; the model's own defaults are not the request's mistake."""
        for name, most in self._most.items():
            value = getattr(sampling, name, 0)
            if value == getattr(self._defaults, name, 0):
                continue
            if value > most or (name == "top_k" and value <= 0):  # which takes all
                raise InvalidRequest(f"{name} must be at most {most:g} for `{self.model}`, not {value}", param=name)


def _format(template: Template, *, has_tools: bool) -> Format:
    """Where the template itself has no place for tools, they are described and called in the generic form."""
    return format_of(template.source, is_native=not has_tools or template.facts.native_tools)


def _callable(request: ChatRequest) -> tuple[Tool, ...]:
    """The tools that the model is told of; with the choice `none` it hears of none, and none is read of its answer."""
    return () if request.tool_choice == "none" else request.tools
