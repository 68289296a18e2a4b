"""A URL whose driver is not installed is a mistake of the configuration, with its remedy."""

from __future__ import annotations

import sys
import time

import pytest

from sealedstate.cli import main
from sealedstate.errors import ConfigurationError
from sealedstate.storage import open_storage

# URL -> the driver's package, and the extra that installs it.
DRIVERS = {
    "postgresql://h/d": ("sqlalchemy", "postgresql"),
    "mariadb://h/d": ("sqlalchemy", "mariadb"),
    "redis://h": ("redis", "redis"),
    "memcached://h:1": ("pymemcache", "memcached"),
}


@pytest.mark.parametrize("url", DRIVERS)
def test_missing_driver_is_reported_with_its_extra(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver, extra = DRIVERS[url]
    for name in list(sys.modules):
        if name.split(".")[0] == driver:
            monkeypatch.setitem(sys.modules, name, None)
        elif name.startswith(("sealedstate.storage.sql", "sealedstate.storage.redis")) or (
            name.startswith("sealedstate.storage.memcached")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"sealedstate\[{extra}\]"):
        open_storage(url, time.time)
    assert main(["store", "ping", url]) == 2
    assert f"[{extra}]" in capsys.readouterr().err
