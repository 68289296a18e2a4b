"""The page of `request_apps`, with a session of which a part, or all, is on a server.

Knows how each product keeps sessions on each kind of server, by a URL as `open_storage` takes it.
Does not know how servers are started or how requests are made. One product in a process: Django's
settings are set once.

Each session is a login (W1) and a cart of a thousand characters. Ours keeps the login in the cookie
and spills the cart; what is read and changed is the cart. The others keep all on the server.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from benchmarks.request_apps import (
    BODY,
    Application,
    Environ,
    Page,
    Pages,
    django_pages,
    make_pages,
    start_ours,
)
from benchmarks.store_django import cache_of, database_of
from benchmarks.workloads import ENTITY_IDS, make_workload, read_entity_ids

CART = "cart"
CART_CHARS = 1000
SQL, CACHES = ("sqlite", "postgresql", "mariadb"), ("redis", "memcached")
SEED = 1
# A busy disk must not end the measuring; what a time-out costs is measured elsewhere.
PATIENCE = "sealedstate_timeout=10"


def start_sealedstate(backend: str, url: str) -> Pages:
    """Our middleware; the cart is spilled, the rest rides in the cookie."""
    load = make_workload("W1", SEED, read_entity_ids(ENTITY_IDS))
    patient = f"{url}{'&' if '?' in url else '?'}{PATIENCE}"
    given: dict[str, Any] = {"storage": patient, "parts": {CART: "server"}}
    if backend == "memcached":
        given["accept_weak_store_for"] = ["revocation"]
    return start_ours(load, page_of=(_fill_cart, _read_cart, _change_cart), **given)


def start_django(backend: str, url: str) -> Pages:
    """SessionMiddleware over the db backend, or over the cache backend where the server is one."""
    engine = "db" if backend in SQL else "cache"
    settings: dict[str, Any] = {
        "SECRET_KEY": secrets.token_urlsafe(50),
        "SESSION_ENGINE": f"django.contrib.sessions.backends.{engine}",
        "INSTALLED_APPS": ["django.contrib.sessions"],
        "ALLOWED_HOSTS": ["app.example.edu", "127.0.0.1"],
        "ROOT_URLCONF": (),
        "LOGGING_CONFIG": None,
        "USE_TZ": True,
    }
    if backend in SQL:
        settings["DATABASES"] = {"default": database_of(backend, url)}
    else:
        settings["CACHES"] = {"default": cache_of(backend, url)}
    conf = import_module("django.conf")
    conf.settings.configure(**settings)
    import_module("django").setup()
    if backend in SQL:
        connection = import_module("django.db").connection
        with connection.schema_editor() as editor:
            editor.create_model(import_module("django.contrib.sessions.models").Session)
    without, made, untouched = django_pages(conf.settings)
    return make_pages(without, made, untouched, *_plain_pages())


def start_flask_session(backend: str, url: str) -> Pages:
    """Flask-Session in a Flask application of one route."""
    flask, extension = import_module("flask"), import_module("flask_session")
    app = flask.Flask("bench")
    app.config.update(_FLASK[backend](app, url), SESSION_PERMANENT=False)
    extension.Session(app)
    interface = app.session_interface
    if backend in SQL:
        with app.app_context():
            interface.client.create_all()
    bare = flask.Flask("bare")

    def made_in(which: Any, page: Page | None) -> Application:
        def view() -> Any:
            if page is not None:
                page(flask.session)
            return flask.Response(BODY, content_type="text/plain")

        def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
            which.view_functions["view"] = view
            answer: Iterable[bytes] = which.wsgi_app(environ, start_response)
            return answer

        return application

    for one in (app, bare):
        one.add_url_rule("/", "view", lambda: "")
    without, untouched = made_in(bare, None), made_in(app, None)
    return make_pages(without, lambda page: made_in(app, page), untouched, *_plain_pages())


STORED: Mapping[str, Callable[[str, str], Pages]] = {
    "sealedstate, cart spilled": start_sealedstate,
    "Django session": start_django,
    "Flask-Session": start_flask_session,
}


def _plain_pages() -> tuple[Page, Page, Page]:
    plain = make_workload("W1", SEED, read_entity_ids(ENTITY_IDS)).plain()

    def fill(session: Any) -> None:
        session.update(plain)
        _fill_cart(session)

    return fill, _read_cart, _change_cart


def _fill_cart(session: Any) -> None:
    session[CART] = "x" * CART_CHARS


def _read_cart(session: Any) -> None:
    if len(session[CART]) != CART_CHARS:
        raise RuntimeError("the cart is not there")


def _change_cart(session: Any) -> None:
    _read_cart(session)
    session[CART] = secrets.token_hex(CART_CHARS // 2)


# --- Flask-Session's settings ---------------------------------------------------------------------


def _flask_sql(app: Any, url: str) -> dict[str, object]:
    database = import_module("flask_sqlalchemy").SQLAlchemy
    scheme, _, rest = url.partition(":")
    drivers = {"postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}
    where = f"sqlite:///{rest}.flask" if scheme == "sqlite" else f"{drivers[scheme]}:{rest}"
    app.config["SQLALCHEMY_DATABASE_URI"] = where
    return {"SESSION_TYPE": "sqlalchemy", "SESSION_SQLALCHEMY": database(app)}


def _flask_redis(_: Any, url: str) -> dict[str, object]:
    return {"SESSION_TYPE": "redis", "SESSION_REDIS": import_module("redis").Redis.from_url(url)}


def _flask_memcached(_: Any, url: str) -> dict[str, object]:
    client = import_module("pymemcache.client.base").Client(url.partition("//")[2], no_delay=True)
    return {"SESSION_TYPE": "memcached", "SESSION_MEMCACHED": client}


_FLASK: Mapping[str, Callable[[Any, str], dict[str, object]]] = {
    **dict.fromkeys(SQL, _flask_sql),
    "redis": _flask_redis,
    "memcached": _flask_memcached,
}
