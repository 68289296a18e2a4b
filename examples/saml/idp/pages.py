"""The identity provider's pages.

Knows what they say. Does not know requests, sessions or messages.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealedstate import Profile
from sealedstate.sso import ServiceLogin

from ...views.budget import budget, parts, session_facts
from ...views.facts import Facts
from ...views.forms import token_field, withheld_warning
from ...views.markup import Html, Templates, counted, definitions, fill, joined
from ..federation import Federation, Service

TEMPLATES = Templates(Path(__file__).with_name("templates"))
MAX_NAME_CHARS = 60

NOTICES = {
    "signed-in": "You are signed in. Now visit a service: it asks here who you are.",
    "no-name": "Please give a name, of printable characters.",
    "nobody": "Nobody is signed in here.",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page needs: who looks at it, the token of its forms, what to tell first."""

    subject: str | None
    token: str
    done: str = ""


@dataclass(frozen=True, slots=True)
class Home:
    """What the front page shows. `logins` is None where they have not been read."""

    facts: Facts
    profile: Profile
    last_set_cookie: int | None
    logins: Sequence[ServiceLogin] | None
    counts: Mapping[str, int]


def sign_in(frame: Frame, asker: str, title: str | None, request: str, withheld: bool) -> Html:
    """For whoever has to say who they are; `asker`: the service that wants to know."""
    why = "" if title is None else f"{title} wants to know who you are."
    body = TEMPLATES.fill(
        "sign_in.html",
        why=why or "One sign-in for all services: they ask here who you are.",
        withheld=withheld_warning(withheld),
        token=token_field(frame.token),
        asker=asker,
        request=request,
        longest=MAX_NAME_CHARS,
    )
    return _page(frame, "Sign in", body)


def home(frame: Frame, federation: Federation, shown: Home) -> Html:
    """Where somebody is signed in, and what their session is made of."""
    logins = shown.logins or ()
    body = TEMPLATES.fill(
        "home.html",
        subject=frame.subject,
        token=token_field(frame.token),
        services=joined(_service_card(service, logins) for service in federation.services),
        count="In the store." if shown.logins is None else counted(len(logins), "service login"),
        logins=joined(_login_row(federation, login) for login in logins),
        budget=budget(shown.facts, shown.profile, shown.last_set_cookie),
        parts=parts(shown.facts, ""),
        session=session_facts(shown.facts),
        counts=definitions((name, f"{count:,}") for name, count in sorted(shown.counts.items())),
    )
    return _page(frame, "Your session", body)


def posting(frame: Frame, destination: str, fields: Mapping[str, str], where: str) -> Html:
    """A message on its way through the browser: a form that sends itself."""
    body = TEMPLATES.fill(
        "posting.html",
        destination=destination,
        where=where,
        fields=joined(
            fill('<input type="hidden" name="$name" value="$value">', name=name, value=value)
            for name, value in fields.items()
        ),
    )
    return _page(frame, "One moment", body)


def waiting(frame: Frame, service: str, others: Sequence[str]) -> Html:
    """For a browser that has left a logout in the middle: one service has not answered."""
    still = f" Still to be told: {', '.join(others)}." if others else ""
    body = TEMPLATES.fill(
        "waiting.html", token=token_field(frame.token), service=service, still=still
    )
    return _page(frame, "Signing out", body)


def signed_out(frame: Frame, failures: Sequence[str]) -> Html:
    """The end of a logout; `failures`: the services that did not confirm it."""
    if failures:
        told = f"Not confirmed by: {', '.join(failures)}. Close the browser to be safe."
        body = TEMPLATES.fill("partly.html", told=told)
    else:
        body = TEMPLATES.fill("signed_out.html")
    return _page(frame, "Signed out", body)


def refusal(frame: Frame, headline: str, story: str) -> Html:
    """A request or a message that is not acted upon."""
    return _page(frame, headline, TEMPLATES.fill("refusal.html", headline=headline, story=story))


def _page(frame: Frame, title: str, body: Html) -> Html:
    notice = NOTICES.get(frame.done)
    return TEMPLATES.fill(
        "page.html",
        title=title,
        account=_account(frame) if frame.subject is not None else Html(),
        notice=fill('<p class="notice" role="status">$text</p>', text=notice) if notice else Html(),
        body=body,
    )


def _account(frame: Frame) -> Html:
    return TEMPLATES.fill("account.html", token=token_field(frame.token), subject=frame.subject)


def _service_card(service: Service, logins: Sequence[ServiceLogin]) -> Html:
    inside = any(login.entity_id == service.entity_id for login in logins)
    return TEMPLATES.fill(
        "service.html",
        title=service.title,
        link=service.at("/"),
        state="core" if inside else "away",
        told="signed in" if inside else "not yet",
    )


def _login_row(federation: Federation, login: ServiceLogin) -> Html:
    return TEMPLATES.fill(
        "login.html",
        title=federation.title(login.entity_id),
        entity_id=login.entity_id,
        name_id=login.name_id.value,
        session_index=login.session_index or "none",
        at=time.strftime("%H:%M", time.localtime(login.time)),
    )
