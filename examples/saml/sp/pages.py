"""A service's pages.

Knows what they say. Does not know requests, sessions or messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...views.forms import token_field
from ...views.markup import Html, Templates, definitions, fill, joined
from ..federation import Service
from .sign_on import Login

TEMPLATES = Templates(Path(__file__).with_name("templates"))

NOTICES = {
    "signed-out": ("notice", "You are signed out here, and wherever else you were."),
    "partly": (
        "warning",
        "You are signed out here. But not every service has confirmed that it signed you out, too:"
        " close the browser to be safe.",
    ),
    "unheard": (
        "warning",
        "You are signed out here, but the identity provider did not confirm it. You may still be"
        " signed in elsewhere.",
    ),
    "nobody": ("notice", "Nobody is signed in here."),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page needs: whose it is, and the token of its forms."""

    service: Service
    token: str
    done: str = ""


def home(frame: Frame, idp: str, login: Login | None, bytes_in_cookie: int) -> Html:
    """The service's one page: who you are here, or the way to the sign-in."""
    if login is None:
        body = TEMPLATES.fill("nobody.html", title=frame.service.title, token=_token(frame))
    else:
        body = TEMPLATES.fill(
            "somebody.html",
            title=frame.service.title,
            token=_token(frame),
            name=login.display_name,
            facts=_facts(frame.service, login, bytes_in_cookie),
            front=_front(frame.service),
        )
    return _page(frame, idp, body)


def posting(frame: Frame, idp: str, destination: str, fields: Mapping[str, str]) -> Html:
    """A message on its way through the browser: a form that sends itself."""
    hidden = '<input type="hidden" name="$name" value="$value">'
    body = TEMPLATES.fill(
        "posting.html",
        destination=destination,
        fields=joined(fill(hidden, name=name, value=value) for name, value in fields.items()),
    )
    return _page(frame, idp, body)


def refusal(frame: Frame, idp: str, headline: str, story: str) -> Html:
    """A request or a message that is not acted upon."""
    return _page(frame, idp, TEMPLATES.fill("refusal.html", headline=headline, story=story))


def _facts(service: Service, login: Login, bytes_in_cookie: int) -> Html:
    return definitions(
        [
            ("NameID", fill('<code id="name-id">$id</code>', id=login.name_id.value)),
            ("SessionIndex", fill("<code>$index</code>", index=login.session_index or "none")),
            ("Signed in by", login.method.rpartition(":")[2]),
            ("Asks by", _binding(service.asks_by)),
            ("Is answered by", _binding(service.answered_by)),
            ("Is told of logouts by", ", ".join(map(_binding, service.logout_bindings))),
            ("This service's cookie", f"{bytes_in_cookie:,} bytes"),
        ]
    )


def _front(service: Service) -> Html:
    if not service.front_channel:
        return Html()
    return fill('<button class="primary" formaction="/sign-out">Sign out</button>')


def _binding(uri: str) -> str:
    return uri.rpartition(":")[2].replace("HTTP-", "")


def _token(frame: Frame) -> Html:
    return token_field(frame.token)


def _page(frame: Frame, idp: str, body: Html) -> Html:
    kind, text = NOTICES.get(frame.done, ("", ""))
    notice = fill('<p class="$kind" role="status">$text</p>', kind=kind, text=text)
    return TEMPLATES.fill(
        "page.html",
        title=frame.service.title,
        idp=idp,
        notice=notice if text else Html(),
        body=body,
    )
