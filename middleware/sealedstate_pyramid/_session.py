"""Pyramid's session factory over a keeper, and what `config.include` calls."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPException
from pyramid.interfaces import ISession
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import EXCVIEW
from zope.interface import implementer

from sealedstate import Deployment, Keeper, Session, Settings, plain
from sealedstate.adapting import (
    SessionFace,
    add_session_headers,
    config_names,
    log_late_changes,
    open_session,
    sealed,
)
from sealedstate.binding import SessionBinding, open_binding
from sealedstate.headers import set_cookie_bytes

log = logging.getLogger("sealedstate.pyramid")

PREFIX = "sealedstate."
SUBJECT_KEY = "auth.userid"  # of Pyramid's SessionAuthenticationHelper
_FLASH, _CSRF_TOKEN = "_f_", "_csrft_"  # Pyramid's names inside a session
_SENT, _BINDING = "sealedstate.sent", "sealedstate.binding"


@implementer(ISession)
class PyramidSession(SessionFace):
    """`request.session`: Pyramid's names, and those of a sealed session (see `SessionFace`)."""

    _keeper: Keeper
    _is_saved_early: bool

    @property
    def created(self) -> int:
        """When it began or was signed in (epoch seconds)."""
        created = self._session.created_at
        return int(self._keeper.deployment.now()) if created is None else created

    def invalidate(self) -> None:
        """Log out: revoke the session in the store, if there is one, and empty it."""
        self._session.invalidate()

    def changed(self) -> None:
        """Pyramid's sign of a change inside a value; such changes are found anyway."""
        self._session.load()

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        """Add a message to a queue."""
        messages = self.setdefault(_FLASH + queue, [])
        if allow_duplicate or msg not in messages:
            messages.append(msg)

    def pop_flash(self, queue: str = "") -> list[Any]:
        """Remove the messages of a queue and return them."""
        messages: list[Any] = self.pop(_FLASH + queue, [])
        return messages

    def peek_flash(self, queue: str = "") -> list[Any]:
        """The messages of a queue, which stay in it."""
        messages: list[Any] = self.get(_FLASH + queue, [])
        return messages

    def new_csrf_token(self) -> str:
        """A new token against requests of other sites, which is then the session's."""
        token: str = os.urandom(20).hex()
        self[_CSRF_TOKEN] = token
        return token

    def get_csrf_token(self) -> str:
        """The session's token, which is made if there is none."""
        return self.get(_CSRF_TOKEN) or self.new_csrf_token()

    def _save(self, response: Response) -> Sequence[str]:
        """The lines for a response."""
        if self._begin_save():
            other_bytes = set_cookie_bytes(response.headerlist)
            self._end_save(self._keeper.save(self._session, other_bytes))
        return self._lines or ()


class SealedSessionFactory:
    """Makes the sessions of requests, for ``config.set_session_factory``.

    `settings`: Settings, or a Keeper or Deployment that several share. A session is saved with the
    response, also with that of an exception view, after all other response callbacks. What a save
    raises, SessionTooLarge or StorageError, reaches an exception view with ``config.include``; with
    this factory alone it reaches none. `set_on_exception`: as in Pyramid; False: the response of an
    exception view leaves the cookies as they are, and so the session is saved after all tweens
    only. `binding`: offered to users who sign in; ``config.include`` also answers for it. Raises
    ConfigurationError.
    """

    def __init__(
        self,
        settings: Settings | Deployment | Keeper,
        *,
        set_on_exception: bool = True,
        binding: SessionBinding | None = None,
    ) -> None:
        self.keeper = settings if isinstance(settings, Keeper) else Keeper(settings)
        self._binding = binding
        self._set_on_exception = set_on_exception

    def __call__(self, request: Request) -> PyramidSession:
        session = open_session(self.keeper, request.environ)
        found = PyramidSession(session, _keeper=self.keeper, _is_saved_early=self._set_on_exception)
        if request.environ.get(_SENT):
            session.mark_headers_sent()
        else:
            request.add_response_callback(_Respond(self._respond, found))
        return found

    def _respond(self, found: PyramidSession, request: Request, response: Response) -> None:
        if not _are_last(request):
            # What other callbacks do with the session and with cookies counts, too.
            request.add_response_callback(_Respond(self._respond, found))
            return
        session = found._session
        lines: Sequence[str] = ()
        try:
            if self._set_on_exception or getattr(request, "exception", None) is None:
                lines = found._save(response)
        finally:
            add_session_headers(
                self.keeper,
                session,
                response.headerlist,
                lines,
                request.environ,
                self._binding,
            )
        session.mark_headers_sent()
        if session.accessed:
            request.add_finished_callback(lambda _: log_late_changes(log, session))
            if isinstance(pieces := response.app_iter, Generator):
                response.app_iter = _watch(pieces, session)


class _Respond(partial[None]):
    """The response callback of a session, which is called after those of others."""


def _are_last(request: Request) -> bool:
    callbacks: Any = request.response_callbacks  # typed as the descriptor that makes it
    return not callbacks or all(isinstance(each, _Respond) for each in callbacks)


def _watch(pieces: Iterable[bytes], session: Session) -> Iterator[bytes]:
    """A stream, after which changes are logged that were too late to be saved."""
    try:
        yield from pieces
    finally:
        log_late_changes(log, session)


def includeme(config: Configurator) -> None:
    """Give an application sealed sessions, by the settings of its ini file and the environment.

    Their names are those of Settings behind ``sealedstate.``. The keeper is then
    ``request.registry["sealedstate"]``; one that is there before is used instead. Raises
    ConfigurationError.
    """
    registry: Any = config.registry
    keeper = registry.get("sealedstate")
    if keeper is None:
        with config_names({*registry.settings}, PREFIX):
            keeper = Keeper(
                Settings.from_config(
                    registry.settings, PREFIX, convert=plain, subject_key=SUBJECT_KEY
                )
            )
    registry["sealedstate"] = keeper
    binding = registry[_BINDING] = open_binding(keeper)
    config.set_session_factory(SealedSessionFactory(keeper, binding=binding))
    config.add_tween(f"{__name__}.make_tween", under=EXCVIEW)


def _bind(
    binding: SessionBinding, handler: Callable[[Request], Response], request: Request
) -> Response:
    """Answer browsers that bind their sessions."""
    if not binding.is_for(request.path):
        return handler(request)
    session, header = sealed(request.session), request.headers.get
    answer = binding.answer(session, request.method, request.path, header)
    return Response(answer.body, answer.status, list(answer.headers))


def make_tween(handler: Callable[[Request], Response], registry: Any) -> Any:
    """A tween that saves where an exception view can answer what the save raises.

    It also answers browsers that bind their sessions.
    """
    if (binding := registry[_BINDING]) is not None:
        handler = partial(_bind, binding, handler)

    def save(request: Request) -> Response:
        # A subscriber of NewResponse would slow every request: Pyramid then notifies of all events.
        callbacks: Any = request.response_callbacks
        callbacks.append(_NOTE_SENT)
        try:
            response = handler(request)
        except HTTPException as error:
            if "session" in request.__dict__:
                save_early(request, error)
            raise
        if "session" in request.__dict__:
            save_early(request, response)
        return response

    def save_early(request: Request, response: Response) -> None:
        found: object = request.session
        if isinstance(found, PyramidSession) and found._is_saved_early:
            found._save(response)

    return save


def _note_sent(request: Request, response: Response) -> None:
    """A session that a stream or a finished callback asks for first comes too late."""
    if _are_last(request):
        request.environ[_SENT] = True
    else:
        request.add_response_callback(_NOTE_SENT)


_NOTE_SENT = _Respond(_note_sent)
