"""A pytest plugin: Litestar's client-side sessions are sealed.

The suite knows only a secret, of which the key is made, and looks for cookies that are sent over
plain http. `dump_data` and `load_data`, which make and read the values of cookies, exist only here.
"""

from __future__ import annotations

import hashlib
from typing import Any

from litestar.exceptions import ImproperlyConfiguredException
from litestar.middleware.session import client_side

from sealedstate import ConfigurationError, Key
from sealedstate_litestar import SealedSessionBackend, SealedSessionConfig


class ClientSideSessionBackend(SealedSessionBackend):
    def dump_data(self, data: Any, scope: Any = None) -> list[bytes]:
        """The values of the cookies of such a session."""
        keeper = self.config.keeper.keeper
        session = keeper.session()
        session.update(data)
        pairs = [line.partition(";")[0].partition("=") for line in keeper.save(session)]
        return [value.encode() for _, _, value in pairs]

    def load_data(self, data: list[bytes]) -> dict[str, Any]:
        """The session of these values."""
        keeper, key = self.config.keeper.keeper, self.config.key
        names = [key, *(f"{key}-{number}" for number in range(1, len(data)))]
        pairs = [f"{name}={value.decode()}" for name, value in zip(names, data, strict=True)]
        return dict(keeper.session("; ".join(pairs)))


class CookieBackendConfig(SealedSessionConfig):
    _backend_class = ClientSideSessionBackend

    def __init__(self, secret: bytes, **named: Any) -> None:
        if len(secret) not in (16, 24, 32):
            raise ImproperlyConfiguredException("secret length must be 16, 24 or 32")
        digest = hashlib.blake2b(secret).digest()
        key = Key.generate(lambda size: digest[:size]).export()
        usual: dict[str, Any] = {
            "key": "session",
            "max_age": 14 * 86400,
            "secure": False,
            "profile": "roomy",
        }
        usual["skew"] = 0  # tests stop the clock at a moment before this one
        try:
            super().__init__(keys=key, **{**usual, **named})
        except ConfigurationError as error:
            raise ImproperlyConfiguredException(str(error)) from error


# Before the suite's conftest.py imports them, which is earlier than any hook of a plugin.
_module: Any = client_side
_module.CookieBackendConfig = CookieBackendConfig
_module.ClientSideSessionBackend = ClientSideSessionBackend
