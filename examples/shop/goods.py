"""What the shops sell, to whom, and what their pages show."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

DAY = 86400
MAX_NAME_CHARS = 60
MAX_DEVICES = 5
MAX_OF_EACH = 99
GOODS = {
    "Sealing wax, burgundy": Decimal("6.50"),
    "Signet ring, brass": Decimal("48.00"),
    "Linen envelopes, 25": Decimal("12.90"),
    "Fountain pen": Decimal("39.00"),
    "Blotting paper": Decimal("4.20"),
    "Melting spoon": Decimal("7.80"),
}
PAGES = Path(__file__).with_name("templates")


def clean_name(text: str) -> str:
    """The name that a visitor gave, or nothing. Any name will do: it is a demo."""
    name = " ".join(text.split())[:MAX_NAME_CHARS].rstrip()
    return name if name.isprintable() else ""
