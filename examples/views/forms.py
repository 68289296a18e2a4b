"""Tokens against forged forms: a random one in the session, the same in each of its forms.

Knows sessions and requests. Does not know what a form does.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request

from sealedstate import Session

from .markup import Html, Templates, fill

TOKEN_BYTES = 16
PART = "csrf"
TEMPLATES = Templates(Path(__file__).with_name("templates"))


def renew_token(session: Session) -> None:
    """Another token: forms that were sent out until now are of no use any more."""
    session[PART] = secrets.token_bytes(TOKEN_BYTES)


def offer_token(session: Session) -> None:
    """See to it that the session has a token.

    What is written into a withheld session is not sent: see `check_form`.
    """
    if session.withheld is None and PART not in session:
        renew_token(session)


def token_text(session: Session) -> str:
    """The token as forms carry it; empty where there is none."""
    token = session.get(PART)
    return token.hex() if isinstance(token, bytes) else ""


def token_field(token: str) -> Html:
    """A hidden field for a form."""
    return fill('<input type="hidden" name="csrf" value="$token">', token=token)


def withheld_warning(withheld: bool) -> Html:
    """What a sign-in page says to whom it can't tell whether they are signed in."""
    return TEMPLATES.fill("withheld.html") if withheld else Html()


def check_form(session: Session, request: Request) -> None:
    """Refuse a form that another site has sent in the visitor's name. Raises Forbidden."""
    if not _is_ours(session, request):
        raise Forbidden("This form does not carry the token of your session.")


def _is_ours(session: Session, request: Request) -> bool:
    if session.withheld is not None:
        # Such a session holds no token, yet signing in must work: it is what replaces the cookie.
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    known, given = token_text(session), request.form.get("csrf", "")
    return known != "" and hmac.compare_digest(known.encode(), given.encode())
