"""The size of each session's last Set-Cookie, so that its next page can show it.

In memory, and only for the page: no session needs it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from sealedstate import Session
from sealedstate_wsgi import ENVIRON_KEY

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MAX_SESSIONS = 1000
# The name of the field and the end of its line travel too.
FIELD_BYTES = len("Set-Cookie: \r\n")


class SetCookieSizes:
    """The Set-Cookie bytes of the last response that changed a session, by session id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: OrderedDict[str, int] = OrderedDict()

    def last(self, session_id: str) -> int | None:
        """The bytes of all Set-Cookie lines of that response; None when it is not remembered."""
        with self._lock:
            return self._bytes.get(session_id)

    def watch(self, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
        """A start_response that remembers the sizes of what passes through it."""

        def start(
            status: str,
            headers: list[tuple[str, str]],
            exc_info: OptExcInfo | None = None,
            /,
        ) -> Callable[[bytes], object]:
            lines = [value for name, value in headers if name.lower() == "set-cookie"]
            session = environ.get(ENVIRON_KEY)
            if lines and isinstance(session, Session) and session.accessed:
                self._remember(session.id, sum(FIELD_BYTES + len(line) for line in lines))
            return start_response(status, headers, exc_info)

        return start

    def _remember(self, session_id: str, size: int) -> None:
        with self._lock:
            self._bytes[session_id] = size
            self._bytes.move_to_end(session_id)
            if len(self._bytes) > MAX_SESSIONS:
                self._bytes.popitem(last=False)
