"""The page of the conformance kit in Flask."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request, session

from sealedstate import Settings
from sealedstate.testing.adapters import Act
from sealedstate_flask import SealedSessions, sealed
from tests.support.pages.wsgi import finish


def make(settings: Settings) -> Flask:
    app = Flask("kit")
    SealedSessions(app, settings)
    app.add_url_rule("/act", "act", _act, methods=["POST"])
    return app


def _act() -> Response:
    act = Act.parse(request.get_data())
    response = jsonify(finish(act.run(session, sealed(session))))
    response.headers.extend(act.headers)
    return response
