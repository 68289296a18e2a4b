"""The page of the conformance kit in Pyramid."""

from __future__ import annotations

from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from sealedstate import Keeper, Settings
from sealedstate.testing.adapters import Act
from sealedstate_pyramid import sealed
from tests.support.pages.wsgi import finish


def make(settings: Settings) -> Any:
    with Configurator() as config:
        config.registry["sealedstate"] = Keeper(settings)
        config.include("sealedstate_pyramid")
        config.add_route("act", "/act")
        config.add_view(_act, route_name="act", request_method="POST")
        return config.make_wsgi_app()


def _act(request: Request) -> Response:
    act = Act.parse(request.environ["wsgi.input"].read(request.content_length))
    result = finish(act.run(request.session, sealed(request.session)))
    response = Response(json_body=result)
    response.headerlist.extend(act.headers)
    return response
