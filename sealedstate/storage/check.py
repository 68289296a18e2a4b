"""Whether each store meets the needs of what is kept in it: found at the start, not at night.

Knows uses, the store that each context goes to, and what was tolerated. Does not know settings,
requests or what is stored.

A server that does not answer at the start does not stop it: what it can do is not known yet, and a
server is not refused for what is only presumed. It is judged when it has answered. Then visitors
are there already, and it stays in use: refusing it would sign all of them out for what may never
happen. The log says it as an error, and the next start is refused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator

from ..errors import ConfigurationError, StorageError
from . import USES, Capabilities, Storage, mismatch
from .requirements import Use, store_name
from .routing import different, store_of

log = logging.getLogger("sealedstate")


class StorageCheck:
    """Judges `storage` by `uses`, titles of what is kept in it.

    `tolerated`: titles of uses for which a store may fall short of what they need.
    """

    def __init__(self, storage: Storage, uses: Collection[str], tolerated: Collection[str]) -> None:
        self._tolerated = tolerated
        self._watched = [
            (USES[title], store) for title in uses for store in _stores_of(USES[title], storage)
        ]
        # What each was judged by: a server may come back with another configuration.
        self._judged_by: list[Capabilities | None] = [None] * len(self._watched)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Ask each store once, and judge those that are known.

        Raises ConfigurationError with a sentence for each use whose needs are not met.
        """
        for store in different([store for _, store in self._watched]):
            _greet(store)
        refused: dict[str, str] = {}
        for use, sentence in self._judged():
            if use.title in self._tolerated:
                log.warning("tolerated: %s", sentence)
            else:
                refused[use.title] = sentence
        if refused:
            raise ConfigurationError(f"storage: {'. '.join(refused.values())}.{_advice(refused)}")

    def recheck(self) -> None:
        """After a store has answered: judge those that were not known before, or have changed.

        Costs next to nothing else. Of many threads one does it.
        """
        if not self._has_news() or not self._lock.acquire(blocking=False):
            return
        try:
            for use, sentence in self._judged():
                if use.title in self._tolerated:
                    log.warning("tolerated: %s", sentence)
                else:
                    log.error("storage: %s; the next start is refused", sentence)
        finally:
            self._lock.release()

    def _judged(self) -> Iterator[tuple[Use, str]]:
        """What is wrong with the stores that are known by now, once for each state of them."""
        for number, (use, store) in enumerate(self._watched):
            capabilities, before = store.capabilities, self._judged_by[number]
            if capabilities.presumed or capabilities == before:
                continue
            self._judged_by[number] = capabilities
            sentence = mismatch(use, store_name(store), capabilities)
            if sentence is not None:
                yield use, sentence

    def _has_news(self) -> bool:
        return any(
            store.capabilities is not before and store.capabilities != before
            for (_, store), before in zip(self._watched, self._judged_by, strict=True)
        )


def _stores_of(use: Use, storage: Storage) -> list[Storage]:
    """The stores that a use's contexts really go to."""
    return different([store_of(context, storage) for context in use.contexts])


def _greet(store: Storage) -> None:
    try:
        store.ping()
    except StorageError as error:
        log.warning(
            "a store does not answer at the start, and is judged when it does: %s: %s",
            store_name(store),
            error,
        )


def _advice(refused: Collection[str]) -> str:
    titles = ", ".join(f'"{title}"' for title in refused)
    return f" Take another store, or accept what may happen: accept_weak_store_for=[{titles}]"
