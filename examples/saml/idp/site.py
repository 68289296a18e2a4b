"""The identity provider as a WSGI application: which request gets which answer.

Knows routes, forms and how answers travel. Does not know what a message says, or how a page looks.
"""

from __future__ import annotations

from urllib.parse import urlencode

from saml2.metadata import entity_descriptor
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from sealedstate import Session
from sealedstate.errors import LoginsUnreadable
from sealedstate.sso import LogoutProgress, ServiceLogin, SingleLogout

from ...views.facts import facts_of
from ...views.forms import check_form, offer_token, renew_token, token_text
from ...views.markup import Html
from ..messages import LOGOUT_KINDS, form_fields
from ..web import Site, SiteRequest, see_other, soap
from . import pages
from .deployment import Deployment
from .logout import Logout
from .sign_on import AUTHENTICATION_SECONDS, PASSWORD, Answer, SignOn, Waiting

ROUTES = Map(
    [
        Rule("/", endpoint="home", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in-page", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in", methods=["POST"]),
        Rule("/sso", endpoint="ask-by-redirect", methods=["GET"]),
        Rule("/sso", endpoint="ask-by-post", methods=["POST"]),
        Rule("/sso/continue", endpoint="continue", methods=["GET"]),
        Rule("/artifacts", endpoint="artifacts", methods=["POST"]),
        Rule("/sign-out", endpoint="sign-out", methods=["POST"]),
        Rule("/sign-out/skip", endpoint="skip", methods=["POST"]),
        Rule("/slo", endpoint="logout", methods=["GET"]),
        Rule("/slo/soap", endpoint="logout-by-soap", methods=["POST"]),
        Rule("/metadata", endpoint="metadata", methods=["GET"]),
    ]
)


class IdentityProvider(Site):
    """Signs people in, once, and tells services who they are."""

    def __init__(self, deployment: Deployment) -> None:
        handlers = {
            "home": self._home,
            "sign-in-page": self._sign_in_page,
            "sign-in": self._sign_in,
            "ask-by-redirect": self._ask_by_redirect,
            "ask-by-post": self._ask_by_post,
            "continue": self._continue,
            "artifacts": self._artifacts,
            "sign-out": self._sign_out,
            "skip": self._skip,
            "logout": self._logout,
            "logout-by-soap": self._logout_by_soap,
            "metadata": self._metadata,
        }
        super().__init__(
            deployment.settings, ROUTES, handlers, _refusal_page, deployment.federation
        )
        self._deployment = deployment
        self._messages = deployment.messages
        self._sign_on = SignOn(deployment)
        self._signing_out = Logout(deployment, SingleLogout(self.keeper, deployment.records))

    # --- people ---------------------------------------------------------------------------------

    def _home(self, request: SiteRequest) -> Response:
        session, now = request.session, int(self._deployment.clock())
        if session.subject is None:
            return self._for_nobody(request)
        logins = self._logins(request)
        facts = facts_of(session, self.keeper, request.headers.get("Cookie", ""), now)
        if facts is None:
            return see_other("/")
        last, counts = self.journal.last(session.id), dict(self.keeper.counts)
        shown = pages.Home(facts, self.keeper.deployment.profile, last, logins, counts)
        return self.page(pages.home(_frame(request), self._deployment.federation, shown))

    def _logins(self, request: SiteRequest) -> tuple[ServiceLogin, ...] | None:
        """The service logins; None where they can't be read now, which costs the login nothing."""
        record = self._deployment.records.for_session(request.session)
        try:
            return record.services()
        except LoginsUnreadable:
            return None

    def _for_nobody(self, request: SiteRequest) -> Response:
        """A sign-in page, unless this browser is in the middle of a logout."""
        standing = self._signing_out.standing(request.session)
        if standing is None:
            return self._sign_in_page(request)
        offer_token(request.session)
        title = self._deployment.federation.title
        waiting = title(standing.waiting.entity_id)
        others = [title(notice.entity_id) for notice in standing.progress.remaining[1:]]
        return self.page(pages.waiting(_frame(request), waiting, others))

    def _sign_in_page(self, request: SiteRequest) -> Response:
        session = request.session
        self._signing_out.settle(session)
        offer_token(session)
        asker, handle = request.args.get("for", ""), request.args.get("request", "")
        known = {service.name: service.title for service in self._deployment.federation.services}
        withheld = session.withheld is not None
        page = pages.sign_in(_frame(request), asker, known.get(asker), handle, withheld)
        return self.page(page)

    def _sign_in(self, request: SiteRequest) -> Response:
        """Any name will do. A request that waits is answered at once."""
        session = request.session
        check_form(session, request)
        name = " ".join(request.form.get("name", "").split())[: pages.MAX_NAME_CHARS].rstrip()
        handle = request.form.get("request", "")
        if not (name and name.isprintable()):
            again = {"for": request.form.get("for", ""), "request": handle, "done": "no-name"}
            return see_other(f"/sign-in?{urlencode(again)}")
        waiting = self._sign_on.fetch(handle) if handle else None
        self._authenticate(session, name)
        if waiting is None:
            return see_other("/?done=signed-in")
        return self._answered(request, self._sign_on.answer(waiting, session))

    def _authenticate(self, session: Session, name: str) -> None:
        self._signing_out.leave_behind(session)
        session.subject = name
        record = self._deployment.records.for_session(session)
        record.authenticate(PASSWORD, duration=AUTHENTICATION_SECONDS)
        renew_token(session)

    # --- services that ask ----------------------------------------------------------------------

    def _ask_by_redirect(self, request: SiteRequest) -> Response:
        query = request.query_string.decode("ascii", "replace")
        kinds = {"SAMLRequest": "AuthnRequest"}
        received = self._messages.from_query(query, kinds, "/sso")
        return self._consider(request, self._sign_on.accepted(received))

    def _ask_by_post(self, request: SiteRequest) -> Response:
        """A request that another site posts comes without our cookie: SameSite sees to that."""
        received = self._messages.from_form(request.form, "AuthnRequest", "/sso")
        waiting = self._sign_on.accepted(received)
        return see_other(f"/sso/continue?request={self._sign_on.keep(waiting)}")

    def _continue(self, request: SiteRequest) -> Response:
        return self._consider(request, self._sign_on.fetch(request.args.get("request", "")))

    def _consider(self, request: SiteRequest, waiting: Waiting) -> Response:
        if self._sign_on.is_answerable(waiting, request.session):
            return self._answered(request, self._sign_on.answer(waiting, request.session))
        if waiting.passive:
            return self._answered(request, self._sign_on.decline(waiting))
        names = {each.entity_id: each.name for each in self._deployment.federation.services}
        asker, handle = names.get(waiting.entity_id, ""), self._sign_on.keep(waiting)
        return see_other(f"/sign-in?for={asker}&request={handle}")

    def _answered(self, request: SiteRequest, answer: Answer) -> Response:
        if answer.artifact is not None:
            return see_other(_with_artifact(answer))
        fields = form_fields(answer.xml or "", answer.relay_state, response=True)
        return self.page(pages.posting(_frame(request), answer.consumer, fields, "the service"))

    def _artifacts(self, request: SiteRequest) -> Response:
        body = request.get_data()
        received = self._messages.from_envelope(body, "ArtifactResolve", "/artifacts")
        return soap(self._sign_on.resolve(received))

    # --- signing out ----------------------------------------------------------------------------

    def _sign_out(self, request: SiteRequest) -> Response:
        """Everywhere: the session ends here, then the browser goes from service to service."""
        check_form(request.session, request)
        if request.session.subject is None:
            return see_other("/?done=nobody")
        return self._go_on(request, self._signing_out.begin(request.session))

    def _skip(self, request: SiteRequest) -> Response:
        check_form(request.session, request)
        standing = self._signing_out.standing(request.session)
        if standing is None:
            return see_other("/")
        return self._go_on(request, self._signing_out.skip(standing))

    def _logout(self, request: SiteRequest) -> Response:
        """A service's request, or its answer to ours."""
        query = request.query_string.decode("ascii", "replace")
        received = self._messages.from_query(query, LOGOUT_KINDS, "/slo")
        if received.kind == "LogoutResponse":
            return self._go_on(request, self._signing_out.heard(received))
        progress = self._signing_out.begin_for(request.session, received)
        if isinstance(progress, LogoutProgress):
            return self._go_on(request, progress)
        return see_other(progress)

    def _go_on(self, request: SiteRequest, progress: LogoutProgress) -> Response:
        """To the next service that has to be told, and at last to whoever wanted it."""
        address = self._signing_out.next_address(progress)
        if address is not None:
            return see_other(address)
        asker = self._signing_out.asker_of(request.session)
        if asker is not None:
            complete = progress.is_complete and not progress.is_partial
            return see_other(self._signing_out.answer_address(asker, complete))
        titles = [self._deployment.federation.title(each.entity_id) for each in progress.failures]
        return self.page(pages.signed_out(_frame(request), titles))

    def _logout_by_soap(self, request: SiteRequest) -> Response:
        received = self._messages.from_envelope(request.get_data(), "LogoutRequest", "/slo/soap")
        return soap(self._signing_out.by_soap(received))

    # --- other things ---------------------------------------------------------------------------

    def _metadata(self, request: SiteRequest) -> Response:
        text = str(entity_descriptor(self._deployment.messages.entity.config))
        return Response(text, mimetype="application/samlmetadata+xml")


def _with_artifact(answer: Answer) -> str:
    fields = {"SAMLart": answer.artifact or ""}
    if answer.relay_state:
        fields["RelayState"] = answer.relay_state
    return f"{answer.consumer}?{urlencode(fields)}"


def _frame(request: SiteRequest) -> pages.Frame:
    session = request.session
    return pages.Frame(session.subject, token_text(session), request.args.get("done", ""))


def _refusal_page(request: SiteRequest, _status: int, headline: str, story: str) -> Html:
    return pages.refusal(_frame(request), headline, story)
