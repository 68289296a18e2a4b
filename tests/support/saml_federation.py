"""The SAML example as processes, and visitors of it without a browser."""

from __future__ import annotations

import contextlib
import html
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from examples.saml.entities import make_service_provider
from examples.saml.federation import Federation, federation_at
from tests.support.example_processes import PATIENCE, START_SECONDS, run_example

SERVICES = ("library", "wiki", "exams")
NAMES = ("idp", *SERVICES)


@dataclass(frozen=True)
class Running:
    """A running federation, by name the address and the process of each member."""

    var: Path
    at: Mapping[str, str]
    pids: Mapping[str, int]

    @property
    def federation(self) -> Federation:
        return federation_at([urlsplit(address).port or 0 for address in self.at.values()])

    def client(self, service: str) -> Any:
        """pysaml2's client with the key of a service: it can sign any message."""
        return make_service_provider(self.var, self.federation, self.federation.service(service))

    @contextlib.contextmanager
    def silent(self, service: str) -> Iterator[None]:
        """A service that accepts connections and answers none."""
        os.kill(self.pids[service], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pids[service], signal.SIGCONT)


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Running]:
    """The federation on free ports."""
    with run_example("saml", directory, *options) as example:
        lines = example.read_lines(1 + len(NAMES))  # the last says how to stop it
        found = [re.search(r"(http://\S+)/ +\(process (\d+)\)", line) for line in lines[:-1]]
        members = {name: match for name, match in zip(NAMES, found, strict=True) if match}
        assert len(members) == len(NAMES), lines
        started = Running(
            example.var,
            {name: match[1] for name, match in members.items()},
            {name: int(match[2]) for name, match in members.items()},
        )
        # They take connections at once, and answer when pysaml2 has been imported.
        for address in started.at.values():
            with requests.Session() as http:
                http.trust_env = False
                assert http.get(f"{address}/metadata", timeout=START_SECONDS).status_code == 200
        yield started


@dataclass
class Visitor:
    """A visitor with cookies and without a browser, who sees each redirect and each form."""

    running: Running
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, address: str) -> requests.Response:
        return self._exchange("GET", address)

    def post(self, address: str, fields: Mapping[str, str]) -> requests.Response:
        return self._exchange("POST", address, dict(fields))

    def visit(self, name: str) -> requests.Response:
        """The front page of a member."""
        return self.get(f"{self.running.at[name]}/")

    def press(self, name: str, path: str) -> requests.Response:
        """Send a form of a member's front page."""
        form = {"csrf": hidden(self.visit(name), "csrf")}
        return self.post(f"{self.running.at[name]}{path}", form)

    def step(self, answer: requests.Response) -> requests.Response:
        """What a browser does automatically: a redirect, or a form that submits itself."""
        if "Location" in answer.headers:
            return self.get(urljoin(answer.url, answer.headers["Location"]))
        action = re.search(r'<form id="message" method="post" action="([^"]+)">', answer.text)
        assert action is not None, answer.text
        return self.post(html.unescape(action[1]), message_fields(answer))

    def follow(self, answer: requests.Response, stop: str = " ") -> requests.Response:
        """Continue to a page for people, or until the next address begins with `stop`."""
        while not (is_for_people(answer) or where_to(answer).startswith(stop)):
            answer = self.step(answer)
        return answer

    def until_identified(self, service: str) -> requests.Response:
        """Sign in, until the identity provider's answer is on its way to the service."""
        stop = self.running.at[service]
        answer = self.follow(self.press(service, "/sign-in"), stop)
        if not is_for_people(answer):
            return answer
        form = {name: hidden(answer, name) for name in ("csrf", "request")} | {"name": "Ada"}
        return self.follow(self.post(f"{self.running.at['idp']}/sign-in", form), stop)

    def sign_in(self, *services: str) -> None:
        for service in services:
            answer = self.follow(self.until_identified(service))
            assert "Welcome, <b>Ada</b>" in answer.text, answer.text

    @property
    def signed_in_at(self) -> list[str]:
        """The members where these cookies are signed in."""
        found = [name for name in SERVICES if "Welcome, " in self.visit(name).text]
        return ["idp", *found] if "The session of " in self.visit("idp").text else found

    def copy(self) -> Visitor:
        """A visitor with a copy of the cookies of this moment."""
        return Visitor(self.running, dict(self.cookies))

    def _exchange(
        self, method: str, address: str, fields: dict[str, str] | None = None
    ) -> requests.Response:
        headers = {"Cookie": "; ".join(f"{name}={text}" for name, text in self.cookies.items())}
        with requests.Session() as http:
            http.trust_env = False
            answer = http.request(
                method,
                address,
                data=fields,
                headers=headers,
                allow_redirects=False,
                timeout=PATIENCE,
            )
            for cookie in http.cookies:
                self.cookies[cookie.name] = cookie.value or ""
            for line in answer.raw.headers.getlist("Set-Cookie"):
                if "Max-Age=0" in line:
                    self.cookies.pop(line.partition("=")[0], None)
        return answer


def post_soap(address: str, envelope: str) -> requests.Response:
    """Post a message by SOAP, without a cookie, as another member does."""
    with requests.Session() as http:
        http.trust_env = False
        return http.post(
            address, envelope.encode(), headers={"Content-Type": "text/xml"}, timeout=PATIENCE
        )


def is_for_people(answer: requests.Response) -> bool:
    return where_to(answer) == ""


def where_to(answer: requests.Response) -> str:
    """Where a browser goes automatically from here; empty for a page."""
    if "Location" in answer.headers:
        return urljoin(answer.url, answer.headers["Location"])
    action = re.search(r'<form id="message" method="post" action="([^"]+)">', answer.text)
    return "" if action is None else html.unescape(action[1])


def message_fields(answer: requests.Response) -> dict[str, str]:
    """The message that a page passes on."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', answer.text)
    names = ("SAMLRequest", "SAMLResponse", "RelayState")
    return {name: html.unescape(value) for name, value in found if name in names}


def hidden(answer: requests.Response, name: str) -> str:
    """The value of a hidden field, of the first form that has it."""
    found = re.search(rf'name="{name}" value="(\w+)"', answer.text)
    assert found is not None, answer.text
    return found[1]
