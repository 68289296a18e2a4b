"""The SAML example as processes, and visitors of it without a browser.

Knows how it is started and stopped, its pages' forms, and how to say what none of its services
would. Does not know what is to be promised.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from examples.saml.entities import service_provider
from examples.saml.federation import Federation, federation_at

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
PATIENCE = 60
SERVICES = ("library", "wiki", "exams")


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
        """pysaml2's client with a service's own key: it may be told to say anything."""
        return service_provider(self.var, self.federation, self.federation.service(service))

    @contextlib.contextmanager
    def silent(self, service: str) -> Iterator[None]:
        """A service that takes connections and answers none."""
        os.kill(self.pids[service], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pids[service], signal.SIGCONT)


@contextlib.contextmanager
def running(directory: Path, *options: str) -> Iterator[Running]:
    """The example on free ports. It must stop cleanly on Ctrl-C, having complained of nothing."""
    var, log = directory / "var", directory / "stderr.txt"
    command = [sys.executable, str(ROOT / "examples/saml"), "--port", "0", "--var", str(var)]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        try:
            started = _printed(process, var)
            _wait_until_all_answer(started)
            yield started
        finally:
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()  # does nothing to a process that has ended
                print(log.read_text(), file=sys.stderr)
    assert (process.returncode, output.split()) == (0, ["Stopped."])
    assert "Traceback" not in log.read_text()


def _printed(process: subprocess.Popen[str], var: Path) -> Running:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(START_SECONDS), "the example prints no links"
    lines = [process.stdout.readline() for _ in range(1 + len(SERVICES))]
    found = [re.search(r"(http://\S+)/ +\(process (\d+)\)", line) for line in lines]
    assert all(found), lines
    process.stdout.readline()  # how to stop it
    names = ("idp", *SERVICES)
    at = {name: match[1] for name, match in zip(names, found, strict=True) if match}
    pids = {name: int(match[2]) for name, match in zip(names, found, strict=True) if match}
    return Running(var, at, pids)


def _wait_until_all_answer(started: Running) -> None:
    # They take connections at once, and answer when pysaml2 has been imported.
    for address in started.at.values():
        with requests.Session() as http:
            http.trust_env = False
            assert http.get(f"{address}/metadata", timeout=START_SECONDS).status_code == 200


@dataclass
class Visitor:
    """Somebody with cookies and without a browser, who sees each redirect and each form."""

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

    def go_on(self, answer: requests.Response) -> requests.Response:
        """What a browser does by itself: a redirect, or a form that sends itself."""
        if "Location" in answer.headers:
            return self.get(urljoin(answer.url, answer.headers["Location"]))
        action = re.search(r'<form id="message" method="post" action="([^"]+)">', answer.text)
        assert action is not None, answer.text
        return self.post(html.unescape(action[1]), message_fields(answer))

    def follow(self, answer: requests.Response, stop: str = " ") -> requests.Response:
        """Go on until there is a page for people, or a way to an address that begins so."""
        while not (is_for_people(answer) or where_to(answer).startswith(stop)):
            answer = self.go_on(answer)
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
    def inside(self) -> list[str]:
        """Where somebody is signed in with these cookies."""
        inside = [name for name in SERVICES if "Welcome, " in self.visit(name).text]
        return ["idp", *inside] if "The session of " in self.visit("idp").text else inside

    def as_now(self) -> Visitor:
        """Somebody who has copied the cookies of this moment."""
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
    """What another member says by SOAP: no cookie goes with it."""
    with requests.Session() as http:
        http.trust_env = False
        return http.post(
            address, envelope.encode(), headers={"Content-Type": "text/xml"}, timeout=PATIENCE
        )


def is_for_people(answer: requests.Response) -> bool:
    return where_to(answer) == ""


def where_to(answer: requests.Response) -> str:
    """Where a browser goes by itself from here; empty for a page."""
    if "Location" in answer.headers:
        return urljoin(answer.url, answer.headers["Location"])
    action = re.search(r'<form id="message" method="post" action="([^"]+)">', answer.text)
    return "" if action is None else html.unescape(action[1])


def message_fields(answer: requests.Response) -> dict[str, str]:
    """The message that a page sends on."""
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', answer.text)
    names = ("SAMLRequest", "SAMLResponse", "RelayState")
    return {name: html.unescape(value) for name, value in found if name in names}


def hidden(answer: requests.Response, name: str) -> str:
    """The value of a hidden field, of the first form that has it."""
    found = re.search(rf'name="{name}" value="(\w+)"', answer.text)
    assert found is not None, answer.text
    return found[1]
