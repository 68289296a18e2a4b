"""What the visitor reads when a request could not be carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from werkzeug.exceptions import HTTPException

from sealedstate import SealedStateError, SessionTooLarge, SessionWithheld, StorageError


@dataclass(frozen=True, slots=True)
class Problem:
    """A page about an error. `detail`: what the application received; `sizes`: bytes by part."""

    status: int
    headline: str
    story: str
    detail: str
    sizes: Mapping[str, int] = field(default_factory=dict)


def explain(error: SealedStateError | HTTPException) -> Problem:
    """The page for an error."""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, HTTPException):
        story = error.description or ""
        return Problem(error.code or 500, error.name, story, f"HTTP {error.code}")
    if isinstance(error, SessionTooLarge):
        story = (
            "The session does not fit into the cookies that your browser may send here, and its"
            " largest part must not leave them for the store. Nothing was cut off and nothing was"
            " sent: your session is as it was before."
        )
        return Problem(413, "This does not fit", story, detail, error.parts)
    if isinstance(error, SessionWithheld):
        story = (
            "Your cookie cannot be judged at this moment, so no logout could be recorded for it."
            " Please try again in a moment."
        )
        return Problem(503, "You are not signed out", story, detail)
    if isinstance(error, StorageError):
        story = (
            "Your cookies were left as they were: you are still signed in. If you wanted to sign"
            " out, that could not be recorded, so it has not happened. Please try again in a"
            " moment."
        )
        return Problem(503, "The store does not answer", story, detail)
    story = "Your cookies were left as they were. Please try again in a moment."
    return Problem(503, "This did not work", story, detail)
