"""A service as a WSGI application: which request gets which answer.

Knows routes and forms. Does not know what a message says, or how a page looks.
"""

from __future__ import annotations

from saml2 import BINDING_HTTP_ARTIFACT
from saml2.metadata import entity_descriptor
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from ...views.forms import check_form, offer_token, token_text
from ...views.markup import Html
from ..messages import LOGOUT_KINDS, Refused
from ..web import Site, SiteRequest, see_other, soap
from . import pages
from .deployment import Deployment
from .logout import Logout
from .sign_on import SignOn, login_of

ROUTES = Map(
    [
        Rule("/", endpoint="home", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in", methods=["POST"]),
        Rule("/acs", endpoint="posted", methods=["POST"]),
        Rule("/acs/artifact", endpoint="artifact", methods=["GET"]),
        Rule("/sign-out", endpoint="sign-out", methods=["POST"]),
        Rule("/sign-out-by-soap", endpoint="sign-out-by-soap", methods=["POST"]),
        Rule("/slo", endpoint="logout", methods=["GET"]),
        Rule("/slo/soap", endpoint="logout-by-soap", methods=["POST"]),
        Rule("/metadata", endpoint="metadata", methods=["GET"]),
    ]
)


class ServiceProvider(Site):
    """A service that has no sign-in of its own."""

    def __init__(self, deployment: Deployment) -> None:
        handlers = {
            "home": self._home,
            "sign-in": self._sign_in,
            "posted": self._posted,
            "artifact": self._artifact,
            "sign-out": self._sign_out,
            "sign-out-by-soap": self._sign_out_by_soap,
            "logout": self._logout,
            "logout-by-soap": self._logout_by_soap,
            "metadata": self._metadata,
        }
        super().__init__(
            deployment.settings, ROUTES, handlers, self._refusal_page, deployment.federation
        )
        self._deployment = deployment
        self._messages = deployment.messages
        self._sign_on = SignOn(deployment)
        self._signing_out = Logout(deployment, self.keeper)
        self._idp = deployment.federation.idp.at("/")

    def _home(self, request: SiteRequest) -> Response:
        session = request.session
        offer_token(session)
        size = len(request.cookies.get(self._deployment.service.name, ""))
        return self.page(pages.home(self._frame(request), self._idp, login_of(session), size))

    # --- signing in -----------------------------------------------------------------------------

    def _sign_in(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        question = self._sign_on.ask(request.session)
        if question.fields is None:
            return see_other(question.address)
        frame = self._frame(request)
        return self.page(pages.posting(frame, self._idp, question.address, question.fields))

    def _posted(self, request: SiteRequest) -> Response:
        if self._deployment.service.answered_by == BINDING_HTTP_ARTIFACT:
            raise Refused("this service takes artifacts")
        self._sign_on.believe(request.session, request.form.get("SAMLResponse", ""))
        return see_other("/")

    def _artifact(self, request: SiteRequest) -> Response:
        if self._deployment.service.answered_by != BINDING_HTTP_ARTIFACT:
            raise Refused("this service takes no artifacts")
        response = self._sign_on.by_artifact(request.args.get("SAMLart", ""))
        self._sign_on.believe(request.session, response)
        return see_other("/")

    # --- signing out ----------------------------------------------------------------------------

    def _sign_out(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        login = login_of(request.session)
        if login is None:
            return see_other("/?done=nobody")
        return see_other(self._signing_out.leave(request.session, login))

    def _sign_out_by_soap(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        login = login_of(request.session)
        if login is None:
            return see_other("/?done=nobody")
        return see_other(f"/?done={self._signing_out.leave_by_soap(request.session, login)}")

    def _logout(self, request: SiteRequest) -> Response:
        """The identity provider's request, or its answer to ours."""
        query = request.query_string.decode("ascii", "replace")
        received = self._messages.from_query(query, LOGOUT_KINDS, "/slo")
        if received.kind == "LogoutRequest":
            return see_other(self._signing_out.told(request.session, received))
        return see_other(f"/?done={self._signing_out.heard(request.session, received)}")

    def _logout_by_soap(self, request: SiteRequest) -> Response:
        received = self._messages.from_envelope(request.get_data(), "LogoutRequest", "/slo/soap")
        return soap(self._signing_out.told_by_soap(received))

    # --- other things ---------------------------------------------------------------------------

    def _metadata(self, request: SiteRequest) -> Response:
        text = str(entity_descriptor(self._deployment.client.config))
        return Response(text, mimetype="application/samlmetadata+xml")

    def _frame(self, request: SiteRequest) -> pages.Frame:
        token = token_text(request.session)
        return pages.Frame(self._deployment.service, token, request.args.get("done", ""))

    def _refusal_page(self, request: SiteRequest, _status: int, headline: str, story: str) -> Html:
        return pages.refusal(self._frame(request), self._idp, headline, story)
