"""A small OpenID provider on Authlib's server, in a thread: it signs in everyone as Ann at once.

Endpoints: /.well-known/openid-configuration, /authorize (code, with PKCE), /token and /keys.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from wsgiref.types import WSGIApplication

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from flask import Flask, request
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import make_server

CLIENT_ID, CLIENT_SECRET = "shop", "the shop's secret"
ANN = UserInfo(sub="ann", name="Ann", email="ann@example.org")


class Client(ClientMixin):  # type: ignore[misc]
    client_id, client_secret = CLIENT_ID, CLIENT_SECRET
    id_token_signed_response_alg = "RS256"

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, uri: str) -> bool:
        return uri.startswith("http://127.0.0.1:") and uri.endswith("/back")

    def check_client_secret(self, secret: str) -> bool:
        return secret == self.client_secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class Code(AuthorizationCodeMixin):  # type: ignore[misc]
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> None:
        return None

    get_acr = get_amr = get_auth_time


def make_provider() -> Flask:
    app, codes = Flask("provider"), dict[str, Code]()
    keys = KeySet([RSAKey.generate_key(2048, {"use": "sig", "kid": "1"}, auto_kid=False)])
    client = Client()

    class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
        def save_authorization_code(self, code: str, asked: Any) -> None:
            data = asked.payload.data
            codes[code] = Code(
                asked.payload.redirect_uri,
                asked.payload.scope,
                data["nonce"],
                data["code_challenge"],
                data["code_challenge_method"],
            )

        def query_authorization_code(self, code: str, client: Client) -> Code | None:
            return codes.get(code)

        def delete_authorization_code(self, used: Code) -> None:
            for text in [text for text, code in codes.items() if code is used]:
                del codes[text]

        def authenticate_user(self, code: Code) -> SimpleNamespace:
            return SimpleNamespace(get_user_id=lambda: ANN["sub"])

    class Identity(OpenIDCode):  # type: ignore[misc]
        def exists_nonce(self, nonce: str, asked: Any) -> bool:
            return any(code.nonce == nonce for code in codes.values())

        def resolve_client_private_key(self, client: Client) -> KeySet:
            return keys

        def get_client_claims(self, client: Client) -> dict[str, Any]:
            return {"iss": request.host_url.rstrip("/"), "aud": [client.client_id]}

        def generate_user_info(self, user: Any, scope: str) -> UserInfo:
            return ANN

    server = AuthorizationServer(
        app, lambda name: client if name == CLIENT_ID else None, lambda token, asked: None
    )
    server.register_grant(Grant, [CodeChallenge(required=True), Identity(require_nonce=True)])

    @app.get("/.well-known/openid-configuration")
    def describe() -> dict[str, Any]:
        here = request.host_url.rstrip("/")
        return {
            "issuer": here,
            "authorization_endpoint": f"{here}/authorize",
            "token_endpoint": f"{here}/token",
            "jwks_uri": f"{here}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    @app.get("/keys")
    def show_keys() -> Any:
        return keys.as_dict(private=False)

    @app.get("/authorize")
    def authorize() -> Any:
        user = SimpleNamespace(get_user_id=lambda: ANN["sub"])
        grant = server.get_consent_grant(end_user=user)
        return server.create_authorization_response(grant=grant, grant_user=user)

    @app.post("/token")
    def issue_token() -> Any:
        return server.create_token_response()

    return app


@contextlib.contextmanager
def serve(app: WSGIApplication) -> Iterator[int]:
    """Serve an application in a thread, on a free port of 127.0.0.1."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
