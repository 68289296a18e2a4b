"""The settings of the shop's project; what a session needs is in `make_settings`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from jinja2 import Environment

from ..shop.goods import DAY, MAX_DEVICES, PAGES
from ..shop.keys import make_ring
from ..views.rendering import SHARED, make_environment


def make_settings(var: Path) -> dict[str, Any]:
    """The settings of a project with its keys, database and store in the directory `var`.

    Raises ConfigurationError, OperatorError or OSError.
    """
    return {
        "SESSION_ENGINE": "sealedstate_django",
        "SESSION_EXPIRE_AT_BROWSER_CLOSE": True,
        "SEALEDSTATE": {
            "keys": make_ring(var / "keys.json", longest_lifetime=30 * DAY),
            "storage": "django:default",
            "realm": "shop",
            "cookie_name": "shop",
            "secure": False,  # plain http on this machine; leave it out where there is https
            "longest_lifetime": 30 * DAY,
            # So that a list of devices shows what happened a minute ago, and not what a day.
            "refresh_after": 60,
        },
        "SEALEDSTATE_DEVICES": {
            "where": "examples.shop.browsers.name_device",
            "every": 60,
            "most": MAX_DEVICES,
        },
        "MIDDLEWARE": [
            "examples.django.shop.secure",
            "sealedstate_django.SealedSessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "sealedstate_django",
        ],
        "CSRF_USE_SESSIONS": True,
        "CSRF_FAILURE_VIEW": "examples.django.shop.refuse_form",
        "MESSAGE_STORAGE": "django.contrib.messages.storage.session.SessionStorage",
        "DATABASES": {
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": var / "shop.sqlite"}
        },
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.jinja2.Jinja2",
                "DIRS": [PAGES, SHARED],
                "OPTIONS": {"environment": "examples.django.project.make_templates"},
            }
        ],
        "ROOT_URLCONF": "examples.django.shop",
        # It seals no session, but Django ends logins of which it did not sign the password's hash.
        "SECRET_KEY": make_secret(var / "secret.txt"),
        "ALLOWED_HOSTS": ["*"],
        "USE_TZ": True,
    }


def make_secret(path: Path) -> str:
    """Make Django's secret if it is missing; returns it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(secrets.token_urlsafe(50))
    return path.read_text()


def make_templates(**options: Any) -> Environment:
    """Django's environment for Jinja2, with the filters that all examples share."""
    environment = Environment(**options)  # noqa: S701 - Django sets autoescape
    environment.filters.update(make_environment().filters)
    environment.globals["framework"] = "Django"
    return environment


def set_up(var: Path) -> Any:
    """Prepare Django and its database; returns the WSGI application."""
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application

    settings.configure(**make_settings(var))
    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    return get_wsgi_application()
