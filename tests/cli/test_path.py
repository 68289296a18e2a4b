"""`sealedstate path`: against a server of this process, with and without PathApplication."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from sealedstate import Keeper, Key, Settings
from sealedstate.cli import main
from sealedstate.path import PathPages
from sealedstate.path._pages import PROGRESS
from sealedstate_wsgi import PathApplication
from tests.support.client import ask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = Key.generate(os.urandom)
MOUNT = "/sealedstate/path"


class Application:
    """PathApplication at its place, and another page. `most`: of the Cookie field."""

    def __init__(self) -> None:
        self.most = 100_000
        self.is_mounted = True
        self._pages = PathApplication(Keeper(Settings(keys=[KEY.export()])))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> object:
        path = environ["PATH_INFO"]
        if len(environ.get("HTTP_COOKIE", "")) > self.most:
            start_response("431 Request Header Fields Too Large", [("Server", "gunicorn")])
            return [b""]
        if self.is_mounted and path.startswith(f"{MOUNT}/"):
            environ |= {"SCRIPT_NAME": MOUNT, "PATH_INFO": path.removeprefix(MOUNT)}
            return self._pages(environ, start_response)
        start_response("404 Not Found", [])
        return [b""]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setenv("SEALEDSTATE_KEYS", KEY.export())
    monkeypatch.setattr("sealedstate.cli.path.PAUSE_SECONDS", 0)
    return Application()


@pytest.fixture
def address(application: Application) -> Iterator[str]:
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_address_is_measured_and_the_profile_is_judged(
    application: Application, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["path", address]) == 0
    shown = capsys.readouterr().out
    assert "path: wsgiref" in shown
    assert "profile portable fits; profiles that fit: tight, portable, standard, roomy" in shown
    application.most = 3000
    assert main(["path", address, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["profile"], facts["fits"], facts["fitting"]) == ("portable", False, ["tight"])
    assert facts["url"] == f"{address}{MOUNT}/probe"
    cookie, *others = facts["limits"]
    assert 2850 <= cookie["passed"] <= 3000 < cookie["refused"]
    assert (cookie["hop"], cookie["answer"]) == ("gunicorn", "431")
    assert all(limit["refused"] is None for limit in others)
    assert main(["path", address, "--profile", "tight"]) == 0


def test_link_measures_without_keys_and_opens_the_page(
    application: Application,
    address: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["path", "link", address, "--label", "ticket 7"]) == 0
    link = capsys.readouterr().out.strip()
    assert link.startswith(f"{address}{MOUNT}/?link=")
    monkeypatch.delenv("SEALEDSTATE_KEYS")
    assert main(["path", link, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hops"] == ["wsgiref"]
    assert main(["path", "link", address]) == 2
    assert "SEALEDSTATE_KEYS" in capsys.readouterr().err


def test_link_names_another_site_for_the_form(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["path", "link", address, "--other-site", "https://idp.example"]) == 0
    link = capsys.readouterr().out.strip()
    assert main(["path", link, "--json"]) == 0
    capsys.readouterr()
    for other in ("idp.example", "https://idp.example/?x", "https://a b", "https://x';a"):
        assert main(["path", "link", address, "--other-site", other]) == 2
        assert "--other-site" in capsys.readouterr().err


def test_application_without_the_pages_is_measured_by_requests_only(
    application: Application, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    application.is_mounted = False
    application.most = 8000
    assert main(["path", address, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [limit["question"] for limit in facts["limits"]] == ["cookie", "cookies"]
    assert [finding["code"] for finding in facts["findings"]] == ["not-mounted"]


def test_report_of_a_visitor_is_read_by_its_text_or_by_its_code_in_a_log(
    application: Application,
    address: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    assert main(["path", "link", address, "--label", "ticket 7"]) == 0
    query = urlsplit(capsys.readouterr().out.strip()).query
    extras = {"QUERY_STRING": query}
    with caplog.at_level("INFO", "sealedstate.path"):
        answer = ask(application, f"{MOUNT}/failed", f"{PROGRESS}=6", "POST", extras)  # type: ignore[arg-type]
    (text,) = re.findall(r"<textarea readonly>(.*?)</textarea>", answer.body.decode())
    (code,) = re.findall(r"<code>(.*?)</code>", answer.body.decode())
    assert main(["path", "report", text, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["label"], facts["cookie"]["passed"]) == ("ticket 7", 11_600)
    log = tmp_path / "log"
    log.write_text("\n".join(record.getMessage() for record in caplog.records))
    assert main(["path", "report", code, "--log", str(log)]) == 0
    assert "ticket 7" in capsys.readouterr().out
    assert main(["path", "report", "2222-2222", "--log", str(log)]) == 2
    capsys.readouterr()
    assert main(["path", "report", code]) == 2
    assert "--log" in capsys.readouterr().err
    pages = PathPages(Keeper(Settings(keys=[KEY.export()])))
    facts |= {"cookies": {"sid": 300}, "clock": 0, "left": 1, "kept": False}
    assert main(["path", "report", pages._reports.seal(facts)]) == 0
    shown = dict(re.findall(r"^(.+?)  +(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert (shown["cookies"], shown["clock"], shown["left"]) == ("sid: 300", "0", "1")
    assert shown["kept"] == "no"
    assert main(["path", "report", text[:-1]]) == 1


class Odd(socketserver.StreamRequestHandler):
    """A server that answers each request by `pieces`, and then waits for the client to go."""

    pieces: tuple[bytes, ...] = ()

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        with contextlib.suppress(OSError):
            for piece in self.pieces:
                self.wfile.write(piece)
            self.rfile.read()


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("sealedstate.cli.path.PAUSE_SECONDS", 0)
    monkeypatch.setattr("sealedstate.cli.path.BODY_SECONDS", 0.01)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Odd) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([OK, b"Content-Length: 2\r\n\r\nok"], "not-mounted"),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"], "not-mounted"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], "not-mounted"),
        ([OK, b"\r\n", b"without an end"], "not-mounted"),
        ([OK, b"\r\n", *[b"x" * 10_000] * 100], "not-mounted"),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", OK, b"\r\n"], "not-mounted"),
        ([b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"], "not-mounted"),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"], "unreachable"),
        ([OK, b"X: 1\r\n"], "unreachable"),
        ([], "unreachable"),
    ],
    ids=lambda value: "",
)
def test_odd_servers_are_measured_without_waiting_for_them(
    odd: str,
    pieces: list[bytes],
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Odd, "pieces", tuple(pieces))
    if code == "unreachable":
        monkeypatch.setattr("sealedstate.cli.path.TIMEOUT_SECONDS", 0.1)
    assert main(["path", odd, "--json"]) == (code == "unreachable")
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [each["code"] for each in found] == [code]


@pytest.mark.parametrize(
    "address",
    [
        *("app.example", "ftp://app.example", "http://", "http://a:x/", "http://a:99999/"),
        *("http://[::1", "http://a..b/", f"http://{'a' * 64}/", "http://a\udcff/"),
        *("http://user:secret@a/", "http://a/b c", 'http://a/"', "http://a/<b>", "http://a/\u00e4"),
    ],
)
def test_what_is_no_address_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", address]) == 2
    shown = capsys.readouterr().err
    assert "URL: " in shown
    assert "secret" not in shown


def test_host_that_is_not_found_is_not_said_to_close_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["path", "http://nothing.invalid/"]) == 2
    assert "the host 'nothing.invalid' is not found" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["a.example", "http://a/?x=1", "http://a/#b", 'http://a/"'])
def test_link_is_made_for_an_address_without_a_query_only(
    application: Application, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["path", "link", address]) == 2
    assert "URL: " in capsys.readouterr().err


def test_address_that_does_not_answer_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", "http://127.0.0.1:9/", "--json"]) == 1
    assert [each["code"] for each in json.loads(capsys.readouterr().out)["findings"]] == [
        "unreachable"
    ]
