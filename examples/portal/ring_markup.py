"""How the key ring looks: a card of the overview, and a page of its own.

Knows what they say. Does not know rings beyond their view, nor requests or sessions.
"""

from __future__ import annotations

from pathlib import Path

from sealedstate import KeyState

from ..views.markup import Html, Templates, ago, counted, definitions, fill, joined
from .ring_view import KeyView, RingView

TEMPLATES = Templates(Path(__file__).with_name("templates"))


def ring_facts(view: RingView, sealed_by: str) -> Html:
    """The ring in four lines; `sealed_by` is the kid that sealed this session."""
    return definitions(
        [
            ("Seals now", _sealing(view)),
            ("Next", _coming(view)),
            ("Retired, still open", counted(len(view.of(KeyState.RETIRED)), "key")),
            ("This session", _with_state(view.find(sealed_by), sealed_by)),
        ]
    )


def ring_page(view: RingView, sealed_by: str, base: str, token: Html, longest: int) -> Html:
    """All keys. A session that nobody changes is sealed anew after `longest` seconds."""
    return TEMPLATES.fill(
        "ring.html",
        base=base,
        token=token,
        facts=ring_facts(view, sealed_by),
        story=_story(view, sealed_by, longest),
        rows=joined(_row(key, view.now, sealed_by) for key in view.keys),
        rotate_every=ago(view.schedule.rotate_every),
        announce=ago(view.schedule.announce),
        keep=ago(view.schedule.held_after_retirement),
    )


def reloading(view: RingView) -> Html:
    """What makes a browser ask for the page again, for as long as a key waits for its turn."""
    return Html() if view.pending is None else Html('<meta http-equiv="refresh" content="1">')


def _story(view: RingView, sealed_by: str, longest: int) -> str:
    if view.pending is not None:
        return (
            "The next key is known already and does not seal yet: so every process has time to load"
            " it. This page reloads itself until its turn comes."
        )
    if view.primary is None or view.primary.kid == sealed_by:
        return "Your session is sealed by the key that seals now."
    return (
        f"{view.primary.kid} seals now. Your session was sealed by {sealed_by}, which still opens"
        " it. Your next change seals it by the new key, be it one more thing in the cart; without"
        f" one, a look at a page does within {ago(longest)}."
    )


def _sealing(view: RingView) -> Html:
    key = view.primary
    if key is None:
        return Html("none")
    return _told(key.kid, f"for {ago(view.now - key.seals_from)}")


def _coming(view: RingView) -> Html:
    key, at = view.pending, view.announced_at
    if key is not None:
        return _told(key.kid, f"in {ago(key.seals_from - view.now)}")
    return Html("–") if at is None else fill("announced in $time", time=ago(at - view.now))


def _with_state(key: KeyView | None, kid: str) -> Html:
    return _told(kid, "" if key is None else key.state.value)


def _told(kid: str, more: str) -> Html:
    return fill('<code>$kid</code> <span class="beside">$more</span>', kid=kid, more=more)


def _row(key: KeyView, now: int, sealed_by: str) -> Html:
    return TEMPLATES.fill(
        "ring_row.html",
        kid=key.kid,
        state=key.state.value,
        seals_from=_relative(key.seals_from, now),
        seals_until=_relative(key.seals_until, now),
        opens_until=_relative(key.opens_until, now),
        note="sealed this session" if key.kid == sealed_by else "",
    )


def _relative(at: int | None, now: int) -> str:
    if at is None:
        return "–"
    return f"in {ago(at - now)}" if at > now else f"{ago(now - at)} ago"
