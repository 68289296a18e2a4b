"""What each button does to a session. Start reading here: it is all that an application does.

No action knows cookies, budgets or stores: where a part ends up is not the application's business.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from sealedstate import Keeper, OperatorError, Session
from sealedstate.sso import LoginRecords

from ..shop.goods import GOODS
from ..views.forms import renew_token
from .catalogue import CartItem
from .logins import PASSWORD, Form, ServiceLogins
from .resources import PortalResources
from .ring_view import view_ring

MAX_NAME_CHARS = 60
MAX_NOTE_CHARS = 4000
MAX_KEYS = 50
COUNTS = (1, 5, 20, 100)
AUTHENTICATION_SECONDS = 8 * 3600

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A form that the visitor sent: its fields, the session to change, and what changes it."""

    session: Session
    fields: Mapping[str, str]
    keeper: Keeper
    resources: PortalResources

    @property
    def records(self) -> LoginRecords:
        return self.resources.records

    @property
    def logins(self) -> ServiceLogins:
        return ServiceLogins(self.records, self.session, int(time.time()))


@dataclass(frozen=True, slots=True)
class Action:
    """What a button does, and the page that comes next; `run` returns the name of a notice."""

    run: Callable[[Submission], str]
    next_page: str = ""


def sign_in(form: Submission) -> str:
    """Any name will do: it is a demo."""
    name = " ".join(form.fields.get("name", "").split())[:MAX_NAME_CHARS].rstrip()
    if not (name and name.isprintable()):
        return "no-name"
    session = form.session
    record = form.records.for_session(session)
    record.sign_in(name)  # a new session id, and full lifetimes from now
    record.authenticate(PASSWORD, duration=AUTHENTICATION_SECONDS)
    renew_token(session)
    return "signed-in"


def add_services(form: Submission) -> str:
    """Log in at some more services."""
    logins, offered = form.logins, {str(count): count for count in COUNTS}
    visited = {login.entity_id for login in logins.all()}
    others = sorted(set(form.records.registry.entities) - visited)
    chosen = others[: offered.get(form.fields.get("count", ""), 0)]
    logins.enter(chosen)
    return "services-added" if chosen else "no-more-services"


def remove_service(form: Submission) -> str:
    """Forget one service login."""
    form.logins.remove(form.fields.get("entity_id", ""))
    return "service-removed"


def remove_services(form: Submission) -> str:
    """Forget all service logins, without reading them."""
    form.logins.clear()
    return "services-removed"


def keep_logins_as(form: Submission) -> str:
    """Keep the service logins in another form."""
    chosen = form.fields.get("form", "")
    if chosen not in set(Form):
        return "no-such-form"
    form.logins.keep_as(Form(chosen))
    return f"kept-as-{chosen}"


def add_to_cart(form: Submission) -> str:
    """Put something into the cart, by a change inside the part: the session notices it."""
    item = form.fields.get("item", "")
    if item not in GOODS:
        return "nothing-added"
    cart = cast(list[CartItem], form.session.setdefault("cart", []))  # only we write it
    cart.append({"item": item, "price": GOODS[item]})
    return "cart-filled"


def empty_cart(form: Submission) -> str:
    """Take everything out of the cart, without reading it."""
    with contextlib.suppress(KeyError):
        del form.session["cart"]
    return "cart-emptied"


def write_note(form: Submission) -> str:
    """Keep a note in the cookie and nowhere else: SessionTooLarge if it is too long."""
    form.session["note"] = form.fields.get("note", "")[:MAX_NOTE_CHARS]
    return "noted"


def use_profile(form: Submission) -> str:
    """Save the session within another profile: this form went to the new profile's keeper."""
    dict(form.session)  # recalls spilled parts, so that they may come back into the cookies
    form.session["profile"] = form.keeper.deployment.profile.name
    return "profile-changed"


def regenerate(form: Submission) -> str:
    """Give the session a new id, as after a change of privilege; the old id is refused from now on.

    With a login record, `record.regenerate()` does it: identifiers that were derived from the old
    id stay valid at the services, and are stored from now on.
    """
    form.records.for_session(form.session).regenerate()
    renew_token(form.session)
    return "regenerated"


def rotate_keys(form: Submission) -> str:
    """Announce a new key, as `sealedstate keys rotate --now` does; no session is touched."""
    keys = form.resources.keys
    ring = view_ring(keys.ring, int(keys.config.clock()))
    if ring.pending:
        return "key-is-coming"
    if len(ring.keys) >= MAX_KEYS:
        return "enough-keys"
    try:
        return "key-announced" if keys.rotate(force=True) else "keys-unchanged"
    except OperatorError as error:
        _log.warning("the ring could not be written: %s", error)
        return "keys-unchanged"


def sign_out(form: Submission) -> str:
    """Log out. When it returns, the store remembers that this session is over."""
    form.session.invalidate()
    return "signed-out"


def sign_out_everywhere(form: Submission) -> str:
    """Log out every session of this user, in all browsers."""
    form.keeper.revoke_subject(form.session.subject or "")
    form.session.invalidate()
    return "signed-out-everywhere"


def cart_items(session: Session) -> list[CartItem]:
    """The part `cart`, wherever it lives; only this module writes it, hence the cast."""
    return cast(list[CartItem], session.get("cart", []))


ACTIONS = {
    "sign-in": Action(sign_in),
    "add-services": Action(add_services),
    "remove-service": Action(remove_service, next_page="services"),
    "remove-services": Action(remove_services),
    "keep-logins-as": Action(keep_logins_as),
    "add-to-cart": Action(add_to_cart),
    "empty-cart": Action(empty_cart),
    "write-note": Action(write_note),
    "use-profile": Action(use_profile),
    "regenerate": Action(regenerate),
    "rotate-keys": Action(rotate_keys, next_page="keys"),
    "sign-out": Action(sign_out),
    "sign-out-everywhere": Action(sign_out_everywhere),
}
