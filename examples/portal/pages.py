"""The portal's pages.

Knows what they say. Does not know requests, sessions or where facts come from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from werkzeug.exceptions import HTTPException

from sealedstate import PROFILES, Profile, SessionTooLarge, SessionWithheld, Settings, StorageError

from ..views.budget import budget, parts, session_facts
from ..views.facts import Facts
from ..views.forms import token_field, withheld_warning
from ..views.markup import Html, Templates, counted, definitions, fill, joined
from .actions import COUNTS, MAX_NAME_CHARS, MAX_NOTE_CHARS
from .catalogue import GOODS, CartItem, ServiceLogin
from .ring_markup import reloading, ring_facts, ring_page
from .ring_view import RingView

TEMPLATES = Templates(Path(__file__).with_name("templates"))

NOTICES = {
    "signed-in": "You are signed in. The session has a new id: the visitor's cookie is of no use.",
    "signed-out": "You are signed out. A copy of your cookie, wherever it is, is refused from now"
    " on.",
    "signed-out-everywhere": "You are signed out in all browsers. Every session of yours that began"
    " until now is refused.",
    "no-name": "Please give a name, of printable characters.",
    "services-added": "The service logins are in. Below you see where they live now.",
    "no-more-services": "No more services: you are logged in at all that the portal knows.",
    "service-removed": "That service login is forgotten.",
    "services-removed": "All service logins are forgotten.",
    "cart-filled": "It is in your cart.",
    "nothing-added": "The shop does not have that.",
    "cart-emptied": "Your cart is empty.",
    "noted": "The note is in your cookie. Paste a very long one to see what does not fit.",
    "profile-changed": "The same session, saved within another budget.",
    "regenerated": "The session has a new id. The old one is refused from now on.",
    "key-announced": "A new key is announced. Nothing that the old one sealed is lost.",
    "key-is-coming": "A new key is announced already. Its turn comes first.",
    "enough-keys": "That is enough of new keys. Each must open for as long as a session may live.",
    "keys-unchanged": "The ring could not be written. Its keys are as they were.",
    "tracker-added": "Somebody else's cookie takes room now, at the end of the bar.",
    "no-more-trackers": "That is enough of other people's cookies.",
    "trackers-removed": "The other cookies are gone.",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What every page needs: where it is mounted, who looks at it, the token of its forms."""

    base: str
    subject: str | None
    token: str
    done: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What the overview shows. `logins` and `cart` are None where they have not been read."""

    facts: Facts
    settings: Settings
    last_set_cookie: int | None
    ring: RingView
    counts: Counter[str]
    logins: int | None
    cart: Sequence[CartItem] | None
    note: str
    trackers: int

    @property
    def profile(self) -> Profile:
        return self.settings.budget_profile()


# --- whole pages --------------------------------------------------------------------------------


def sign_in(frame: Frame, withheld: bool) -> Html:
    """For whoever is not signed in."""
    body = TEMPLATES.fill(
        "sign_in.html",
        withheld=withheld_warning(withheld),
        base=frame.base,
        token=_token(frame),
        longest=MAX_NAME_CHARS,
    )
    return _page(frame, "Sign in", body)


def overview(frame: Frame, shown: Overview) -> Html:
    """What the session is made of, and the buttons that change it."""
    body = TEMPLATES.fill(
        "overview.html",
        base=frame.base,
        token=_token(frame),
        subject=shown.facts.subject,
        add_services=joined(_add_button(count) for count in COUNTS),
        logins=_logins_told(frame, shown),
        goods=joined(_option(name) for name in GOODS),
        cart=_cart_told(frame, shown),
        note=shown.note,
        longest_note=MAX_NOTE_CHARS,
        trackers=_trackers_told(shown.trackers),
        budget=budget(shown.facts, shown.profile, shown.last_set_cookie),
        parts=parts(shown.facts, frame.base),
        session=session_facts(shown.facts),
        ring=ring_facts(shown.ring, shown.facts.kid),
        counts=definitions((name, f"{count:,}") for name, count in sorted(shown.counts.items())),
    )
    return _page(frame, "Your session", body)


def services(frame: Frame, logins: Sequence[ServiceLogin]) -> Html:
    """The service logins, one by one."""
    body = TEMPLATES.fill(
        "services.html",
        base=frame.base,
        count=counted(len(logins), "service login"),
        rows=joined(_login_row(frame, login) for login in logins),
    )
    return _page(frame, "Service logins", body)


def keys(frame: Frame, ring: RingView, sealed_by: str, longest: int) -> Html:
    """The key ring; see `ring_page` for `longest`."""
    body = ring_page(ring, sealed_by, frame.base, _token(frame), longest)
    return _page(frame, "Key ring", body, reloading(ring))


def problem(frame: Frame, error: SessionTooLarge | StorageError | SessionWithheld) -> Html:
    """What the application was told, for the visitor."""
    headline, story = _story(error)
    return _problem(frame, headline, story, f"{type(error).__name__}: {error}")


def refusal(frame: Frame, error: HTTPException) -> Html:
    """A request that has no answer."""
    return _problem(frame, error.name, error.description or "", f"HTTP {error.code}")


def _problem(frame: Frame, headline: str, story: str, detail: str) -> Html:
    body = TEMPLATES.fill(
        "problem.html",
        base=frame.base,
        headline=headline,
        story=story,
        detail=detail,
    )
    return _page(frame, headline, body)


def _story(error: SessionTooLarge | StorageError | SessionWithheld) -> tuple[str, str]:
    if isinstance(error, SessionTooLarge):
        return (
            "This does not fit",
            "What had to be saved fits neither into the cookies that your browser may send here nor"
            " into the store. Nothing was cut off and nothing was sent: your session is as it was"
            " before.",
        )
    if isinstance(error, SessionWithheld):
        return (
            "You are not signed out",
            "Your cookie can't be judged at this moment, so that no logout could be recorded for"
            " it. Please try again in a moment.",
        )
    return (
        "The store does not answer",
        "Your cookies were left as they were: you are still signed in. If you wanted to sign out,"
        " that could not be recorded, so it has not happened. Please try again in a moment.",
    )


# --- the frame ----------------------------------------------------------------------------------


def _page(frame: Frame, title: str, body: Html, head: Html | None = None) -> Html:
    notice = NOTICES.get(frame.done)
    return TEMPLATES.fill(
        "page.html",
        title=title,
        head=head or Html(),
        base=frame.base,
        account=_account(frame) if frame.subject is not None else Html(),
        notice=Html() if notice is None else _notice(notice),
        body=body,
    )


def _account(frame: Frame) -> Html:
    return TEMPLATES.fill(
        "account.html",
        base=frame.base,
        token=_token(frame),
        subject=frame.subject,
        profiles=joined(_profile_button(frame, profile) for profile in PROFILES.values()),
    )


def _profile_button(frame: Frame, profile: Profile) -> Html:
    return fill(
        '<button formaction="/$name/use-profile" aria-pressed="$pressed" title="$title">$name'
        "</button>",
        name=profile.name,
        pressed="true" if frame.base == f"/{profile.name}" else "false",
        title=f"{counted(profile.cookies, 'cookie')}, {profile.total_bytes:,} bytes in all",
    )


def _notice(text: str) -> Html:
    return fill('<p class="notice" role="status">$text</p>', text=text)


def _token(frame: Frame) -> Html:
    return token_field(frame.token)


# --- what one can do ----------------------------------------------------------------------------


def _add_button(count: int) -> Html:
    return fill(
        '<button name="count" value="$count" aria-label="Add $what">+$count</button>',
        count=count,
        what=counted(count, "service login"),
    )


def _logins_told(frame: Frame, shown: Overview) -> Html:
    if shown.facts.part("services") is None:
        return Html("None yet.")
    count = "In the store." if shown.logins is None else f"{shown.logins:,} of them."
    return fill(
        '$count <a href="$base/services">Show&nbsp;services</a>', count=count, base=frame.base
    )


def _option(name: str) -> Html:
    return fill("<option>$name</option>", name=name)


def _cart_told(frame: Frame, shown: Overview) -> Html:
    if shown.cart is None:
        return fill('In the store. <a href="$base/?read=cart">Show&nbsp;cart</a>', base=frame.base)
    if not shown.cart:
        return Html("Empty.")
    total = sum(item["price"] for item in shown.cart)
    names = ", ".join(sorted({item["item"] for item in shown.cart}))
    return fill(
        '<span title="$names">$count, $total EUR.</span>',
        names=names,
        count=counted(len(shown.cart), "item"),
        total=f"{total:,}",
    )


def _trackers_told(count: int) -> str:
    return f"{counted(count, 'cookie')} of others." if count else "None now."


# --- logins ----------------------------------------------------------------------------


def _login_row(frame: Frame, login: ServiceLogin) -> Html:
    return TEMPLATES.fill(
        "login_row.html",
        base=frame.base,
        token=_token(frame),
        entity_id=login["entity_id"],
        name_id=login["name_id"],
        session_index=login["session_index"],
        at=time.strftime("%H:%M:%S", time.localtime(login["at"])),
    )
