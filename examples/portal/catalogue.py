"""What the portal's visitors collect: logins at real services, and things for a cart."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TypedDict

# 150 real service providers from the public metadata of federations; `sealedstate sso registry
# build` makes such a file from metadata. A login record keeps a service's number in this list.
REGISTRY = Path(__file__).with_name("services.registry")


class CartItem(TypedDict):
    """One thing in the cart."""

    item: str
    price: Decimal
