"""A small shop: a cart, sign-in with "remember me", the user's own devices, sign-out everywhere.

What a session needs is in `make_app`; everything else is an ordinary FastAPI application.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.staticfiles import StaticFiles

from sealedstate import Keeper, SessionTooLarge, Settings, StorageError, plain
from sealedstate.asynchronous import AsyncKeeper, AsyncSessionRegistry
from sealedstate_asgi import SealedSession, SealedSessionMiddleware
from sealedstate_asgi.fastapi import Sealed

from ..shop.browsers import describe_browser, name_device
from ..shop.goods import DAY, GOODS, MAX_DEVICES, MAX_NAME_CHARS, MAX_OF_EACH, PAGES, clean_name
from ..shop.keys import make_ring
from ..views.rendering import SECURITY_HEADERS, make_environment

TEMPLATES = make_environment(PAGES)
TEMPLATES.globals["framework"] = "FastAPI"
STATIC = Path(__file__).parents[1] / "views" / "static"
FILES = frozenset(f"/{path.name}" for path in STATIC.iterdir())


def make_app(var: Path) -> FastAPI:
    """The shop, with keys and store in the directory `var`.

    Raises ConfigurationError, OperatorError or OSError.
    """
    keeper = Keeper(
        Settings(
            keys=make_ring(var / "keys.json", longest_lifetime=30 * DAY),
            storage=f"sqlite:{var / 'shop.sqlite'}",
            realm="shop",
            cookie_name="shop",
            secure=False,  # plain http on this machine; leave it out where there is https
            longest_lifetime=30 * DAY,
            # So that a list of devices shows what happened a minute ago, and not what 12 minutes.
            refresh_after=60,
            convert=plain,
        )
    )
    shop = Shop(keeper)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await shop.sessions.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        SealedSessionMiddleware,
        shop.sessions,
        autoload=lambda scope: scope["path"] not in FILES,  # which need no session
    )
    app.include_router(shop.router)
    app.mount("/", StaticFiles(directory=STATIC))
    app.add_exception_handler(AnyHTTPException, explain)
    app.add_exception_handler(SessionTooLarge, explain_size)
    app.add_exception_handler(StorageError, explain_store)
    return app


async def check_form(request: Request, session: Sealed) -> None:
    """Refuse a form that another site sent in the visitor's name."""
    if session.withheld is not None:
        # It holds no token, yet signing in must work: signing in is what replaces its cookie.
        is_ours = request.headers.get("Sec-Fetch-Site") == "same-origin"
    else:
        received = (await request.form()).get("csrf", "")
        expected = session.parts.get("csrf") or secrets.token_hex()
        is_ours = hmac.compare_digest(str(received).encode(), expected.encode())
    if not is_ours:
        raise HTTPException(403, "This form is not of a page that you have open. Please try again.")


class Shop:
    """The pages, on the sessions of `keeper`."""

    def __init__(self, keeper: Keeper) -> None:
        self.sessions = AsyncKeeper(keeper)
        self._devices = AsyncSessionRegistry(
            self.sessions, where=name_device, every=60, most=MAX_DEVICES
        )
        router = self.router = APIRouter()
        posts = APIRouter(dependencies=[Depends(check_form)])
        router.get("/")(self.show)
        router.get("/sign-in")(self.ask_for_name)
        router.get("/devices")(self.show_devices)
        posts.post("/add-to-cart")(self.add_to_cart)
        posts.post("/empty-cart")(self.empty_cart)
        posts.post("/sign-in")(self.sign_in)
        posts.post("/sign-out")(self.sign_out)
        posts.post("/sign-out-everywhere")(self.sign_out_everywhere)
        posts.post("/devices/end-others")(self.end_other_devices)
        posts.post("/devices/{device}/end")(self.end_device)
        router.include_router(posts)

    # --- the shop -------------------------------------------------------------------------------

    async def show(self, session: Sealed) -> Response:
        if session.refusal == "signed-out":
            session.parts["notice"] = "You were signed out, here or on another device."
        info = self.sessions.keeper.info(session.session)
        return _page("shop.html", session, info=info)

    async def add_to_cart(self, session: Sealed, item: Annotated[str, Form()]) -> Response:
        if item not in GOODS:
            raise HTTPException(404, "There is no such thing in this shop.")
        cart = session.parts.setdefault("cart", {})
        # A change inside a dict is noticed.
        cart[item] = min(cart.get(item, 0) + 1, MAX_OF_EACH)
        return _go("/", session, f"{item} is in your cart.")

    async def empty_cart(self, session: Sealed) -> Response:
        session.parts.pop("cart", None)
        return _go("/", session)

    # --- signing in and out ---------------------------------------------------------------------

    async def ask_for_name(self, session: Sealed) -> Response:
        return _page("sign_in.html", session, max_chars=MAX_NAME_CHARS)

    async def sign_in(
        self,
        request: Request,
        session: Sealed,
        name: Annotated[str, Form()] = "",
        remember: Annotated[str, Form()] = "",
    ) -> Response:
        name = clean_name(name)
        if not name:
            return _go("/sign-in", session, "Please enter a name of printable characters.")
        session.sign_in(name)  # a new session id, and full lifetimes from now
        if remember:
            until = time.time() + 30 * DAY
            session.limit(persistent=True, idle=30 * DAY, until=until)
        session.parts["device"] = describe_browser(request.headers.get("User-Agent", ""))
        session.parts["csrf"] = secrets.token_hex(16)
        return _go("/", session, "You are signed in, and your cart is still there.")

    async def sign_out(self, session: Sealed) -> Response:
        await session.invalidate()
        return _go(
            "/", session, "You are signed out. Every copy of your cookie is refused from now on."
        )

    async def sign_out_everywhere(self, session: Sealed) -> Response:
        await self.sessions.revoke_subject(_user(session))
        await session.invalidate()
        return _go("/", session, "You are signed out on all devices.")

    # --- the user's own devices -----------------------------------------------------------------

    async def show_devices(self, session: Sealed) -> Response:
        if session.subject is None:
            return _go("/sign-in", session)
        found, now = await self._devices.of(session), int(time.time())
        return _page("devices.html", session, devices=found, now=now, most=MAX_DEVICES)

    async def end_device(self, session: Sealed, device: str) -> Response:
        ended = await self._devices.end_one(session, device)
        if ended is None:
            raise HTTPException(404, "You are not signed in on such a device.")
        return _go("/devices", session, f"{ended.where} is signed out.")

    async def end_other_devices(self, session: Sealed) -> Response:
        await self._devices.end_others(session)
        return _go("/devices", session, "All other devices are signed out.")


# --- answers ------------------------------------------------------------------------------------


def _page(template: str, session: SealedSession, **values: Any) -> HTMLResponse:
    """A page; every template can use the values that are listed here."""
    parts = session.parts
    if session.withheld is None and "csrf" not in parts:
        parts["csrf"] = secrets.token_hex(16)
    text = TEMPLATES.get_template(template).render(
        token=parts.get("csrf", ""),
        user=session.subject,
        cart=parts.get("cart", {}),
        notice=parts.pop("notice", ""),
        is_remembered=session.persistent,
        prices=GOODS,
        **values,
    )
    return HTMLResponse(text, headers=SECURITY_HEADERS)


def _go(path: str, session: SealedSession, notice: str = "") -> RedirectResponse:
    """Leads to another page, which shows the notice."""
    if notice:
        session.parts["notice"] = notice
    return RedirectResponse(path, 303)


def _problem(status: int, headline: str, story: str) -> HTMLResponse:
    """An error page needs no session: what went wrong may be the session."""
    text = TEMPLATES.get_template("problem.html").render(headline=headline, story=story)
    return HTMLResponse(text, status, SECURITY_HEADERS)


async def explain(_: Request, error: Exception) -> Response:
    if not isinstance(error, AnyHTTPException):
        raise error
    headlines: Mapping[int, str] = {401: "Sign in first", 403: "Forbidden", 404: "Not Found"}
    headline = headlines.get(error.status_code, f"Error {error.status_code}")
    return _problem(error.status_code, headline, error.detail)


async def explain_size(_: Request, error: Exception) -> Response:
    story = "Your session has no room for this. Nothing was sent: it is as it was before."
    return _problem(413, "Too large", story)


async def explain_store(_: Request, error: Exception) -> Response:
    story = "The store does not answer, so nothing was changed. Please try again in a moment."
    return _problem(503, "Not now", story)


def _user(session: SealedSession) -> str:
    """The user who is signed in; without one, the request is refused."""
    if session.subject is None:
        raise HTTPException(401, "You are not signed in.")
    return session.subject
