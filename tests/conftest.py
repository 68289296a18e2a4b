"""What all tests share: no property is judged by the clock of a busy machine.

Tests of the stores behind database servers carry the mark `stores`: `make stores` runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("sealedstate", deadline=None)
settings.load_profile("sealedstate")

STORES = ("sql", "redis", "memcached", "kit", "crashes", "histories", "winners")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        subject = Path(str(item.fspath)).stem.removeprefix("test_").split("_")[0]
        if subject in STORES:
            item.add_marker(pytest.mark.stores)
