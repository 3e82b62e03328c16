"""The least set that a law asks for, of things that need one another: what ends, what can be empty, what is regular.

Knows names only. Each is looked at again when one that it needs has come into the set, and not before: rounds over all
of them would take minutes where thousands name each other in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Set


def least(needs: Mapping[str, Collection[str]], holds: Callable[[str, Set[str]], bool]) -> set[str]:
    """The names that hold when no others do; `needs` are those that each may ask for.

    `holds` tells of a name whether it does with these, and never takes back what it said with fewer.
    """
    needed_by: dict[str, list[str]] = {}
    for name, others in needs.items():
        for other in set(others):
            needed_by.setdefault(other, []).append(name)
    found: set[str] = set()
    waiting = dict.fromkeys(reversed(list(needs)))  # what is named is mostly written behind what names it
    while waiting:
        name = next(iter(waiting))
        del waiting[name]
        if holds(name, found):
            found.add(name)
            waiting.update(dict.fromkeys(user for user in needed_by.get(name, ()) if user not in found))
    return found
