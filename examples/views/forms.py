"""Tokens against forged forms: a random one in the session, the same in each of its forms."""

from __future__ import annotations

import hmac
import secrets

from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Request

from sealedstate import Session

TOKEN_BYTES = 16
PART = "csrf"


def renew_token(session: Session) -> None:
    """Give the session another token: forms with the former one are refused."""
    session[PART] = secrets.token_bytes(TOKEN_BYTES)


def ensure_token(session: Session) -> None:
    """Give the session a token if it has none.

    A withheld session gets none, since nothing that is written into it is sent: see `check_form`.
    """
    if session.withheld is None and PART not in session:
        renew_token(session)


def token_text(session: Session) -> str:
    """The token as forms carry it; empty where the session has none."""
    token = session.get(PART)
    return token.hex() if isinstance(token, bytes) else ""


def check_form(session: Session, request: Request) -> None:
    """Refuse a form that another site sent in the visitor's name. Raises Forbidden."""
    if session.withheld is not None:
        # It holds no token, yet signing in must work: signing in is what replaces its cookie.
        is_ours = request.headers.get("Sec-Fetch-Site") == "same-origin"
    else:
        expected, received = token_text(session), request.form.get("csrf", "")
        is_ours = expected != "" and hmac.compare_digest(expected.encode(), received.encode())
    if not is_ours:
        raise Forbidden("This form does not carry the token of your session.")
