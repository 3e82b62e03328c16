"""When a model of a `speed` route is asked though another is expected to be quicker. Pure; knows no request, no clock.

Who is not asked is not measured, so who was slow once would stay the slow one. A small share of the requests tries the
others: epsilon-greedy, over means that forget (Sutton and Barto, Reinforcement Learning, 2nd edition, 2018, 2.2 and
2.5). No dice decide, but a credit that grows with each request that passes a model by, and is spent when it is tried,
as in deficit round robin (Shreedhar and Varghese, 1995): so the share is kept over any stretch, and many who come at
once do not all try. It grows the slower, the more a try costs.

law: of n requests in a row, a model that is not expected to be the quickest is tried by n / EVERY + 1 of them at most
law: one that takes d times longer than the quickest does, d up to FAR, by n / EVERY / d + 1
law: one that is passed by EVERY * FAR times has been tried; who cannot answer at once is not tried
"""

from __future__ import annotations

from collections.abc import Mapping

EVERY = 20
FAR = 10.0


class Trials:
    """Owned by the loop. Credits are by route and model."""

    def __init__(self) -> None:
        self._credits: dict[tuple[str, str], float] = {}

    def ordered(self, route: str, models: tuple[str, ...], finish_s: Mapping[str, float]) -> tuple[str, ...]:
        """`models`, which come in the order of their promise, with the one in front that is to be tried.

        `finish_s` is what is expected of those that can answer at once.
        """
        best_s = finish_s.get(models[0], 0.0)
        if best_s <= 0.0:  # nothing is known of it: that is a try
            return models
        tried = ""
        for name in models[1:]:
            if name not in finish_s:
                continue
            longer = finish_s[name] / best_s - 1.0
            credit = self._credits.get((route, name), 0.0) + 1.0 / (EVERY * min(max(longer, 1.0), FAR))
            if credit >= 1.0 and not tried:
                tried, credit = name, 0.0
            self._credits[route, name] = min(credit, 1.0)
        return (tried, *(name for name in models if name != tried)) if tried else models
