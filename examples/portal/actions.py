"""What each button does to a session. The module to read first: it is all that an application does.

Knows the session as a mapping, the keeper for "everywhere", and that keys rotate. Does not know
cookies, budgets, stores or HTML, and no action needs to: where a part ends up is not the
application's business.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from sealedstate import Keeper, KeyState, OperatorError, Session
from sealedstate.rotation.source import RotatingKeySource

from ..views.forms import renew_token
from .catalogue import GOODS, CartItem, ServiceLogin, new_logins
from .ring_view import ring_view

MAX_NAME_CHARS = 60
MAX_NOTE_CHARS = 4000
MOST_KEYS = 50
COUNTS = (1, 5, 20, 100)
PASSWORD = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"  # noqa: S105

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """A form that somebody sent: the fields, the session to change, its keeper, and the keys."""

    session: Session
    form: Mapping[str, str]
    keeper: Keeper
    keys: RotatingKeySource


@dataclass(frozen=True, slots=True)
class Action:
    """What a button does, and the page that comes next; `run` gives the name of a notice."""

    run: Callable[[Order], str]
    then: str = ""


def sign_in(order: Order) -> str:
    """Any name will do: it is a demo."""
    name = " ".join(order.form.get("name", "").split())[:MAX_NAME_CHARS].rstrip()
    if not (name and name.isprintable()):
        return "no-name"
    session = order.session
    session.subject = name  # a new session id, and full lifetimes from now
    session["authn"] = {"method": PASSWORD, "at": int(time.time()), "duration": 8 * 3600}
    renew_token(session)
    return "signed-in"


def add_services(order: Order) -> str:
    """Log in at some more services."""
    session, offered = order.session, {str(count): count for count in COUNTS}
    known = service_logins(session)
    count = offered.get(order.form.get("count", ""), 0)
    new = new_logins(known, count, session.subject or "")
    session["services"] = known + new
    return "services-added" if new else "no-more-services"


def remove_service(order: Order) -> str:
    """Forget one service login."""
    index = order.form.get("session_index")
    left = [each for each in service_logins(order.session) if each["session_index"] != index]
    order.session["services"] = left
    return "service-removed"


def remove_services(order: Order) -> str:
    """Forget all service logins, without reading them."""
    with contextlib.suppress(KeyError):
        del order.session["services"]
    return "services-removed"


def add_to_cart(order: Order) -> str:
    """Put something into the cart, by a change inside the part: it is noticed."""
    item = order.form.get("item", "")
    if item not in GOODS:
        return "nothing-added"
    cart = cast(list[CartItem], order.session.setdefault("cart", []))  # only we write it
    cart.append({"item": item, "price": GOODS[item]})
    return "cart-filled"


def empty_cart(order: Order) -> str:
    """Take everything out of the cart, without reading it."""
    with contextlib.suppress(KeyError):
        del order.session["cart"]
    return "cart-emptied"


def write_note(order: Order) -> str:
    """Keep a note in the cookie and nowhere else, as the settings ask: SessionTooLarge if long."""
    order.session["note"] = order.form.get("note", "")[:MAX_NOTE_CHARS]
    return "noted"


def use_profile(order: Order) -> str:
    """Save the session within another profile: this one's keeper is the new profile's."""
    list(order.session)  # recalls what was spilled, so that it may come back into the cookies
    order.session["profile"] = order.keeper.deployment.profile.name
    return "profile-changed"


def regenerate(order: Order) -> str:
    """A new session id, as after a change of privilege; the old one is refused from now on."""
    order.session.regenerate()
    renew_token(order.session)
    return "regenerated"


def rotate_keys(order: Order) -> str:
    """Announce a new key, as `sealedstate keys rotate --now` does; no session is touched."""
    ring = ring_view(order.keys.ring, int(order.keys.config.clock()))
    if ring.of(KeyState.PENDING):
        return "key-is-coming"
    if len(ring.keys) >= MOST_KEYS:
        return "enough-keys"
    try:
        return "key-announced" if order.keys.rotate(force=True) else "keys-unchanged"
    except OperatorError as error:
        _log.warning("the ring could not be written: %s", error)
        return "keys-unchanged"


def sign_out(order: Order) -> str:
    """Log out. When it returns, the store remembers that this session is over."""
    order.session.invalidate()
    return "signed-out"


def sign_out_everywhere(order: Order) -> str:
    """Log out every session of this user, in all browsers."""
    order.keeper.revoke_subject(order.session.subject or "")
    order.session.invalidate()
    return "signed-out-everywhere"


def service_logins(session: Session) -> list[ServiceLogin]:
    """The part `services`, wherever it lives; only this module writes it, hence the cast."""
    return cast(list[ServiceLogin], session.get("services", []))


def cart_items(session: Session) -> list[CartItem]:
    """The part `cart`, wherever it lives; only this module writes it, hence the cast."""
    return cast(list[CartItem], session.get("cart", []))


def note_of(session: Session) -> str:
    """The part `note`."""
    return str(session.get("note", ""))


ACTIONS = {
    "sign-in": Action(sign_in),
    "add-services": Action(add_services),
    "remove-service": Action(remove_service, then="services"),
    "remove-services": Action(remove_services),
    "add-to-cart": Action(add_to_cart),
    "empty-cart": Action(empty_cart),
    "write-note": Action(write_note),
    "use-profile": Action(use_profile),
    "regenerate": Action(regenerate),
    "rotate-keys": Action(rotate_keys, then="keys"),
    "sign-out": Action(sign_out),
    "sign-out-everywhere": Action(sign_out_everywhere),
}
