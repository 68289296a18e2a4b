"""The members: one identity provider and three services, with their addresses and bindings.

EntityIDs are names, not addresses: they stay the same on every port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saml2 import (
    BINDING_HTTP_ARTIFACT,
    BINDING_HTTP_POST,
    BINDING_HTTP_REDIRECT,
    BINDING_SOAP,
)

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Member:
    """One participant. `base` is the address of its front page, without a slash at the end."""

    name: str
    title: str
    entity_id: str
    base: str

    def at(self, path: str) -> str:
        """The address of one of its pages."""
        return self.base + path


@dataclass(frozen=True, slots=True)
class Service(Member):
    """A service provider.

    `asks_by`: the binding of its AuthnRequest; `answered_by`: the binding of the response. Without
    `front_channel` it takes part in logout by SOAP alone.
    """

    asks_by: str = BINDING_HTTP_REDIRECT
    answered_by: str = BINDING_HTTP_POST
    front_channel: bool = True

    @property
    def consumer(self) -> str:
        """The address that accepts responses."""
        return self.at("/acs/artifact" if self.answered_by == BINDING_HTTP_ARTIFACT else "/acs")

    @property
    def logout_bindings(self) -> tuple[str, ...]:
        """The bindings of its logout addresses, the preferred one first."""
        return (BINDING_HTTP_REDIRECT, BINDING_SOAP) if self.front_channel else (BINDING_SOAP,)


@dataclass(frozen=True, slots=True)
class Federation:
    """All members."""

    idp: Member
    services: tuple[Service, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        return (self.idp, *self.services)

    def service(self, name: str) -> Service:
        """The service of that name. Raises KeyError."""
        return {service.name: service for service in self.services}[name]

    def title_of(self, entity_id: str) -> str:
        """What people call a member; the entityID itself if no member has it."""
        return {member.entity_id: member.title for member in self.members}.get(entity_id, entity_id)


MEMBERS = 4


def federation_at(ports: Sequence[int]) -> Federation:
    """The federation on four ports of this machine, the identity provider's first."""
    idp, library, wiki, exams = (f"http://{HOST}:{port}" for port in ports)
    return Federation(
        Member("idp", "Identity provider", "https://idp.example.org/saml", idp),
        (
            Service("library", "Library", "https://library.example.org/saml", library),
            Service(
                "wiki", "Wiki", "https://wiki.example.org/saml", wiki, asks_by=BINDING_HTTP_POST
            ),
            Service(
                "exams",
                "Exams",
                "https://exams.example.org/saml",
                exams,
                answered_by=BINDING_HTTP_ARTIFACT,
                front_channel=False,
            ),
        ),
    )


def logout_path(binding: str) -> str:
    """The path where every member accepts logout messages."""
    return "/slo/soap" if binding == BINDING_SOAP else "/slo"
