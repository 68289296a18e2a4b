"""What the portal's visitors collect: service logins, and things for a cart.

Knows plain values, such as an application puts into its session. Does not know sessions.
"""

from __future__ import annotations

import base64
import secrets
import time
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TypedDict

ENTITY_IDS = Path(__file__).with_name("entity_ids.txt")

GOODS = {
    "Sealing wax, burgundy": Decimal("6.50"),
    "Signet ring, brass": Decimal("48.00"),
    "Linen envelopes, 25": Decimal("12.90"),
    "Fountain pen": Decimal("39.00"),
    "Blotting paper": Decimal("4.20"),
    "Melting spoon": Decimal("7.80"),
}


class ServiceLogin(TypedDict):
    """What a SAML identity provider must remember of one login, or logout can't reach it."""

    entity_id: str
    name_id: str
    session_index: str
    at: int


class CartItem(TypedDict):
    """One thing in the cart."""

    item: str
    price: Decimal


@cache
def entity_ids() -> tuple[str, ...]:
    """Real service providers, from the public metadata of federations."""
    return tuple(ENTITY_IDS.read_text("utf-8").split())


def new_logins(known: list[ServiceLogin], count: int, subject: str) -> list[ServiceLogin]:
    """Up to `count` logins at services that are not among the `known` ones."""
    seen = {login["entity_id"] for login in known}
    fresh = [entity_id for entity_id in entity_ids() if entity_id not in seen]
    return [_login(entity_id, subject) for entity_id in fresh[:count]]


def _login(entity_id: str, subject: str) -> ServiceLogin:
    return {
        "entity_id": entity_id,
        "name_id": _name_id(subject),
        "session_index": f"_{secrets.token_hex(16)}",
        "at": int(time.time()),
    }


def _name_id(subject: str) -> str:
    """As services ask for it: transient for most, persistent for some, the user's name for few."""
    draw = secrets.randbelow(100)
    if draw < 60:
        return f"_{secrets.token_hex(16)}"
    return base64.b64encode(secrets.token_bytes(20)).decode() if draw < 85 else subject
