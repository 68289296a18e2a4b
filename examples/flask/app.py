"""A small shop: a cart, sign-in with "remember me", the user's own devices, sign-out everywhere.

What a session needs is in `make_app`; everything else is an ordinary Flask application.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flask import (
    Flask,
    Response,
    abort,
    flash,
    get_flashed_messages,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from jinja2 import FileSystemLoader
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from sealedstate import Keeper, SessionTooLarge, StorageError
from sealedstate_flask import SealedSessions, devices, sealed

from ..shop.browsers import describe_browser, name_device
from ..shop.goods import DAY, GOODS, MAX_DEVICES, MAX_NAME_CHARS, MAX_OF_EACH, PAGES, clean_name
from ..shop.keys import make_ring
from ..views.forms import check_form, ensure_token, renew_token, token_text
from ..views.rendering import SECURITY_HEADERS, SHARED, make_environment
from ..views.static_files import STATIC


def make_app(var: Path) -> Flask:
    """The shop, with keys and store in the directory `var`.

    Raises ConfigurationError, OperatorError or OSError.
    """
    app = Flask(__name__, static_folder=STATIC, static_url_path="")
    app.config.update(
        MAX_CONTENT_LENGTH=16_384,
        PERMANENT_SESSION_LIFETIME=30 * DAY,
        SESSION_COOKIE_NAME="shop",
        SEALEDSTATE_KEYS=make_ring(var / "keys.json", longest_lifetime=30 * DAY),
        SEALEDSTATE_STORAGE=f"sqlite:{var / 'shop.sqlite'}",
        SEALEDSTATE_REALM="shop",
        SEALEDSTATE_SECURE=False,  # plain http on this machine; leave it out where there is https
        SEALEDSTATE_DEVICES={"where": name_device, "every": 60, "most": MAX_DEVICES},
        # So that a list of devices shows what happened a minute ago, and not what 12 minutes.
        SEALEDSTATE_REFRESH_AFTER=60,
    )
    SealedSessions(app)
    app.jinja_env.loader = FileSystemLoader([PAGES, SHARED])
    app.jinja_env.filters.update(make_environment().filters)
    app.jinja_env.globals["framework"] = "Flask"
    _add_pages(app, app.extensions["sealedstate"])
    return app


def _add_pages(app: Flask, keeper: Keeper) -> None:
    # --- the shop -------------------------------------------------------------------------------

    @app.get("/")
    def shop() -> str:
        if sealed(session).refusal == "signed-out":
            flash("You were signed out, here or on another device.")
        info = keeper.info(sealed(session))
        return _page("shop.html", info=info, is_remembered=session.permanent)

    @app.post("/add-to-cart")
    def add_to_cart() -> AnyResponse:
        item = request.form.get("item", "")
        if item not in GOODS:
            abort(404)
        cart = session.setdefault("cart", {})
        # A change inside a dict is noticed.
        cart[item] = min(cart.get(item, 0) + 1, MAX_OF_EACH)
        flash(f"{item} is in your cart.")
        return redirect(url_for("shop"), 303)

    @app.post("/empty-cart")
    def empty_cart() -> AnyResponse:
        session.pop("cart", None)
        return redirect(url_for("shop"), 303)

    # --- signing in and out ---------------------------------------------------------------------

    @app.get("/sign-in")
    def ask_for_name() -> str:
        return _page("sign_in.html", max_chars=MAX_NAME_CHARS)

    @app.post("/sign-in")
    def sign_in() -> AnyResponse:
        name = clean_name(request.form.get("name", ""))
        if not name:
            flash("Please enter a name of printable characters.")
            return redirect(url_for("ask_for_name"), 303)
        session["_user_id"] = name  # a new session id, and full lifetimes from now
        session["device"] = describe_browser(request.user_agent.string)
        session.permanent = "remember" in request.form
        renew_token(sealed(session))
        flash("You are signed in, and your cart is still there.")
        return redirect(url_for("shop"), 303)

    @app.post("/sign-out")
    def sign_out() -> AnyResponse:
        session.clear()
        flash("You are signed out. Every copy of your cookie is refused from now on.")
        return redirect(url_for("shop"), 303)

    @app.post("/sign-out-everywhere")
    def sign_out_everywhere() -> AnyResponse:
        keeper.revoke_subject(_user())
        session.clear()
        flash("You are signed out on all devices.")
        return redirect(url_for("shop"), 303)

    # --- the user's own devices -----------------------------------------------------------------

    @app.get("/devices")
    def show_devices() -> str | AnyResponse:
        if "_user_id" not in session:
            return redirect(url_for("ask_for_name"), 303)
        found = devices().of(session)
        return _page("devices.html", devices=found, now=int(time.time()), most=MAX_DEVICES)

    @app.post("/devices/<device>/end")
    def end_device(device: str) -> AnyResponse:
        ended = devices().end_one(session, device)
        if ended is None:
            abort(404)
        flash(f"{ended.where} is signed out.")
        return redirect(url_for("show_devices"), 303)

    @app.post("/devices/end-others")
    def end_other_devices() -> AnyResponse:
        devices().end_others(session)
        flash("All other devices are signed out.")
        return redirect(url_for("show_devices"), 303)

    # --- every request --------------------------------------------------------------------------

    @app.before_request
    def check_origin() -> None:
        if request.method == "POST":
            check_form(sealed(session), request)

    @app.after_request
    def secure(response: Response) -> Response:
        if request.endpoint != "static":
            response.headers.update(SECURITY_HEADERS)
        return response

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> AnyResponse:
        # An error page needs no session: what went wrong may be the session.
        response = error.get_response()
        page = render_template("problem.html", headline=error.name, story=error.description)
        response.data = page.encode()
        return response

    @app.errorhandler(SessionTooLarge)
    def explain_size(_: SessionTooLarge) -> AnyResponse:
        story = "Your session has no room for this. Nothing was sent: it is as it was before."
        return Response(render_template("problem.html", headline="Too large", story=story), 413)

    @app.errorhandler(StorageError)
    def explain_store(_: StorageError) -> AnyResponse:
        story = "The store does not answer, so nothing was changed. Please try again in a moment."
        return Response(render_template("problem.html", headline="Not now", story=story), 503)


def _page(template: str, **values: Any) -> str:
    """A page; every template can use the values that are listed here."""
    ensure_token(sealed(session))
    return render_template(
        template,
        token=token_text(sealed(session)),
        user=session.get("_user_id"),
        cart=session.get("cart", {}),
        notice=" ".join(map(str, get_flashed_messages())),
        prices=GOODS,
        **values,
    )


def _user() -> str:
    """The user who is signed in; without one, the request is refused."""
    user: str | None = session.get("_user_id")
    return abort(401) if user is None else user
