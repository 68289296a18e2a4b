"""What adapters of frameworks share: the session as their users know it.

A framework's session is a mapping with the framework's own names. Ours (`subject`, `regenerate`,
`limit` and others) are attributes of it, too, but an application that has a part of that name means
its part: ``{{ session.id }}`` in a template shows what the application assigned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Self

from .session import Session

__all__ = ["SessionFace", "sealed"]

# The attributes of a Session that a face shows.
_SHOWN = frozenset(
    {"id", "subject", "is_new", "created_at", "expires_at", "persistent", "refusal", "withheld"}
    | {"peek", "keep", "check_size", "regenerate", "limit", "invalidate", "accessed"}
)


class SessionFace(MutableMapping[str, Any]):
    """A mapping that reads and writes the parts of `session`.

    Texts of a subclass are names, too. What has no attribute here is that of the session, unless a
    part has this name.
    """

    def __init__(self, session: Session) -> None:
        object.__setattr__(self, "_session", session)

    _session: Session

    def __getitem__(self, name: str) -> Any:
        return self._session[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._session[str.__str__(name) if isinstance(name, str) else name] = value

    def __delitem__(self, name: str) -> None:
        del self._session[name]

    def __contains__(self, name: object) -> bool:
        return name in self._session

    def __iter__(self) -> Iterator[str]:
        return iter(self._session)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._session)

    def __len__(self) -> int:
        return len(self._session)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return self._session | other

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return other | self._session

    def __ior__(self, other: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Self:
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)

    def copy(self) -> dict[str, Any]:
        """A dict of all parts, with copies of their values."""
        return self._session.copy()

    def popitem(self) -> tuple[str, Any]:
        """Remove the last part that can be read and return its name and value."""
        return self._session.popitem()

    def clear(self) -> None:
        """Remove every part, without recalling any."""
        self._session.clear()

    def __getattr__(self, name: str) -> Any:
        session: Session | None = self.__dict__.get("_session")
        if session is not None and not name.startswith("_") and name in session:
            return session[name]
        if name in _SHOWN:
            return getattr(session, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "subject":
            self._session.subject = value  # type: ignore[assignment]
        elif hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; a part is assigned by"
                f" session[{name!r}]",
                name=name,
            )

    def __repr__(self) -> str:
        return repr(self.__dict__.get("_session", "<no session>"))


def sealed(session: object) -> Session:
    """The session behind a framework's session object. Raises TypeError for any other object."""
    if isinstance(session, Session):
        return session
    # flask.session and others are proxies of it.
    found = getattr(session, "_session", None)
    if not isinstance(found, Session):
        raise TypeError(f"expected a session of sealedstate, got {type(session).__name__}")
    return found
