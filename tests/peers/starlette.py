"""A pytest plugin: every Starlette application of a foreign test suite has sealed sessions.

The suites know only a secret, of which the key is made, and write the attributes of cookies as
Starlette does, in small letters.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import starlette.middleware.sessions

from sealedstate import Key
from sealedstate_asgi import SealedSessionMiddleware

ATTRIBUTE = re.compile(rb"; (Domain|HttpOnly|Partitioned|Path|SameSite|Secure)\b")


class SessionMiddleware(SealedSessionMiddleware):
    """The sealed middleware, with Starlette's defaults."""

    def __init__(self, app: Any, /, secret_key: Any, **given: Any) -> None:
        digest = hashlib.blake2b(str(secret_key).encode()).digest()
        key = Key.generate(lambda size: digest[:size]).export()
        usual = {"session_cookie": "session", "max_age": 14 * 86400, "https_only": False}
        super().__init__(app, **{"keys": key, **usual, **given})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_small(message: Any) -> None:
            if message["type"].endswith(".start"):
                headers = [
                    (name, ATTRIBUTE.sub(lambda found: found[0].lower(), value))
                    for name, value in message["headers"]
                ]
                message = {**message, "headers": headers}
            await send(message)

        await super().__call__(scope, receive, send_small)


def pytest_configure(config: pytest.Config) -> None:
    starlette.middleware.sessions.SessionMiddleware = SessionMiddleware  # type: ignore[assignment,misc]
