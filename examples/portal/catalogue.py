"""What the portal's visitors collect: logins at real services, and goods for a cart."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TypedDict

# 150 real service providers from the public metadata of federations; `sealedstate sso registry
# build` makes such a file from metadata. A login record keeps a service's number in this list.
REGISTRY = Path(__file__).with_name("services.registry")

GOODS = {
    "Sealing wax, burgundy": Decimal("6.50"),
    "Signet ring, brass": Decimal("48.00"),
    "Linen envelopes, 25": Decimal("12.90"),
    "Fountain pen": Decimal("39.00"),
    "Blotting paper": Decimal("4.20"),
    "Melting spoon": Decimal("7.80"),
}


class CartItem(TypedDict):
    """One thing in the cart."""

    item: str
    price: Decimal
