"""A small shop: a cart, sign-in with "remember me", the user's own devices, sign-out everywhere.

Nothing in it is special for sealed sessions but the list of devices and the sign-out everywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
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

from sealedstate_django import devices, keeper, sealed

from ..shop.browsers import describe_browser
from ..shop.goods import DAY, GOODS, MAX_DEVICES, MAX_NAME_CHARS, MAX_OF_EACH, clean_name
from ..views.rendering import SECURITY_HEADERS
from ..views.static_files import NAMES, STATIC

BACKEND = "django.contrib.auth.backends.ModelBackend"


# --- the shop -----------------------------------------------------------------------------------


@require_GET
def shop(request: HttpRequest) -> HttpResponse:
    session = sealed(request.session)
    if session.refusal == "signed-out":
        messages.info(request, "You were signed out, here or on another device.")
    is_remembered = not request.session.get_expire_at_browser_close()
    return _page(request, "shop.html", info=keeper().info(session), is_remembered=is_remembered)


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
    name = clean_name(request.POST.get("name", ""))
    if not name:
        messages.info(request, "Please enter a name of printable characters.")
        return _see("/sign-in")
    user, _ = User.objects.get_or_create(username=name)
    login(request, user, BACKEND)  # a new session id, and full lifetimes from now
    request.session.set_expiry(30 * DAY if "remember" in request.POST else None)
    request.session["device"] = describe_browser(request.headers.get("User-Agent", ""))
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
def show_devices(request: HttpRequest) -> HttpResponse:
    found, now = devices().of(request.session), int(time.time())
    return _page(request, "devices.html", devices=found, now=now, most=MAX_DEVICES)


@require_POST
@login_required(login_url="/sign-in")
def end_device(request: HttpRequest, device: str) -> HttpResponse:
    ended = devices().end_one(request.session, device)
    if ended is None:
        raise Http404
    messages.info(request, f"{ended.where} is signed out.")
    return _see("/devices")


@require_POST
@login_required(login_url="/sign-in")
def end_other_devices(request: HttpRequest) -> HttpResponse:
    devices().end_others(request.session)
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
        "prices": GOODS,
    }
    return render(request, template, {**shared, **values})


handler404 = not_found
urlpatterns = [
    path("", shop),
    path("add-to-cart", add_to_cart),
    path("empty-cart", empty_cart),
    path("sign-in", sign_in),
    path("sign-out", sign_out),
    path("sign-out-everywhere", sign_out_everywhere),
    path("devices", show_devices),
    path("devices/end-others", end_other_devices),
    path("devices/<str:device>/end", end_device),
    re_path(
        f"^(?P<path>{'|'.join(map(re.escape, sorted(NAMES)))})$", serve, {"document_root": STATIC}
    ),
]
