"""A Flask application with sealed sessions, in process."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from flask import Flask

from sealedstate import Key
from sealedstate_flask import SealedSessions

MakeApp: TypeAlias = Callable[..., Flask]

LOOKUP = base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")
KEYS = [Key.generate(os.urandom).export(), f"sealedstate-lookup-1:{LOOKUP}"]


@pytest.fixture
def make_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeApp]:
    """Make an application: with a store, after what `prepare` does, and with this configuration."""
    for name in os.environ:
        if name.startswith("SEALEDSTATE_"):
            monkeypatch.delenv(name)
    made: list[Flask] = []

    def make(
        stored: bool = False, prepare: Callable[[Flask], object] = repr, **config: Any
    ) -> Flask:
        app = Flask("shop")
        app.config["SEALEDSTATE_KEYS"] = KEYS
        if stored:
            app.config["SEALEDSTATE_STORAGE"] = f"sqlite:{tmp_path / 'store.db'}"
        app.config.update(config)
        prepare(app)
        SealedSessions(app)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["sealedstate"].deployment.close()
