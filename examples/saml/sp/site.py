"""A service as a WSGI application: which request gets which answer."""

from __future__ import annotations

from pathlib import Path

from saml2 import BINDING_HTTP_ARTIFACT
from saml2.metadata import entity_descriptor
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from ...views.forms import check_form, ensure_token
from ..messages import LOGOUT_KINDS, Refused
from ..web import Site, SiteRequest, respond_by_soap, see_other
from .logout import Logout
from .resources import ServiceResources
from .sign_on import SignOn, find_login

NOTICES = {
    "signed-out": "You are signed out here and at every other service.",
    "not-signed-in": "You are not signed in here.",
}
WARNINGS = {
    "partly-signed-out": "You are signed out here. But not every service has confirmed that it"
    " signed you out, too: close the browser to be safe.",
    "not-confirmed": "You are signed out here, but the identity provider did not confirm it. You"
    " may still be signed in elsewhere.",
}
ROUTES = Map(
    [
        Rule("/", endpoint="home", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in", methods=["POST"]),
        Rule("/acs", endpoint="response-post", methods=["POST"]),
        Rule("/acs/artifact", endpoint="response-artifact", methods=["GET"]),
        Rule("/sign-out", endpoint="sign-out", methods=["POST"]),
        Rule("/sign-out-by-soap", endpoint="sign-out-by-soap", methods=["POST"]),
        Rule("/slo", endpoint="logout-redirect", methods=["GET"]),
        Rule("/slo/soap", endpoint="logout-soap", methods=["POST"]),
        Rule("/metadata", endpoint="metadata", methods=["GET"]),
    ]
)


class ServiceProvider(Site):
    """A service whose users sign in at the identity provider."""

    def __init__(self, resources: ServiceResources) -> None:
        handlers = {
            "home": self._home,
            "sign-in": self._sign_in,
            "response-post": self._response_post,
            "response-artifact": self._response_artifact,
            "sign-out": self._sign_out,
            "sign-out-by-soap": self._sign_out_by_soap,
            "logout-redirect": self._logout_redirect,
            "logout-soap": self._logout_soap,
            "metadata": self._metadata,
        }
        super().__init__(
            resources.deployment,
            ROUTES,
            handlers,
            resources.federation,
            templates=Path(__file__).with_name("templates"),
            layout="service.html",
            common={"service": resources.service, "idp": resources.federation.idp.at("/")},
        )
        self._service = resources.service
        self._client = resources.client
        self._messages = resources.messages
        self._sign_on = SignOn(resources)
        self._logout = Logout(resources, self.keeper)

    def _home(self, request: SiteRequest) -> Response:
        ensure_token(request.session)
        done = request.args.get("done", "")
        return self.page(
            request,
            "home.html",
            notice=NOTICES.get(done),
            warning=WARNINGS.get(done),
            login=find_login(request.session),
            cookie_bytes=len(request.cookies.get(self._service.name, "")),
        )

    # --- signing in -----------------------------------------------------------------------------

    def _sign_in(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        outgoing = self._sign_on.ask(request.session)
        if outgoing.fields is None:
            return see_other(outgoing.address)
        recipient = "the identity provider"
        return self.post_page(request, outgoing.address, outgoing.fields, recipient)

    def _response_post(self, request: SiteRequest) -> Response:
        if self._service.answered_by == BINDING_HTTP_ARTIFACT:
            raise Refused("this service accepts only artifacts")
        self._sign_on.accept(request.session, request.form.get("SAMLResponse", ""))
        return see_other("/")

    def _response_artifact(self, request: SiteRequest) -> Response:
        if self._service.answered_by != BINDING_HTTP_ARTIFACT:
            raise Refused("this service accepts no artifacts")
        response = self._sign_on.fetch(request.args.get("SAMLart", ""))
        self._sign_on.accept(request.session, response)
        return see_other("/")

    # --- signing out ----------------------------------------------------------------------------

    def _sign_out(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        login = find_login(request.session)
        if login is None:
            return see_other("/?done=not-signed-in")
        return see_other(self._logout.leave(request.session, login))

    def _sign_out_by_soap(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        login = find_login(request.session)
        if login is None:
            return see_other("/?done=not-signed-in")
        return see_other(f"/?done={self._logout.leave_by_soap(request.session, login)}")

    def _logout_redirect(self, request: SiteRequest) -> Response:
        """The identity provider's request, or its answer to our request."""
        query = request.query_string.decode("ascii", "replace")
        received = self._messages.receive_redirect(query, LOGOUT_KINDS, "/slo")
        if received.kind == "LogoutRequest":
            return see_other(self._logout.answer_redirect(request.session, received))
        return see_other(f"/?done={self._logout.receive_answer(request.session, received)}")

    def _logout_soap(self, request: SiteRequest) -> Response:
        received = self._messages.receive_soap(request.get_data(), "LogoutRequest", "/slo/soap")
        return respond_by_soap(self._logout.answer_soap(received))

    # --- metadata -------------------------------------------------------------------------------

    def _metadata(self, request: SiteRequest) -> Response:
        text = str(entity_descriptor(self._client.config))
        return Response(text, mimetype="application/samlmetadata+xml")
