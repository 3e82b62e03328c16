"""Before another manifest holds: bound memory and what is kept as it says, and see which files are others by now.

Owned by the loop, as the crew is. What becomes of models then, residency decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from llamahost.core.errors import LlamahostError
from llamahost.fleet.crew.crew import Crew
from llamahost.fleet.machine.room import strangers
from llamahost.fleet.settings.manifest import ModelSpec, ServerSettings

logger = logging.getLogger("llamahost.fleet")

_SOURCE = ("path", "repo", "file", "quant", "revision")


async def bounded(crew: Crew, settings: ServerSettings) -> None:
    """Have these hold."""
    before, crew.settings = crew.settings, settings
    await crew.see_room(settings.host_bytes, is_bounded_anew=settings.host_bytes != before.host_bytes)
    if told := strangers(crew.residency.devices, settings):
        logger.warning("%s", told)
    await crew.keeping.fit(settings)


async def replaced(crew: Crew, specs: Sequence[ModelSpec]) -> dict[str, object]:
    """The stamps of those whose files are others by now than what is loaded was made of."""
    found: dict[str, object] = {}
    for spec in specs:
        place = crew.places.get(spec.name)
        if place is None or any(getattr(place.spec, key) != getattr(spec, key) for key in _SOURCE):
            continue  # it is loaded anew in any case
        seen = [each.record.seen for each in place.running.values()]
        if crew.loading is None or not any(seen):
            continue
        try:
            stamp = (await crew.loading.look(spec)).stamp
        except (LlamahostError, OSError) as error:  # of a disk that fails, say
            logger.warning("`%s` serves on, though its file could not be loaded now: %s", spec.name, error)
            continue
        if any(each != stamp for each in seen):
            found[spec.name] = stamp
    return found
