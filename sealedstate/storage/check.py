"""Whether the configured stores meet the needs of what is kept in them: `StorageCheck`.

A server that does not answer at the start does not stop the application: its capabilities are not
known yet, and assumed ones are no reason to refuse it. It is checked once it has answered. Requests
are being served by then, so it stays in use: refusing it would sign out all visitors because of
something that may never happen. The log has an error, and the next start is refused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator

from ..errors import ConfigurationError, StorageError, StorageUnusable, escape_message, escape_text
from .contract import Capabilities, Storage
from .requirements import USES, Use, mismatch, store_name
from .routing import distinct_stores, store_of

__all__ = ["StorageCheck"]

_log = logging.getLogger("sealedstate")


class StorageCheck:
    """Checks the stores that the contexts of `uses` are sent to by `storage`.

    `uses`, `tolerated`: names of `USES`; a tolerated use may fall short, which is logged.
    """

    def __init__(self, storage: Storage, uses: Collection[str], tolerated: Collection[str]) -> None:
        self._tolerated = tolerated
        self._pairs: list[tuple[Use, Storage]] = []
        for name in uses:
            contexts = USES[name].contexts
            stores = distinct_stores([store_of(context, storage) for context in contexts])
            self._pairs += [(USES[name], store) for store in stores]
        # By pair, the capabilities that were checked last: a server may return with another
        # configuration.
        self._checked: list[Capabilities | None] = [None] * len(self._pairs)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Ping each store once, and check those that answer.

        Raises ConfigurationError with a sentence for each use whose needs are not met, and
        StorageUnusable for a store that cannot be used as it is.
        """
        for store in distinct_stores([store for _, store in self._pairs]):
            try:
                store.ping()
            except StorageUnusable:
                raise
            except StorageError as error:
                _log.warning(
                    "the %s store does not answer at the start and will be checked once it does:"
                    " %s",
                    escape_text(store_name(store)),
                    escape_message(error),
                )
        problems: dict[str, str] = {}
        for use, sentence in self._find_mismatches():
            if use.name in self._tolerated:
                _log.warning("tolerated: %s", escape_message(sentence))
            else:
                problems[use.name] = sentence
        if problems:
            names = ", ".join(f'"{name}"' for name in problems)
            raise ConfigurationError(
                f"storage: {'. '.join(problems.values())}."
                f" Use another store, or accept what may happen: accept_weak_store_for=[{names}]"
            )

    def recheck(self) -> None:
        """After a store has answered, check it if it was not known before or has changed.

        Costs next to nothing otherwise. Of several threads, one does it.
        """
        has_news = any(
            store.capabilities is not before and store.capabilities != before
            for (_, store), before in zip(self._pairs, self._checked, strict=True)
        )
        if not has_news or not self._lock.acquire(blocking=False):
            return
        try:
            for use, sentence in self._find_mismatches():
                if use.name in self._tolerated:
                    _log.warning("tolerated: %s", escape_message(sentence))
                else:
                    _log.error("storage: %s; the next start is refused", escape_message(sentence))
        finally:
            self._lock.release()

    def _find_mismatches(self) -> Iterator[tuple[Use, str]]:
        """Yield what is wrong with the stores that are known, once for each state of them."""
        for number, (use, store) in enumerate(self._pairs):
            capabilities = store.capabilities
            if capabilities.assumed or capabilities == self._checked[number]:
                continue
            self._checked[number] = capabilities
            sentence = mismatch(use, store_name(store), capabilities)
            if sentence is not None:
                yield use, sentence
