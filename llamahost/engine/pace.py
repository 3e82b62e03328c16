"""Learn what a step costs: seconds = a + b * tokens, fitted to the last steps. For the watchdog,
and to see whether news can wait for the end of the next step.
"""

from __future__ import annotations

MEMORY = 0.98  # a step weighs this much less with each later one: about the last fifty count
FAR = 32.0
"""Beyond so many deviations from the mean of what was seen, a step is taken to cost at least as much a token."""

FIRST_S = 6.0
"""What a step may be expected to take before any was seen; the first one also warms up the device."""


class Pace:
    """Owned by the worker's thread. A decayed least-squares line, from five sums; a few multiplications a step."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._x = 0.0
        self._y = 0.0
        self._xx = 0.0
        self._xy = 0.0
        self.recent_s = 0.0

    def learn(self, n_tokens: int, step_s: float) -> None:
        self._weight = self._weight * MEMORY + 1.0
        self._x = self._x * MEMORY + n_tokens
        self._y = self._y * MEMORY + step_s
        self._xx = self._xx * MEMORY + n_tokens * n_tokens
        self._xy = self._xy * MEMORY + n_tokens * step_s
        self.recent_s = step_s if self.recent_s == 0.0 else 0.9 * self.recent_s + 0.1 * step_s

    def expected_s(self, n_tokens: int) -> float:
        """Seconds that a step of so many tokens should take; too much rather than too little."""
        if self._weight == 0.0:
            return FIRST_S
        mean_x = self._x / self._weight
        mean_y = self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance < 1.0:  # all steps alike: they say nothing about others, so cost is taken to grow with the tokens
            return mean_y * max(1.0, n_tokens / max(1.0, mean_x))
        slope = max(0.0, (self._xy / self._weight - mean_x * mean_y) / variance)
        expected_s = max(0.0, mean_y - slope * mean_x) + slope * n_tokens
        if (n_tokens - mean_x) ** 2 > FAR * FAR * variance:  # small steps alone: their slope is noise out there
            return max(expected_s, mean_y * n_tokens / max(1.0, mean_x))
        return expected_s
