"""The portal's terms of use: filled with what this profile does, and kept with what users entered.

The ticket of the form is admitted once, so a double click or the back button records nothing
twice, and a form from before a sign-in is shown again instead of being refused with an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealedstate import Session
from sealedstate.deployment import Deployment
from sealedstate.sso import Admission, Consent, ConsentStore, ReplayCache

DOCUMENT, VERSION = "terms", 1
FORM_SECONDS = 15 * 60
MAX_PURPOSE_CHARS = 200
PROBLEMS = {
    Admission.STALE: "This page was open for too long. Please check it, and agree again.",
    Admission.FOREIGN: "Your session has changed since this page was opened. Please check it.",
    Admission.UNKNOWN: "The store lost its answer. Please look below whether you have agreed.",
}


class Terms:
    """The terms in one profile, and which of its users have agreed to them."""

    def __init__(self, deployment: Deployment) -> None:
        self._consents, self._replays = ConsentStore(deployment), ReplayCache(deployment)
        self._forms = deployment.protector("terms", max_age=FORM_SECONDS)
        # What fills the sections of the text: another profile has another text.
        self.parameters = {
            "cookie_bytes": deployment.profile.total_bytes,
            "hours": deployment.lifetimes.absolute // 3600,
        }

    def find(self, subject: str) -> Consent | None:
        """What the user agreed to, perhaps with other parameters."""
        return self._consents.find(subject, DOCUMENT)

    def are_due(self, subject: str) -> bool:
        """Whether the user has to agree to the text with these parameters."""
        return not self._consents.has_accepted(
            subject, DOCUMENT, VERSION, parameters=self.parameters
        )

    def ticket(self, session: Session) -> str:
        """What the form carries: it is good once, for this session."""
        return self._forms.seal(None, bound_to=session.id)

    def accept(self, session: Session, fields: Mapping[str, str]) -> Admission:
        """Record that the user agrees, and what was entered, unless the form came before."""
        admission = self._replays.admit_text(
            self._forms, fields.get("ticket", ""), bound_to=session.id
        )
        if admission and session.subject is not None:
            self._consents.record(
                session.subject,
                DOCUMENT,
                VERSION,
                parameters=self.parameters,
                answers={
                    "news": "news" in fields,
                    "purpose": fields.get("purpose", "")[:MAX_PURPOSE_CHARS],
                },
            )
        return admission

    def withdraw(self, subject: str) -> None:
        """Forget that the user agreed, and what was entered."""
        self._consents.withdraw(subject, DOCUMENT)
