"""A small shop: a cart, sign-in with "remember me", the user's own devices, sign-out everywhere.

Nothing in it is special for sealed sessions but the list of devices and the sign-out everywhere.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django.contrib import messages
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import path, re_path
from django.views.decorators.http import require_GET, require_POST
from django.views.static import serve

from sealedstate.sso import SessionRegistry
from sealedstate_django import keeper, sealed

from ..views.rendering import SECURITY_HEADERS
from ..views.static_files import NAMES, STATIC
from .models import Device

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
BACKEND = "django.contrib.auth.backends.ModelBackend"


@functools.cache
def registry() -> SessionRegistry:
    """The list of all sessions of users, in the store."""
    return SessionRegistry(keeper(), every=60)


# --- the shop -----------------------------------------------------------------------------------


@require_GET
def shop(request: HttpRequest) -> HttpResponse:
    session = sealed(request.session)
    if session.refusal == "signed-out":
        messages.info(request, "You were signed out, here or on another device.")
    remembered = not request.session.get_expire_at_browser_close()
    return _page(request, "shop.html", info=keeper().info(session), remembered=remembered)


@require_POST
def add_to_cart(request: HttpRequest) -> HttpResponse:
    item = request.POST.get("item", "")
    if item not in GOODS:
        raise Http404
    cart = request.session.setdefault("cart", {})
    # A change inside a dict is noticed.
    cart[item] = min(cart.get(item, 0) + 1, MAX_OF_EACH)
    messages.info(request, f"{item} is in your cart.")
    return _see("/")


@require_POST
def empty_cart(request: HttpRequest) -> HttpResponse:
    request.session.pop("cart", None)
    return _see("/")


# --- signing in and out -------------------------------------------------------------------------


def sign_in(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        return _page(request, "sign_in.html", max_chars=MAX_NAME_CHARS)
    # Any name will do: it is a demo.
    name = " ".join(request.POST.get("name", "").split())[:MAX_NAME_CHARS].rstrip()
    if not (name and name.isprintable()):
        messages.info(request, "Please enter a name of printable characters.")
        return _see("/sign-in")
    user, _ = User.objects.get_or_create(username=name)
    registry()  # it lists the session that is saved at the end of this request
    login(request, user, BACKEND)  # a new session id, and full lifetimes from now
    request.session.set_expiry(30 * DAY if "remember" in request.POST else None)
    label = describe_browser(request.headers.get("User-Agent", ""))
    key = request.session.session_key or ""
    Device.objects.update_or_create(session_key=key, defaults={"label": label})
    for each in registry().list(str(user.pk))[MAX_DEVICES - 1 :]:
        registry().revoke(each.id)  # those that were last used longest ago
    messages.info(request, "You are signed in, and your cart is still there.")
    return _see("/")


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    messages.info(request, "You are signed out. Every copy of your cookie is refused from now on.")
    return _see("/")


@require_POST
@login_required(login_url="/sign-in")
def sign_out_everywhere(request: HttpRequest) -> HttpResponse:
    keeper().revoke_subject(str(request.user.pk))
    logout(request)
    messages.info(request, "You are signed out on all devices.")
    return _see("/")


# --- the user's own devices ---------------------------------------------------------------------


@require_GET
@login_required(login_url="/sign-in")
def devices(request: HttpRequest) -> HttpResponse:
    live = registry().list(str(request.user.pk))
    labels = dict(
        Device.objects.filter(session_key__in=[each.session_id for each in live]).values_list(
            "session_key", "label"
        )
    )
    rows = [
        {
            "id": each.id,
            "label": labels.get(each.session_id, "A browser"),
            "started": each.started,
            "last_seen": each.last_seen,
            "is_this": each.session_id == request.session.session_key,
        }
        for each in live
    ]
    return _page(request, "devices.html", devices=rows, now=int(time.time()), most=MAX_DEVICES)


@require_POST
@login_required(login_url="/sign-in")
def end_device(request: HttpRequest, device: str) -> HttpResponse:
    found = registry().find(device)
    if found is None or found.subject != str(request.user.pk):
        raise Http404
    registry().revoke(device)
    messages.info(request, "This device is signed out.")
    return _see("/devices")


@require_POST
@login_required(login_url="/sign-in")
def end_other_devices(request: HttpRequest) -> HttpResponse:
    for each in registry().list(str(request.user.pk)):
        if each.session_id != request.session.session_key:
            registry().revoke(each.id)
    messages.info(request, "All other devices are signed out.")
    return _see("/devices")


# --- every request ------------------------------------------------------------------------------


def secure(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """A middleware that gives every page the security headers of the examples."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return answer


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    # An error page needs no session: what went wrong may be the session.
    values = {"headline": "Not Found", "story": "The shop has no such page."}
    return render(request, "problem.html", values, status=404)


def refuse_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    story = "The form came from another page, or from before you signed in. Please try again."
    return render(request, "problem.html", {"headline": "Refused", "story": story}, status=403)


def _see(place: str) -> HttpResponse:
    response = HttpResponseRedirect(place)
    response.status_code = 303
    return response


def _page(request: HttpRequest, template: str, **values: Any) -> HttpResponse:
    """A page; every template can use the values that are listed here."""
    user = request.user.get_username() if request.user.is_authenticated else None
    shared = {
        "user": user,
        "cart": request.session.get("cart", {}),
        "notice": " ".join(str(each) for each in messages.get_messages(request)),
        "goods": GOODS,
        "prices": GOODS,
    }
    return render(request, template, {**shared, **values})


def describe_browser(agent: str) -> str:
    """A name for a device, such as "Firefox on Linux"."""
    # In this order, because most browsers also name others.
    browsers = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome"}
    systems = {"Android": "Android", "iPhone": "iPhone", "iPad": "iPad", "Windows": "Windows"}
    browsers |= {"Safari": "Safari", "curl": "curl"}
    systems |= {"Mac OS": "macOS", "Linux": "Linux"}
    browser = next((name for mark, name in browsers.items() if f"{mark}/" in agent), None)
    system = next((name for mark, name in systems.items() if mark in agent), None)
    if browser is None:
        browser = re.sub(r"[^\w. -]", "", agent.partition("/")[0])[:30] or "A browser"
    return browser if system is None else f"{browser} on {system}"


handler404 = not_found
urlpatterns = [
    path("", shop),
    path("add-to-cart", add_to_cart),
    path("empty-cart", empty_cart),
    path("sign-in", sign_in),
    path("sign-out", sign_out),
    path("sign-out-everywhere", sign_out_everywhere),
    path("devices", devices),
    path("devices/end-others", end_other_devices),
    path("devices/<str:device>/end", end_device),
    re_path(
        f"^(?P<path>{'|'.join(map(re.escape, sorted(NAMES)))})$", serve, {"document_root": STATIC}
    ),
]
