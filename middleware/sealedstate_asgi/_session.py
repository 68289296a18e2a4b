"""The session in a scope, and how an application reaches it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, NoReturn, TypeAlias

from sealedstate import Session, SessionNotLoaded, UsageError
from sealedstate.asynchronous import AsyncKeeper, SealedSession

Scope: TypeAlias = MutableMapping[str, Any]
# Where a scope has the sessions of all middlewares around it, by the keys of their dicts.
SESSIONS = "sealedstate.sessions"


class ScopeSession(SealedSession):
    """The session of a scope, whose dict of parts is ``scope[key]`` once it is loaded."""

    def __init__(self, keeper: AsyncKeeper, session: Session, scope: Scope, key: str) -> None:
        super().__init__(keeper, session, scope["type"] == "websocket")
        self.keeper = keeper
        self._scope: Scope | None = scope
        self._key = key
        scope[key] = _UNLOADED

    def begin(self, is_empty: bool, is_filled: bool = True) -> None:
        super().begin(is_empty, is_filled)
        self._show_parts()

    async def load(self, *parts: str) -> None:
        await super().load(*parts)
        self._show_parts()

    def _show_parts(self) -> None:
        if self._scope is not None:
            self._scope[self._key] = self._parts
            self._scope = None  # which refers to this session


class UnloadedSession:
    """In a scope in place of the dict, until `load_session`: every use raises SessionNotLoaded.

    An empty dict would be taken for the session of a visitor.
    """

    def __getattr__(self, name: str) -> NoReturn:
        raise SessionNotLoaded("the session was not loaded")


def _refuse(self: UnloadedSession, *_: Any) -> NoReturn:
    raise SessionNotLoaded("the session was not loaded")


for _name in ("getitem", "setitem", "delitem", "contains", "iter", "len", "eq", "or", "ror", "ior"):
    setattr(UnloadedSession, f"__{_name}__", _refuse)
_UNLOADED = UnloadedSession()


def sealed(connection: Any, key: str = "session") -> SealedSession:
    """The session of a request or websocket of Starlette or FastAPI, or of an ASGI scope.

    `key`: the scope_key of the middleware. Raises UsageError without a middleware.
    """
    scope = connection if isinstance(connection, Mapping) else getattr(connection, "scope", {})
    found = scope.get(SESSIONS, {}).get(key)
    if not isinstance(found, ScopeSession):
        raise UsageError(
            f"there is no sealed session in scope[{key!r}]; add SealedSessionMiddleware"
        )
    return found


async def load_session(connection: Any, *parts: str, key: str = "session") -> SealedSession:
    """Ask the store for the session, if that was not done, and for stored `parts`; and return it.

    Needed before the first use with ``autoload=False``, and for parts of the policy ``server``.
    """
    session = sealed(connection, key)
    await session.load(*parts)
    scope = connection if isinstance(connection, MutableMapping) else connection.scope
    scope[key] = session.parts  # a router may have copied the scope
    return session
