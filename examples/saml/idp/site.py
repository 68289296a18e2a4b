"""The identity provider as a WSGI application: which request gets which answer."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlencode

from saml2.metadata import entity_descriptor
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from sealedstate import PROFILES
from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import LogoutProgress, ServiceLogin, SingleLogout

from ...views.budget import Budget
from ...views.forms import check_form, ensure_token, renew_token
from ..messages import LOGOUT_KINDS, form_fields
from ..web import Site, SiteRequest, respond_by_soap, see_other
from .logout import Logout
from .resources import PROFILE, IdPResources
from .sign_on import AUTHENTICATION_SECONDS, PASSWORD, Answer, AuthnRequest, SignOn

MAX_NAME_CHARS = 60
NOTICES = {
    "signed-in": "You are signed in. Now visit a service: it asks here who you are.",
    "no-name": "Please enter a name of printable characters.",
    "not-signed-in": "You are not signed in here.",
}
ROUTES = Map(
    [
        Rule("/", endpoint="home", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in-page", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in", methods=["POST"]),
        Rule("/sso", endpoint="sso-redirect", methods=["GET"]),
        Rule("/sso", endpoint="sso-post", methods=["POST"]),
        Rule("/sso/continue", endpoint="sso-continue", methods=["GET"]),
        Rule("/artifacts", endpoint="artifacts", methods=["POST"]),
        Rule("/sign-out", endpoint="sign-out", methods=["POST"]),
        Rule("/sign-out/skip", endpoint="skip", methods=["POST"]),
        Rule("/slo", endpoint="logout-redirect", methods=["GET"]),
        Rule("/slo/soap", endpoint="logout-soap", methods=["POST"]),
        Rule("/metadata", endpoint="metadata", methods=["GET"]),
    ]
)

_log = logging.getLogger(__name__)


class IdentityProvider(Site):
    """Signs users in, once, and identifies them to services."""

    def __init__(self, resources: IdPResources) -> None:
        handlers = {
            "home": self._home,
            "sign-in-page": self._sign_in_page,
            "sign-in": self._sign_in,
            "sso-redirect": self._sso_redirect,
            "sso-post": self._sso_post,
            "sso-continue": self._sso_continue,
            "artifacts": self._artifacts,
            "sign-out": self._sign_out,
            "skip": self._skip,
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
            layout="idp.html",
            common={"federation": resources.federation},
        )
        self._resources = resources
        self._federation = resources.federation
        self._messages = resources.messages
        self._sign_on = SignOn(resources)
        self._logout = Logout(resources, SingleLogout(self.keeper, resources.records))

    # --- people ---------------------------------------------------------------------------------

    def _home(self, request: SiteRequest) -> Response:
        session, now = request.session, int(self._resources.clock())
        if session.subject is None:
            return self._resume_logout(request)
        logins = self._read_logins(request)
        arrived = self.keeper.info(session)
        header_bytes = len(request.headers.get("Cookie", ""))
        last = self.set_cookie_sizes.last(session.id)
        return self.page(
            request,
            "home.html",
            notice=NOTICES.get(request.args.get("done", "")),
            now=now,
            info=arrived,
            budget=Budget(arrived, PROFILES[PROFILE], header_bytes, last),
            logins=logins,
            counts=dict(self.keeper.counts),
        )

    def _read_logins(self, request: SiteRequest) -> tuple[ServiceLogin, ...] | None:
        """The service logins; None if they cannot be read now, which does not end the login."""
        record = self._resources.records.for_session(request.session)
        try:
            return record.services()
        except LoginsUnreadable as error:
            _log.warning("service logins are unreadable: %s", error)
            return None

    def _resume_logout(self, request: SiteRequest) -> Response:
        """A sign-in page, unless this browser is in the middle of a logout."""
        unfinished = self._logout.find_unfinished(request.session)
        if unfinished is None:
            return self._sign_in_page(request)
        ensure_token(request.session)
        waiting_for, *others = (
            self._federation.title_of(notice.entity_id) for notice in unfinished.progress.remaining
        )
        return self.page(request, "waiting.html", service=waiting_for, others=others)

    def _sign_in_page(self, request: SiteRequest) -> Response:
        self._logout.notify_pending(request.session)
        ensure_token(request.session)
        services = {service.name: service for service in self._federation.services}
        return self.page(
            request,
            "sign_in.html",
            notice=NOTICES.get(request.args.get("done", "")),
            service=services.get(request.args.get("for", "")),
            handle=request.args.get("request", ""),
            max_chars=MAX_NAME_CHARS,
        )

    def _sign_in(self, request: SiteRequest) -> Response:
        """Any name will do. A service's request that waits is answered at once."""
        session = request.session
        check_form(session, request)
        name = " ".join(request.form.get("name", "").split())[:MAX_NAME_CHARS].rstrip()
        handle = request.form.get("request", "")
        if not (name and name.isprintable()):
            again = {"for": request.form.get("for", ""), "request": handle, "done": "no-name"}
            return see_other(f"/sign-in?{urlencode(again)}")
        waiting = self._sign_on.fetch(handle) if handle else None
        self._logout.finish_by_soap(session)
        record = self._resources.records.for_session(session)
        record.sign_in(name)
        record.authenticate(PASSWORD, duration=AUTHENTICATION_SECONDS)
        renew_token(session)
        if waiting is None:
            return see_other("/?done=signed-in")
        return self._send(request, self._sign_on.answer(waiting, session))

    # --- services that ask ----------------------------------------------------------------------

    def _sso_redirect(self, request: SiteRequest) -> Response:
        query = request.query_string.decode("ascii", "replace")
        kinds = {"SAMLRequest": "AuthnRequest"}
        received = self._messages.receive_redirect(query, kinds, "/sso")
        return self._consider(request, self._sign_on.accept(received))

    def _sso_post(self, request: SiteRequest) -> Response:
        """A request that another site posts comes without our cookie, because of SameSite.

        So it waits in the store, and the browser comes back by a redirect, with the cookie.
        """
        received = self._messages.receive_form(request.form, "AuthnRequest", "/sso")
        handle = self._sign_on.store(self._sign_on.accept(received))
        return see_other(f"/sso/continue?request={handle}")

    def _sso_continue(self, request: SiteRequest) -> Response:
        return self._consider(request, self._sign_on.fetch(request.args.get("request", "")))

    def _consider(self, request: SiteRequest, authn_request: AuthnRequest) -> Response:
        """Answer a service out of the session, or ask the user to sign in first."""
        if self._sign_on.is_answerable(authn_request, request.session):
            return self._send(request, self._sign_on.answer(authn_request, request.session))
        if authn_request.passive:
            return self._send(request, self._sign_on.decline(authn_request))
        names = {service.entity_id: service.name for service in self._federation.services}
        name, handle = names.get(authn_request.entity_id, ""), self._sign_on.store(authn_request)
        return see_other(f"/sign-in?for={name}&request={handle}")

    def _send(self, request: SiteRequest, answer: Answer) -> Response:
        """Send the browser to the service with an answer."""
        if answer.artifact is None:
            fields = form_fields(answer.xml or "", answer.relay_state, response=True)
            return self.post_page(request, answer.consumer, fields, "the service")
        query = {"SAMLart": answer.artifact}
        if answer.relay_state:
            query["RelayState"] = answer.relay_state
        return see_other(f"{answer.consumer}?{urlencode(query)}")

    def _artifacts(self, request: SiteRequest) -> Response:
        body = request.get_data()
        received = self._messages.receive_soap(body, "ArtifactResolve", "/artifacts")
        return respond_by_soap(self._sign_on.resolve(received))

    # --- signing out ----------------------------------------------------------------------------

    def _sign_out(self, request: SiteRequest) -> Response:
        """Everywhere: the session ends here, then the browser goes from service to service."""
        check_form(request.session, request)
        if request.session.subject is None:
            return see_other("/?done=not-signed-in")
        return self._continue_logout(request, self._logout.begin(request.session))

    def _skip(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        unfinished = self._logout.find_unfinished(request.session)
        if unfinished is None:
            return see_other("/")
        return self._continue_logout(request, self._logout.skip(unfinished))

    def _logout_redirect(self, request: SiteRequest) -> Response:
        """A service's request, or its answer to our request."""
        query = request.query_string.decode("ascii", "replace")
        received = self._messages.receive_redirect(query, LOGOUT_KINDS, "/slo")
        if received.kind == "LogoutResponse":
            return self._continue_logout(request, self._logout.receive_answer(received))
        begun = self._logout.begin_for(request.session, received)
        if isinstance(begun, LogoutProgress):
            return self._continue_logout(request, begun)
        return see_other(begun)

    def _continue_logout(self, request: SiteRequest, progress: LogoutProgress) -> Response:
        """Send the browser to the next service, and at last to the service that began it."""
        address = self._logout.next_address(progress)
        if address is not None:
            return see_other(address)
        requester = self._logout.pop_requester(request.session)
        if requester is not None:
            is_complete = progress.is_complete and not progress.is_partial
            return see_other(self._logout.answer_address(requester, is_complete))
        failures = [self._federation.title_of(notice.entity_id) for notice in progress.failures]
        return self.page(request, "signed_out.html", failures=failures)

    def _logout_soap(self, request: SiteRequest) -> Response:
        body = request.get_data()
        received = self._messages.receive_soap(body, "LogoutRequest", "/slo/soap")
        return respond_by_soap(self._logout.answer_soap(received))

    # --- metadata -------------------------------------------------------------------------------

    def _metadata(self, request: SiteRequest) -> Response:
        text = str(entity_descriptor(self._messages.entity.config))
        return Response(text, mimetype="application/samlmetadata+xml")
