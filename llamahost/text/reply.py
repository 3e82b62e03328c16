"""Tokens in, events out: one answer's emissions become Started, Delta … Finished. Knows no HTTP, no clock, no engine.

Laws: Started comes with the first token, with the first news of the prompt, or with the end. Every Delta's text is
valid UTF-8 by itself, no part of a stop string is ever in one, and no control token but where its splitter asked for it
and found it to mark nothing. The `n_tokens` of all Deltas add up to `usage.n_generated`, which counts to the token that
completes the stop, or to the hidden token that ended the generation. Logprobs come with the Delta that accounts for
their token; those of tokens that show nothing of themselves before a stop are not told. The echo of the prompt comes
between Started and the first Delta: at once and as it is, or, where its tokens are scored, in pieces that are the whole
when they are put together, each with its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamahost.core.backend import Vocabulary
from llamahost.core.errors import GenerationFailed
from llamahost.core.events import (
    Delta,
    Echoed,
    Event,
    Finished,
    Likely,
    Measured,
    Progress,
    PromptLogprob,
    Reason,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from llamahost.core.work import Emission, RowLogprobs, Times
from llamahost.text.echo import Echo
from llamahost.text.indent import Indent
from llamahost.text.splitter import PlainSplitter, Segment, Splitter, joined
from llamahost.text.stops import StopStrings
from llamahost.text.utf8 import Utf8

_new = tuple.__new__  # a named tuple by its own constructor takes twice as long


class Reply:
    """Owned by the event loop. One answer; `feed` it every emission of its job, in order, until it `is_finished`.

    A stop string, or a splitter that is done, ends the answer while the job still runs: whoever feeds must then abort
    the job. `markers` are the control tokens that the splitter asks for, by how they are spelled to it.
    """

    __slots__ = (
        "_echo",
        "_indent",
        "_is_control",
        "_is_cut",
        "_is_plain",
        "_is_quick",
        "_line_limit_s",
        "_logprobs",
        "_markers",
        "_n_cached",
        "_n_decoded",
        "_n_echoed",
        "_n_generated",
        "_n_reasoning",
        "_n_shown",
        "_n_told",
        "_pieces",
        "_splitter",
        "_stops",
        "_tells_progress",
        "_tells_timings",
        "_times",
        "_utf8",
        "index",
        "is_cut",
        "is_finished",
        "is_started",
        "model",
        "n_prompt",
    )

    def __init__(
        self,
        index: int,
        *,
        model: str,
        n_prompt: int,
        vocabulary: Vocabulary,
        stop: tuple[str, ...] = (),
        splitter: Splitter | None = None,
        markers: Mapping[int, str] | None = None,
        echo: Echo | None = None,
        line_limit_s: float | None = None,
        least_indent: int = 0,
        tells_progress: bool = False,
        tells_timings: bool = False,
    ) -> None:
        self.index = index
        self.model = model
        self.n_prompt = n_prompt
        self.is_started = False
        self.is_cut = False  # as whoever prepares it says
        self.is_finished = False
        self._echo = echo  # None once it is told whole
        self._n_echoed = 0  # tokens of it that were told
        self._line_limit_s = line_limit_s
        self._indent = Indent(least_indent) if least_indent > 0 else None
        self._is_cut = False  # ended with a line, since it took too long, or where a line left the block
        self._tells_progress = tells_progress  # False once the prompt is computed
        self._tells_timings = tells_timings
        self._pieces, self._is_control = vocabulary.pieces, vocabulary.is_control
        self._utf8 = Utf8()
        self._stops = StopStrings(stop) if stop else None
        self._splitter: Splitter = splitter or PlainSplitter()
        self._is_plain = splitter is None
        self._is_quick = False  # set as soon as it is seen that it may be, until the end
        self._markers = markers or {}
        self._n_cached = 0
        self._n_generated = 0
        self._n_told = 0  # tokens that a Delta has accounted for; those in [n_told, n_generated) go with the next
        self._n_reasoning = 0
        self._n_decoded = 0  # characters that came, counted where logprobs want to know it
        self._n_shown = 0  # of these, how many are surely no part of a stop
        self._logprobs: list[tuple[int, TokenLogprob]] = []  # not told yet, each with the place where its text begins
        self._times = Times()

    @property
    def n_generated(self) -> int:
        """Tokens so far, as they will be counted in `usage`."""
        return self._n_generated

    def feed(self, emission: Emission) -> list[Event]:
        """The events that this emission makes; none once finished. Raises GenerationFailed if the job failed."""
        if not self._is_quick or emission.finish is not None or emission.logprobs:
            return self._feed(emission)
        # What nearly every call is, kept short: plain text that goes on.
        tokens, pieces, is_control = emission.tokens, self._pieces, self._is_control
        self._n_generated = n = self._n_generated + len(tokens)
        data = b""
        for token in tokens:  # few; to join a list of them takes a function and three objects more
            if not is_control[token]:
                data += pieces[token]
        text = self._utf8.feed(data)
        if not text:
            return []
        n_told, self._n_told = self._n_told, n
        return [_new(Delta, (self.index, text, "text", "", "", n - n_told, (), None))]

    def _feed(self, emission: Emission) -> list[Event]:
        if self.is_finished:
            return []
        finish = emission.finish
        if finish == "failed":
            raise GenerationFailed(emission.error or "the generation failed")
        if emission.n_cached:
            self._n_cached = emission.n_cached
        if emission.times != _NO_TIMES:
            self._times = emission.times
        events: list[Event] = []
        if not self.is_started and (emission.tokens or emission.prompt_logprobs or emission.n_processed or finish):
            self.is_started = True
            events.append(Started(self.index, self.model, self.n_prompt, self._n_cached, is_cut=self.is_cut))
            if self._tells_progress:
                events.append(Progress(self.index, self.n_prompt, self._n_cached, self._n_cached, 0.0))
        if self._tells_progress and self.is_started:
            events += self._progress(emission)
        if self._echo is not None and self.is_started:
            events += self._echoed(self._echo, emission.prompt_logprobs)
        if not self._is_quick:
            self._is_quick = self._may_be_quick()

        segments, stop = self._read(emission.tokens, emission.logprobs)
        is_last = stop is not None or finish is not None or self._splitter.is_done or self._is_cut
        if is_last and stop is None and not self._splitter.is_done:
            if not self._is_cut:
                self._n_generated += emission.n_hidden
            tail, stop = self._end_of_text()
            segments += self._split(tail)
        if is_last:
            segments += self._splitter.flush()
        self._tell(events, segments, is_last=is_last, is_stopped=stop is not None)
        if is_last:
            self.is_finished, self._is_quick = True, False
            reason: Reason = "stop" if stop is not None or self._splitter.is_done or finish is None else finish
            if self._is_cut and stop is None:
                reason = "length"
            if reason == "stop" and self._splitter.n_calls:
                reason = "tool"
            now = self._measured()
            events.append(Finished(self.index, reason, now.usage, now.timings, stop or ""))
        return events

    def _may_be_quick(self) -> bool:
        """Nothing but text is asked for from here on."""
        is_told = self.is_started and self._echo is None and not self._tells_progress and not self._tells_timings
        is_plain = self._is_plain and not self._markers
        ends_itself = self._stops is not None or self._line_limit_s is not None or self._indent is not None
        return is_told and is_plain and not ends_itself

    def _measured(self) -> Measured:
        usage = Usage(self.n_prompt, self._n_cached, self._n_generated, self._n_reasoning)
        return Measured(usage, _timings(self._times))

    def _progress(self, emission: Emission) -> list[Event]:
        """The last comes with the first token."""
        n_processed = emission.n_processed
        if emission.tokens or emission.finish is not None:
            self._tells_progress = False
            n_processed = self.n_prompt if emission.finish != "cancelled" else 0
        if not n_processed:
            return []
        elapsed_s = (self._times.first or self._times.last) - self._times.admitted
        return [Progress(self.index, self.n_prompt, self._n_cached, n_processed, elapsed_s)]

    def _echoed(self, echo: Echo, rows: tuple[RowLogprobs, ...]) -> list[Event]:
        """The next piece of the echo: all of it, or as many tokens as there are rows, and the first, which has none."""
        begin, n_tokens = self._n_echoed, len(echo.tokens)
        if n_tokens == 0:
            self._echo = None
            return [Echoed(self.index, echo.text)] if echo.text else []
        end = begin + len(rows) + (begin == 0)
        if end == begin:
            return []
        self._n_echoed = end
        if end == n_tokens:
            self._echo = None  # it may be long
        pieces, offsets = self._pieces, echo.offsets
        told = [] if begin else [PromptLogprob(echo.tokens[0], pieces[echo.tokens[0]], 0, None)]
        for k, row in enumerate(rows, max(begin, 1)):
            token = echo.tokens[k]
            told.append(PromptLogprob(token, pieces[token], offsets[k], row.logprob, self._likely(row)))
        text = echo.text[offsets[begin] : offsets[end] if end < n_tokens else None]
        return [Echoed(self.index, text, tuple(told))]

    def _read(self, tokens: tuple[int, ...], logprobs: tuple[RowLogprobs, ...]) -> tuple[list[Segment], str | None]:
        """What of these tokens may be shown now, and the stop they complete. Counts tokens up to there."""
        pieces, is_control = self._pieces, self._is_control
        segments: list[Segment] = []
        for k, token in enumerate(tokens):
            self._n_generated += 1
            if logprobs:
                self._logprobs.append((self._n_decoded, self._named(token, logprobs[k])))
            if self._splitter.is_thinking:
                self._n_reasoning += 1
            if not is_control[token]:
                text = self._utf8.feed(pieces[token])
            elif token in self._markers:
                text = self._utf8.flush() + self._markers[token]
            else:
                continue
            self._n_decoded += len(text)
            stop = None
            if self._stops is not None:
                text, stop = self._stops.feed(text)
            if self._indent is not None:
                text = self._indent.feed(text)
            self._n_shown += len(text)
            segments += self._split(text)
            if self._line_limit_s is not None and "\n" in text:
                self._is_cut = self._times.last - self._times.first > self._line_limit_s
            if self._indent is not None and self._indent.is_left:
                self._is_cut, stop = True, None
            if stop is not None or self._splitter.is_done or self._is_cut:
                return segments, stop
        return segments, None

    def _split(self, text: str) -> list[Segment]:
        if not text:
            return []
        return [Segment(text)] if self._is_plain else self._splitter.feed(text)

    def _end_of_text(self) -> tuple[str, str | None]:
        """What was held back, now that nothing follows. A half character may still complete a stop."""
        text, stop = self._utf8.flush(), None
        if self._stops is not None:
            text, stop = self._stops.feed(text)
            if stop is None:
                text += self._stops.flush()
        if self._indent is not None:
            text = self._indent.feed(text)
            stop = None if self._indent.is_left else stop
        self._n_shown += len(text)
        return text, stop

    def _tell(self, events: list[Event], segments: list[Segment], *, is_last: bool, is_stopped: bool) -> None:
        """Deltas; the first accounts for all tokens not told of. At the end it may hold no text."""
        if len(segments) > 1:
            segments = joined(segments)
        if not segments and is_last and self._n_told < self._n_generated:
            segments = [Segment("")]
        for segment in segments:
            n_tokens = self._n_generated - self._n_told
            self._n_told = self._n_generated
            logprobs = self._take_logprobs(is_all=is_last and not is_stopped) if self._logprobs else ()
            measured = self._measured() if self._tells_timings else None
            place = (segment.channel, segment.call_id, segment.call_name)
            events.append(Delta(self.index, segment.text, *place, n_tokens, logprobs, measured))

    def _take_logprobs(self, *, is_all: bool) -> tuple[TokenLogprob, ...]:
        """Those of the tokens that have shown something of themselves, or all at an end without a stop."""
        n = len(self._logprobs)
        if not is_all:
            n = next((k for k, (start, _) in enumerate(self._logprobs) if start >= self._n_shown), n)
        taken = tuple(logprob for _, logprob in self._logprobs[:n])
        del self._logprobs[:n]
        return taken

    def _named(self, token: int, row: RowLogprobs) -> TokenLogprob:
        return TokenLogprob(token, self._pieces[token], row.logprob, self._likely(row))

    def _likely(self, row: RowLogprobs) -> tuple[Likely, ...]:
        pieces = self._pieces
        return tuple(Likely(other, pieces[other], logprob) for other, logprob in row.top)


_NO_TIMES = Times()


def _timings(times: Times) -> Timings:
    """Durations between the readings; 0 for what was never reached."""

    def between(begin: float, end: float) -> float:
        return end - begin if begin and end > begin else 0.0

    return Timings(
        queued_s=between(times.arrived, times.admitted),
        prompt_s=between(times.admitted, times.first),
        generation_s=between(times.first, times.last),
    )
