"""Firefox for tests, driven by WebDriver BiDi, because Debian has no geckodriver."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium.common.exceptions import NoSuchElementException, WebDriverException
from selenium.webdriver import FirefoxOptions
from selenium.webdriver.remote.command import Command
from selenium.webdriver.remote.webdriver import WebDriver
from websocket import create_connection

from tests.support.installed import need_driver, program
from tests.support.server_process import until

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element in selenium's messages
PATIENCE = 120  # seconds; until an answer comes
# A proxy that is not there: only this machine can be reached, which no proxy is asked for.
NO_PROXY = {
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
}
PREFERENCES = {
    **NO_PROXY,
    "browser.startup.page": 0,
    "browser.newtab.preload": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.ipc.processPrelaunch.enabled": False,
    # Timers of a tab that is not in front are as exact as those of the other.
    "dom.min_background_timeout_value": 4,
    "dom.timeout.enable_budget_timer_throttling": False,
}
# Without marks of the page, so that a page that another replaces is noticed.
LEAVE = "window.leaving = true"
# A navigation that takes another process shows an empty document for a moment.
HAS_ARRIVED = (
    "window.leaving !== true && location.protocol !== 'about:' &&"
    " document.readyState === 'complete'"
)
# An option is chosen by its list, which headless Firefox does not open.
CHOOSE = """
    (element) => {
        if (element.localName !== "option") {
            element.scrollIntoView({block: "center"});
            return false;
        }
        element.selected = true;
        element.closest("select").dispatchEvent(new Event("change", {bubbles: true}));
        return true;
    }
"""
# What selenium asks of an element, as functions of the element.
QUESTIONS = {
    Command.GET_ELEMENT_TEXT: "(e) => e.checkVisibility() ? e.innerText.trim() : ''",
    Command.GET_ELEMENT_TAG_NAME: "(e) => e.localName",
    Command.GET_ELEMENT_ATTRIBUTE: "(e, name) => e.getAttribute(name)",
    Command.GET_ELEMENT_VALUE_OF_CSS_PROPERTY: (
        "(e, name) => getComputedStyle(e).getPropertyValue(name)"
    ),
    Command.IS_ELEMENT_SELECTED: "(e) => e.selected === true || e.checked === true",
    Command.IS_ELEMENT_ENABLED: "(e) => !e.matches(':disabled')",
    Command.CLEAR_ELEMENT: "(e) => { e.value = ''; }",
}
PAGE_QUESTIONS = {
    Command.GET_CURRENT_URL: "location.href",
    Command.GET_TITLE: "document.title",
    Command.GET_PAGE_SOURCE: "document.documentElement.outerHTML",
}


class Firefox(WebDriver):
    """A running Firefox behind selenium's interface, as far as tests use that.

    `port`: where it listens.
    """

    def __init__(self, port: int) -> None:
        # Firefox refuses handshakes of pages, which have an Origin.
        self._socket = create_connection(
            f"ws://127.0.0.1:{port}/session", timeout=PATIENCE, suppress_origin=True
        )
        self._numbers = itertools.count(1)
        self._log: list[dict[str, Any]] = []
        self._context = ""
        super().__init__(options=FirefoxOptions())

    def send(self, method: str, **params: Any) -> Any:
        """The result of a command of WebDriver BiDi. Raises WebDriverException if it fails."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message["type"] == "event":
                self._log.append(message["params"])
            elif message["id"] == number:
                if message["type"] == "error":
                    raise WebDriverException(f"{method}: {message['error']}: {message['message']}")
                return message["result"]

    def complaints(self) -> list[dict[str, Any]]:
        """The warnings and errors of all pages since the last call, with a `message` each."""
        self.send("session.status")  # comes after every entry that was on its way
        entries, self._log = self._log, []
        return [
            {"level": entry["level"], "message": entry["text"]}
            for entry in entries
            if entry["level"] in ("warn", "error")
        ]

    def execute(self, driver_command: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Every command of selenium comes here."""
        given = self._wrap_value(dict(params or {}))  # type: ignore[no-untyped-call]
        if driver_command in PAGE_QUESTIONS:
            value = self._evaluate(PAGE_QUESTIONS[driver_command])
        elif driver_command in QUESTIONS:
            arguments = [{ELEMENT: given["id"]}, given.get("name") or given.get("propertyName")]
            value = self._call(QUESTIONS[driver_command], arguments)
        else:
            value = self._carry_out(driver_command, given)
        return {"value": self._unwrap_value(value)}  # type: ignore[no-untyped-call]

    def _carry_out(self, command: str, given: dict[str, Any]) -> Any:
        match command:
            case Command.NEW_SESSION:
                session = self.send("session.new", capabilities={})
                self.send("session.subscribe", events=["log.entryAdded"])
                self._context = self._contexts()[0]
                return session
            case Command.QUIT:
                self.send("browser.close")
                self._socket.close()
            case Command.GET:
                self._go(given["url"])
            case Command.GO_BACK:
                self._evaluate(LEAVE)
                self.send("browsingContext.traverseHistory", context=self._context, delta=-1)
                self._wait_for_arrival()
            case Command.REFRESH:
                self.send("browsingContext.reload", context=self._context, wait="complete")
            case Command.W3C_GET_CURRENT_WINDOW_HANDLE:
                return self._context
            case Command.W3C_GET_WINDOW_HANDLES:
                return self._contexts()
            case Command.SWITCH_TO_WINDOW:
                self._context = given["handle"]
                self.send("browsingContext.activate", context=self._context)
            case Command.NEW_WINDOW:
                kind = given["type"] or "tab"
                return {"handle": self.send("browsingContext.create", type=kind)["context"]}
            case Command.W3C_EXECUTE_SCRIPT:
                return self._call(f"function () {{ {given['script']} }}", given["args"])
            case Command.W3C_EXECUTE_SCRIPT_ASYNC:
                inner = f"(function () {{ {given['script']} }})"
                function = (
                    "function (...given) { return new Promise((resolve) => {"
                    f" {inner}.apply(this, [...given, resolve]); }}) }}"
                )
                return self._call(function, given["args"])
            case Command.FIND_ELEMENT | Command.FIND_CHILD_ELEMENT:
                found = self._locate(given)
                if not found:
                    raise NoSuchElementException(f"{given['using']}: {given['value']}")
                return found[0]
            case Command.FIND_ELEMENTS | Command.FIND_CHILD_ELEMENTS:
                return self._locate(given)
            case Command.CLICK_ELEMENT:
                self._click({ELEMENT: given["id"]})
            case Command.SEND_KEYS_TO_ELEMENT:
                self._type({ELEMENT: given["id"]}, given["text"])
            case Command.GET_ALL_COOKIES:
                return self._cookies()
            case Command.GET_COOKIE:
                named = [each for each in self._cookies() if each["name"] == given["name"]]
                return named[0] if named else None
            case Command.DELETE_COOKIE | Command.DELETE_ALL_COOKIES:
                wanted = {name: given[name] for name in ("name",) if name in given}
                host = urlsplit(self.current_url).hostname
                self.send("storage.deleteCookies", filter={**wanted, "domain": host})
            case Command.SCREENSHOT:
                return self.send("browsingContext.captureScreenshot", context=self._context)["data"]
            case _:
                raise NotImplementedError(command)
        return None

    def _contexts(self) -> list[str]:
        return [each["context"] for each in self.send("browsingContext.getTree")["contexts"]]

    def _go(self, url: str) -> None:
        """Navigate, and wait for a page, perhaps of another navigation that the first began."""
        try:
            self.send("browsingContext.navigate", context=self._context, url=url, wait="complete")
        except WebDriverException as error:
            if "NS_BINDING_ABORTED" not in str(error):
                raise
            self._wait_for_arrival()

    def _wait_for_arrival(self) -> None:
        def has_arrived() -> bool:
            try:
                return bool(self._evaluate(HAS_ARRIVED))
            except WebDriverException:  # between two pages
                return False

        until(has_arrived, "a page has been loaded")

    # --- scripts --------------------------------------------------------------------------------

    def _evaluate(self, expression: str) -> Any:
        return self._call(f"() => {expression}", [])

    def _call(self, function: str, arguments: list[Any]) -> Any:
        """What a function of JavaScript returns in the page, also where pages may run none."""
        result = self.send(
            "script.callFunction",
            functionDeclaration=function,
            arguments=[_to_bidi(each) for each in arguments],
            target={"context": self._context},
            awaitPromise=True,
            userActivation=False,
        )
        if result["type"] == "exception":
            raise WebDriverException(result["exceptionDetails"]["text"])
        return _from_bidi(result["result"])

    # --- elements -------------------------------------------------------------------------------

    def _locate(self, given: Mapping[str, Any]) -> list[dict[str, str]]:
        kind, value = given["using"], given["value"]
        if kind == "link text":
            kind, value = "xpath", f".//a[normalize-space()='{value}']"
        elif kind == "partial link text":
            kind, value = "xpath", f".//a[contains(., '{value}')]"
        start = {"startNodes": [{"sharedId": given["id"]}]} if "id" in given else {}
        nodes = self.send(
            "browsingContext.locateNodes",
            context=self._context,
            locator={"type": "xpath" if kind == "xpath" else "css", "value": value},
            **start,
        )["nodes"]
        return [{ELEMENT: node["sharedId"]} for node in nodes]

    def _click(self, element: dict[str, str]) -> None:
        if self._call(CHOOSE, [element]):
            return
        origin = {"type": "element", "element": _to_bidi(element)}
        self._act(
            "pointer",
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        )

    def _type(self, element: dict[str, str], text: str) -> None:
        self._call("(element) => element.focus()", [element])
        strokes = itertools.product(text, ("keyDown", "keyUp"))
        self._act("key", *({"type": kind, "value": letter} for letter, kind in strokes))

    def _act(self, device: str, *actions: Mapping[str, Any]) -> None:
        source = {"type": device, "id": device, "actions": actions}
        self.send("input.performActions", context=self._context, actions=[source])

    # --- cookies --------------------------------------------------------------------------------

    def _cookies(self) -> list[dict[str, Any]]:
        """The cookies of the page's host, as selenium shows them."""
        host = urlsplit(self.current_url).hostname
        return [each for each in self.all_cookies() if each["domain"] == host]

    def all_cookies(self) -> list[dict[str, Any]]:
        """The cookies of all hosts, as selenium shows them."""
        partition = {"type": "context", "context": self._context}
        return [
            {
                "name": each["name"],
                "value": each["value"]["value"],
                "domain": each["domain"],
                "path": each["path"],
                "secure": each["secure"],
                "httpOnly": each["httpOnly"],
                "sameSite": each["sameSite"].title(),
                **({"expiry": each["expiry"]} if "expiry" in each else {}),
            }
            for each in self.send("storage.getCookies", partition=partition)["cookies"]
        ]


@contextlib.contextmanager
def open_firefox(preferences: Mapping[str, object] | None = None) -> Iterator[Firefox]:
    """Headless Firefox with an empty profile. Skips the test if none is installed, or fails it.

    `preferences`: of its profile, beside the usual ones.
    """
    need_driver("websocket")
    binary = program("firefox-esr", "firefox")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        lines = (
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
            for name, value in {**PREFERENCES, **(preferences or {})}.items()
        )
        (Path(profile) / "user.js").write_text("".join(lines))
        arguments = [
            *(binary, "--headless", "--no-remote", "--profile", profile),
            *("--remote-debugging-port", "0", "--width", "1200", "--height", "1000"),
        ]
        process = subprocess.Popen(
            arguments,
            env={**os.environ, "HOME": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that all of its processes can be ended
        )
        try:
            driver = Firefox(_port_of(process, Path(profile) / "WebDriverBiDiServer.json"))
            yield driver
            driver.quit()
            process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _port_of(process: subprocess.Popen[bytes], note: Path) -> int:
    """The port that Firefox has noted in its profile."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):  # not yet, or half of it
            return int(json.loads(note.read_text())["ws_port"])
        time.sleep(0.05)
    raise AssertionError(f"Firefox does not listen; its exit status is {process.poll()}")


def _to_bidi(value: Any) -> dict[str, Any]:
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean", "value": value}
        case int() | float():
            return {"type": "number", "value": value}
        case str():
            return {"type": "string", "value": value}
        case list():
            return {"type": "array", "value": [_to_bidi(each) for each in value]}
        case {"element-6066-11e4-a52e-4f735466cecf": str(identity)}:
            return {"sharedId": identity}
    return {"type": "object", "value": [[name, _to_bidi(each)] for name, each in value.items()]}


def _from_bidi(value: Mapping[str, Any]) -> Any:
    match value["type"]:
        case "array":
            return [_from_bidi(each) for each in value["value"]]
        case "object":
            return {name: _from_bidi(each) for name, each in value["value"]}
        case "node":
            return {ELEMENT: value["sharedId"]}
    return value.get("value")
