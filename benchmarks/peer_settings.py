"""How the products are set up that take more than a secret: as their documentation recommends.

Knows settings. Does not know what a session is used for. Products are imported when they are asked
for, and by name.
"""

from __future__ import annotations

import os
import secrets
from importlib import import_module
from typing import Any

from sealedstate import Key


def configured_django() -> Any:
    """Django's settings, set once in a process."""
    conf = import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(
            SECRET_KEY=secrets.token_urlsafe(50),
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            INSTALLED_APPS=["django.contrib.sessions"],
            DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            USE_TZ=True,
            SEALEDSTATE={"keys": [Key.generate(os.urandom).export()]},
            ALLOWED_HOSTS=["app.example.edu", "127.0.0.1"],
            ROOT_URLCONF=(),
            LOGGING_CONFIG=None,
        )
        import_module("django").setup()
        with import_module("django.db").connection.schema_editor() as editor:
            editor.create_model(import_module("django.contrib.sessions.models").Session)
    return conf.settings


def beaker_options() -> dict[str, object]:
    """An encrypted cookie with JSON in it, by the library that Beaker's documentation names."""
    return {
        "session.type": "cookie",
        "session.encrypt_key": secrets.token_hex(),
        "session.validate_key": secrets.token_hex(),
        "session.crypto_type": "cryptography",
        "session.data_serializer": "json",
        "session.httponly": True,
        "session.secure": True,
        "session.samesite": "Lax",
        # As it is by default: a page says save() when it has changed something.
        "session.auto": False,
        "session.save_accessed_time": False,
    }


def pyramid_nacl_factory() -> Any:
    """JSON in the box, which Pyramid's documentation recommends over the pickle of the default."""
    factory = import_module("pyramid_nacl_session").EncryptedCookieSessionFactory
    serializer = import_module("pyramid.session").JSONSerializer()
    # By default, each request that reads it writes it again.
    return factory(
        secrets.token_bytes(32), serializer=serializer, secure=True, httponly=True, reissue_time=120
    )
