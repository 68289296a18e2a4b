"""What the last Set-Cookie of a session weighed, so that the next page can show it.

Knows response headers and session ids. A curiosity of the demo, in memory: no session needs it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from sealedstate import Session
from sealedstate._cookies.header import field_bytes
from sealedstate_wsgi import ENVIRON_KEY

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MOST_SESSIONS = 1000


class EventLog:
    """The Set-Cookie bytes of the last response that changed a session, for the last sessions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: OrderedDict[str, int] = OrderedDict()

    def last(self, session_id: str) -> int | None:
        """The bytes of all Set-Cookie lines of that response; None when it is not remembered."""
        with self._lock:
            return self._bytes.get(session_id)

    def noting(self, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
        """A start_response that notes what passes through it."""

        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: OptExcInfo | None = None,
            /,
        ) -> Callable[[bytes], object]:
            session = environ.get(ENVIRON_KEY)
            if isinstance(session, Session) and session.accessed:
                self._note(session.id, headers)
            return start_response(status, headers, exc_info)

        return start

    def _note(self, session_id: str, headers: list[tuple[str, str]]) -> None:
        sizes = [field_bytes(value) for name, value in headers if name.lower() == "set-cookie"]
        if not sizes:
            return
        with self._lock:
            self._bytes[session_id] = sum(sizes)
            self._bytes.move_to_end(session_id)
            if len(self._bytes) > MOST_SESSIONS:
                self._bytes.popitem(last=False)
