"""A URL whose driver is not installed is a mistake of the configuration, with its remedy."""

from __future__ import annotations

import sys
import time

import pytest

from sealedstate.cli import main
from sealedstate.errors import ConfigurationError
from sealedstate.storage import open_storage

DOORS = ("sql", "redis", "memcached", "dynamodb")
# URL, the driver's package, and the extra that installs it.
DRIVERS = [
    ("postgres://h/d", "psycopg", "postgresql"),
    ("postgresql://h/d", "psycopg", "postgresql"),
    ("mariadb://h/d", "pymysql", "mariadb"),
    ("mysql://h/d", "pymysql", "mariadb"),
    ("redis://h", "redis", "redis"),
    ("memcached://h:1", "pymemcache", "memcached"),
    ("dynamodb:table?region=r", "botocore", "dynamodb"),
]


@pytest.mark.parametrize(("url", "driver", "extra"), DRIVERS)
def test_missing_driver_is_reported_with_its_extra(
    url: str,
    driver: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    modules = dict(sys.modules)
    for name, module in modules.items():
        if name.split(".")[0] == driver:
            monkeypatch.setitem(sys.modules, name, None)
        elif name.startswith(tuple(f"sealedstate.storage.{door}" for door in DOORS)):
            monkeypatch.delitem(sys.modules, name)
            package, _, attribute = name.rpartition(".")
            if package in modules:  # unless its import failed without a driver
                monkeypatch.setattr(modules[package], attribute, module)  # and restore it after
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"sealedstate\[{extra}\]"):
        open_storage(url, time.time)
    assert main(["store", "ping", url]) == 2
    assert f"[{extra}]" in capsys.readouterr().err
