"""The portal's pages.

Knows what they say. Does not know requests, sessions or where facts come from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from werkzeug.exceptions import HTTPException

from sealedstate import (
    PROFILES,
    Profile,
    SessionTooLarge,
    SessionWithheld,
    Settings,
    StorageError,
)
from sealedstate.record import Place, Policy

from .actions import COUNTS, MAX_NAME_CHARS, MAX_NOTE_CHARS
from .catalogue import GOODS, CartItem, ServiceLogin
from .drawing import Mark, Piece, bar
from .facts import Facts, PartFacts, room_beside
from .markup import Html, ago, counted, definitions, fill, fill_file, joined
from .ring_markup import reloading, ring_facts, ring_page
from .ring_view import RingView

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
PLACES = {
    Place.CORE: ("core", "first cookie"),
    Place.OVERFLOW: ("overflow", "further cookies"),
    Place.SPILLED: ("spilled", "store"),
}
MAY_LIVE = {
    Policy.COOKIE: "cookies only",
    Policy.SERVER: "store only",
    Policy.AUTO: "wherever it fits",
}
# What has a colour of its own in the stylesheet.
COLOURED = {"services", "cart", "note", "authn", "csrf", "profile"}


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
        return self.settings.carried


# --- whole pages --------------------------------------------------------------------------------


def sign_in(frame: Frame, withheld: bool) -> Html:
    """For whoever is not signed in."""
    body = fill_file(
        "sign_in.html",
        withheld=fill_file("withheld.html") if withheld else Html(),
        base=frame.base,
        token=_token(frame),
        longest=MAX_NAME_CHARS,
    )
    return _page(frame, "Sign in", body)


def overview(frame: Frame, shown: Overview) -> Html:
    """What the session is made of, and the buttons that change it."""
    body = fill_file(
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
        budget=_budget(shown),
        parts=_parts(frame, shown.facts),
        session=_session(shown),
        ring=ring_facts(shown.ring, shown.facts.kid),
        counts=definitions((name, f"{count:,}") for name, count in sorted(shown.counts.items())),
    )
    return _page(frame, "Your session", body)


def services(frame: Frame, logins: Sequence[ServiceLogin]) -> Html:
    """The service logins, one by one."""
    body = fill_file(
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
    body = fill_file(
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
    return fill_file(
        "page.html",
        title=title,
        head=head or Html(),
        base=frame.base,
        account=_account(frame) if frame.subject is not None else Html(),
        notice=Html() if notice is None else _notice(notice),
        body=body,
    )


def _account(frame: Frame) -> Html:
    return fill_file(
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
    return fill('<input type="hidden" name="csrf" value="$token">', token=frame.token)


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


# --- the budget ---------------------------------------------------------------------------------


def _budget(shown: Overview) -> Html:
    facts, profile = shown.facts, shown.profile
    last = shown.last_set_cookie
    return fill_file(
        "budget.html",
        ours=f"{facts.load.ours:,}",
        total=f"{profile.total_bytes:,}",
        profile=profile.name,
        cookies=_cookies_told(facts),
        main=_main_bar(facts, profile),
        store=_store(facts),
        legend=joined(_legend_item(piece) for piece in _pieces(facts)),
        header=f"{facts.load.header:,} of {profile.header_bytes:,}",
        header_bar=_header_bar(facts, profile),
        response="not remembered" if last is None else f"{last:,} of {profile.response_bytes:,}",
        response_bar=_response_bar(last or 0, profile),
    )


def _cookies_told(facts: Facts) -> str:
    cookies = facts.load.cookies
    sizes = ", ".join(f"{name} {size:,}" for name, size in cookies)
    return f"in {counted(len(cookies), 'cookie')}: {sizes}"


def _main_bar(facts: Facts, profile: Profile) -> Html:
    # Straight after a switch of profiles by address, ours may be more than the profile allows.
    scale = max(profile.total_bytes, facts.load.ours)
    left = room_beside(profile, facts.load.foreign, facts.load.ours)
    return bar(
        _pieces(facts),
        [Mark(at, f"{at:,}") for at in _limits(profile)],
        scale,
        "Bytes in our cookies",
        blocked=scale - left,
    )


def _limits(profile: Profile) -> list[int]:
    """Nothing, what each further cookie begins with, and what all of ours may take."""
    inner = range(0, profile.total_bytes, profile.cookie_bytes)
    return [*inner, profile.total_bytes]


def _pieces(facts: Facts) -> list[Piece]:
    """What our cookies carry: overhead first, then the parts, the largest last."""
    parts = sorted(facts.parts, key=lambda part: (part.place is Place.OVERFLOW, part.cookie_bytes))
    return [
        Piece("overhead", "overhead", facts.overhead),
        *(
            Piece(_colour(part.name), part.name, part.cookie_bytes)
            for part in parts
            if part.place is not Place.SPILLED
        ),
    ]


def _colour(name: str) -> str:
    return f"part-{name}" if name in COLOURED else "part-other"


def _legend_item(piece: Piece) -> Html:
    return fill(
        '<li><svg class="swatch" aria-hidden="true"><rect class="$kind"/></svg>$label'
        " <b>$size</b></li>",
        kind=piece.kind,
        label=piece.label,
        size=f"{piece.size:,}",
    )


def _store(facts: Facts) -> Html:
    stored = [part for part in facts.parts if part.place is Place.SPILLED]
    if not stored:
        return Html('<li class="hint">nothing of yours</li>')
    sizes = [None if part.value_bytes is None else f"{part.value_bytes:,}" for part in stored]
    return joined(
        fill(
            '<li><svg class="swatch" aria-hidden="true"><rect class="$kind"/></svg>$name'
            " <b>$size</b></li>",
            kind=_colour(part.name),
            name=part.name,
            size=size or "",
        )
        for part, size in zip(stored, sizes, strict=True)
    )


def _header_bar(facts: Facts, profile: Profile) -> Html:
    ours, foreign = facts.load.ours, facts.load.foreign
    pieces = [Piece("ours", "ours", ours), Piece("foreign", "other cookies", foreign)]
    # What came through once may be more than the profile allows: then the limit is drawn.
    scale = max(profile.header_bytes, ours + foreign)
    limit = [Mark(profile.header_bytes, "")] if scale > profile.header_bytes else []
    return bar(pieces, limit, scale, "Bytes in the Cookie header")


def _response_bar(last: int, profile: Profile) -> Html:
    scale = max(profile.response_bytes, last)
    return bar([Piece("ours", "Set-Cookie", last)], [], scale, "Bytes of the last Set-Cookie")


# --- the parts ----------------------------------------------------------------------------------


def _parts(frame: Frame, facts: Facts) -> Html:
    ordered = sorted(facts.parts, key=lambda part: (part.place is Place.SPILLED, part.name))
    return joined(_part_row(frame, part) for part in ordered)


def _part_row(frame: Frame, part: PartFacts) -> Html:
    place, where = PLACES[part.place]
    return fill_file(
        "part_row.html",
        name=part.name,
        colour=_colour(part.name),
        place=place,
        where=where,
        policy=MAY_LIVE[part.policy],
        size=_read_link(frame, part) if part.value_bytes is None else f"{part.value_bytes:,}",
        in_cookies=f"{part.cookie_bytes:,}" if part.cookie_bytes else "–",
    )


def _read_link(frame: Frame, part: PartFacts) -> Html:
    return fill(
        '<a href="$base/?read=$name" title="one read from the store">read</a>',
        base=frame.base,
        name=part.name,
    )


# --- session, logins ----------------------------------------------------------------------------


def _session(shown: Overview) -> Html:
    facts, times = shown.facts, shown.facts.times
    return definitions(
        [
            ("Id", fill("<code>$id</code>", id=facts.session_id)),
            ("Subject", facts.subject),
            ("Age", ago(times.now - times.began)),
            ("Sealed", ago(times.now - times.sealed) + " ago"),
            ("Ends if idle", f"in {ago(times.idle_end - times.now)}"),
            ("Ends anyway", f"in {ago(times.absolute_end - times.now)}"),
            ("Generation", f"{facts.generation:,}"),
        ]
    )


def _login_row(frame: Frame, login: ServiceLogin) -> Html:
    return fill_file(
        "login_row.html",
        base=frame.base,
        token=_token(frame),
        entity_id=login["entity_id"],
        name_id=login["name_id"],
        session_index=login["session_index"],
        at=time.strftime("%H:%M:%S", time.localtime(login["at"])),
    )
