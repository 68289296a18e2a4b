"""``sealedstate path``: what the path from here to an application carries."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import click

from ..deployment import Deployment
from ..errors import ConfigurationError, escape_text, quote_text
from ..path import Diagnosis, Observation, PathPages, Probe, diagnose
from ..path._error_pages import KINDS, error_page
from ..profiles import PROFILES, Profile
from ..settings import Settings, process_environment
from ._output import config_option, echo, echo_bytes, emit, format_exact, json_option, table
from ._source import KEYS_VARIABLE, application_settings

__all__ = ["path"]

# Where PathApplication is looked for if the address has no path.
MOUNT = "/sealedstate/path"
TIMEOUT_SECONDS = 15
# How long a body is waited for that does not say where it ends.
BODY_SECONDS = 3
# Networks carry segments of about this size. In one burst, some servers take more than they do
# from a network, so the request is sent in pieces with a pause.
SEGMENT_BYTES, PAUSE_SECONDS = 1400, 0.002
MOST_RESPONSE_BYTES = 1 << 17
_FAILURES = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNREFUSED: "refused",
}
_NO_KEYS = "the keys of the application are needed; give --config FILE or set SEALEDSTATE_KEYS"
_WORDS = {
    "cookie": "Cookie field",
    "cookies": "number of cookies",
    "set_cookie": "one Set-Cookie field",
    "response": "header fields of a response",
}


class _PathGroup(click.Group):
    """Takes the address of an application in place of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["check", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_PathGroup)
def path() -> None:
    """Measure what the path to an application carries.

    `sealedstate path https://app.example` is short for `sealedstate path check`.
    """


@path.command()
@click.argument("address", metavar="URL")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    help="The profile to judge by; by default the configured one.",
)
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@config_option
@json_option
def check(
    address: str, profile: str | None, insecure: bool, config: str | None, as_json: bool
) -> int:
    """Measure the path to URL.

    It takes some 45 requests of at most 64 kB. URL is what `sealedstate path link` prints, or the
    address of an application with PathApplication if the configuration has its keys; without
    PathApplication, only requests are measured. The exit code is 1 if the profile does not fit or
    something else is a problem.
    """
    parts = _parse_address(address)
    settings = _settings(config)
    wanted = PROFILES[profile] if profile else (settings or Settings()).budget_profile()
    target = _Target.of(parts, insecure)
    if "link=" not in parts.query and settings is not None:
        with _open(settings) as pages:
            mount = parts.path.rstrip("/") or MOUNT
            # Short, because some servers count the address and the fields together.
            linked = urlsplit(f"{parts.scheme}://{parts.netloc}{mount}{pages.link('')}")
        found = replace(target, base=f"{linked.path}probe", query=linked.query)
        # One connection that fails must not make another address of it.
        seen = found.send(Probe("hello"))
        if seen.status is None and seen.failure != "timeout":
            seen = found.send(Probe("hello"))
        if seen.status == 200 or seen.failure == "timeout":
            target = found
    diagnosis = _run(target, wanted)
    facts = {"url": f"{parts.scheme}://{parts.netloc}{target.base}", **asdict(diagnosis)}
    emit(as_json, facts, _lines(diagnosis))
    return 0 if diagnosis.is_clean else 1


@path.command()
@click.argument("mount", metavar="URL")
@click.option("--label", default="", help="A word that comes back with the report.")
@click.option(
    "--other-site",
    metavar="URL",
    default="",
    help="Where PathApplication with these keys is on another site, to post a form from there.",
)
@config_option
def link(mount: str, label: str, other_site: str, config: str | None) -> None:
    """Print a link to PathApplication at URL.

    It is good for an hour: a visitor opens it in the browser, or `sealedstate path check` measures
    by it.
    """
    settings = _settings(config)
    if settings is None:
        raise ConfigurationError(_NO_KEYS)
    places = {"URL": mount} | ({"--other-site": other_site} if other_site else {})
    for name, place in places.items():
        bare = not _parse_address(place, name).path.rstrip("/")
        # They get into a redirect and into a policy.
        if not re.fullmatch(r"https?://[\w.:\[\]-]+(?:/[\w./~%-]*)?", place, re.ASCII | re.I):
            raise ConfigurationError(
                f"{name}: must be an address and a path of A-Z, a-z, 0-9 and ./~%_-, without ? or #"
            )
        places[name] = f"{place.rstrip('/')}{MOUNT}" if bare else place
    with _open(settings) as pages:
        echo(pages.link(places["URL"], label, places.get("--other-site", "")))


@path.command()
@click.argument("text", metavar="REPORT")
@click.option("--log", metavar="FILE", type=click.Path(), help="A log that has the report.")
@config_option
@json_option
def report(text: str, log: str | None, config: str | None, as_json: bool) -> int:
    """Open the report that a visitor sent.

    REPORT is the text of the page, - for standard input, or, with --log, a code such as
    7KQ4-X2MA: the application logs each code with its report, to the logger "sealedstate.path". The
    exit code is 1 if the profile does not fit what the report measured.
    """
    if text == "-" and sys.stdin is not None:
        text = sys.stdin.read()
    text = "".join(text.split())
    if log is not None:
        with click.open_file(log, encoding="utf-8", errors="replace") as file:
            found = re.findall(rf"path report {re.escape(text.upper())} ([\w-]+)", file.read())
        if not found:
            raise ConfigurationError(f"--log: {quote_text(log)} has no report {quote_text(text)}")
        text = found[-1]
    elif re.fullmatch(r"\w{4}-\w{4}", text):
        raise ConfigurationError("REPORT: a code is found in a log; add --log FILE")
    settings = _settings(config)
    if settings is None:
        raise ConfigurationError(_NO_KEYS)
    with _open(settings) as pages:
        facts = pages.read_report(text)
    emit(as_json, facts, table(_report_rows(facts)))
    return 0 if facts.get("fits") else 1


@path.command("error-page")
@click.argument("proxy", type=click.Choice(KINDS))
@click.option("--limit", type=click.IntRange(1000, 60_000), help="Bytes of the Cookie field.")
@config_option
def show_error_page(proxy: str, limit: int | None, config: str | None) -> None:
    """Print what has a proxy answer too many cookies.

    It is for the configuration of PROXY, which refuses longer Cookie fields than --limit itself, by
    a page with a button that frees the browser. The limit must be less than what the application
    server takes; by default, it is a twentieth more than the profile takes.
    """
    settings = _settings(config) or Settings()
    profile, family = settings.budget_profile(), settings.cookie_family()
    names = [family.chunk_name(number) for number in range(1, max(profile.cookies, 4))]
    lines = [family.delete_line(name) for name in names]
    size = limit or profile.header_bytes + profile.header_bytes // 20
    echo_bytes(error_page(proxy, lines, size).encode())


def _parse_address(address: str, name: str = "URL") -> SplitResult:
    """The parts of an address with a host, and without a password. Raises ConfigurationError."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # computed, and checked, where it is read
        host = (parts.hostname or "").encode("idna").decode()
    except ValueError as error:  # also UnicodeError: of a name that DNS does not have
        raise ConfigurationError(f"{name}: {escape_text(error)}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"{name}: expected http://HOST/... or https://HOST/..., got {quote_text(address)}"
        )
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"{name}: must have no user and no password; they would not be sent"
        )
    if not re.fullmatch(r"[!#-;=?-~]+", f"{parts.netloc}{parts.path}{parts.query}"):
        raise ConfigurationError(
            f"{name}: must be written in ASCII, without blanks, quotes and < >"
        )
    return parts


def _report_rows(facts: dict[str, Any]) -> Iterator[tuple[object, object]]:
    for name, value in facts.items():
        if name == "at":
            yield name, format_exact(value)
        elif name in _WORDS and isinstance(value, dict) and "passed" in value:
            refused = value.get("refused")
            how = f"; {refused} refused ({value.get('answer')})" if refused else ""
            yield _WORDS[name], f"{value.get('passed')} passes{how}"
        elif isinstance(value, dict):
            yield name, ", ".join(f"{key}: {each}" for key, each in value.items()) or "-"
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or "-"
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        else:
            yield name, "-" if value == "" else value


def _settings(config: str | None) -> Settings | None:
    """The settings that the options name, or None if there are none."""
    if config is not None:
        return Settings.from_toml(config, rotate_in_process=False)
    known = application_settings()
    if known is not None:
        return replace(known, rotate_in_process=False)
    environ = process_environment()
    if KEYS_VARIABLE in environ or f"{KEYS_VARIABLE}_FILE" in environ:
        return Settings.from_env(environ, rotate_in_process=False)
    return None


@contextmanager
def _open(settings: Settings) -> Iterator[PathPages]:
    with closing(Deployment.open(settings)) as deployment:
        yield PathPages(deployment)


def _run(target: _Target, profile: Profile) -> Diagnosis:
    steps = diagnose(profile, target.scheme, os.urandom(32))
    probe = next(steps)
    while True:
        try:
            probe = steps.send(target.send(probe))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


# --- one request --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the probes are sent. `base`, `query`: path of the address, and its parameters."""

    scheme: str
    host: str
    port: int
    authority: str
    base: str
    query: str = field(repr=False)
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, parts: SplitResult, insecure: bool) -> _Target:
        context = None
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if insecure:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        port = parts.port or (443 if parts.scheme == "https" else 80)
        base, host = parts.path or "/", parts.hostname or ""
        if "link=" in parts.query:
            base = f"{base.rstrip('/')}/probe"
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise ConfigurationError(
                f"URL: the host {quote_text(host)} is not found: {escape_text(error.strerror)}"
            ) from None
        return cls(parts.scheme, host, port, parts.netloc, base, parts.query, context)

    def send(self, probe: Probe) -> Observation:
        """Send one request over a separate connection, in pieces as a network does."""
        query = self.query
        if "link=" in query:
            query = f"{query}&{urlencode(probe.query)}"
        fields = [("Host", self.authority), *probe.headers, ("Connection", "close")]
        if probe.cookie:
            fields.append(("Cookie", probe.cookie))
        method = "POST" if probe.form else "GET"
        if probe.form:
            fields.append(("Content-Length", str(len(probe.form))))
        head = [f"{method} {self.base}{'?' if query else ''}{query} HTTP/1.1"]
        head += [f"{name}: {value}" for name, value in fields]
        request = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + probe.form
        received, failure = b"", "closed"
        deadline = time.monotonic() + TIMEOUT_SECONDS
        try:
            with closing(self._connect()) as connection:
                # A server that refuses may answer and close before it has read everything.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    for begin in range(0, len(request), SEGMENT_BYTES):
                        connection.sendall(request[begin : begin + SEGMENT_BYTES])
                        if begin + SEGMENT_BYTES < len(request):
                            time.sleep(PAUSE_SECONDS)
                # Not until the server closes: some keep the connection, or send without an end.
                while len(received) < MOST_RESPONSE_BYTES:
                    left = _bytes_left(received)
                    if left == 0:
                        break
                    if left is None:
                        deadline = min(deadline, time.monotonic() + BODY_SECONDS)
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = connection.recv(1 << 16)
                    if not piece:
                        break
                    received += piece
        except TimeoutError:
            failure = "timeout"
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(
                f"URL: the certificate is not accepted: {error.verify_message};"
                " --insecure accepts it"
            ) from None
        except OSError as error:
            failure = _FAILURES.get(error.errno or 0, "closed")
        return _parse(received, failure, time.time())

    def _connect(self) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is None:
            return connection
        try:
            return self.context.wrap_socket(connection, server_hostname=self.host)
        except BaseException:
            connection.close()
            raise


def _parse(received: bytes, failure: str, at: float) -> Observation:
    """The observation of a connection; a status that came counts, whatever came then."""
    line, headers, body, is_complete = _split(received)
    status = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
    if status is None or (failure == "timeout" and not is_complete):
        return Observation(None, failure=failure, received_at=at)
    return Observation(
        int(status[1]),
        headers,
        _join_chunks(body) if _is_chunked(headers) else body,
        received_at=at,
    )


def _split(received: bytes) -> tuple[str, list[tuple[str, str]], bytes, bool]:
    """The line of the status, the fields, the body, and whether all fields came.

    Of the final response: others, such as Early Hints, may come before it (RFC 9110, 15.2).
    """
    while True:
        head, *rest = re.split(rb"\r?\n\r?\n", received, maxsplit=1)
        if not rest or not re.match(rb"HTTP/1\.[01] 1\d\d\b", head):
            break
        received = rest[0]
    line, *fields = re.split(r"\r?\n", head.decode("latin-1"))
    headers = []
    for each in fields:
        name, colon, value = each.partition(":")
        if colon:
            headers.append((name.strip(), value.strip()))
    return line, headers, b"".join(rest), bool(rest)


def _bytes_left(received: bytes) -> int | None:
    """How many bytes are still to come, at least; None if only the end of the connection says."""
    line, headers, body, is_complete = _split(received)
    if not is_complete:
        return 1
    if line[9:12] in ("204", "304"):
        return 0
    if _is_chunked(headers):
        return 0 if re.search(rb"(?:\A|\r\n)0+\r\n\r\n\Z", body[-64:]) else None
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    if not lengths or not re.fullmatch(r"[0-9]{1,9}", lengths[0]):
        return None
    return max(0, int(lengths[0]) - len(body))


def _is_chunked(headers: Sequence[tuple[str, str]]) -> bool:
    return any(
        name.lower() == "transfer-encoding" and value.lower() == "chunked"
        for name, value in headers
    )


def _join_chunks(body: bytes) -> bytes:
    joined = b""
    while match := re.match(rb"([0-9a-fA-F]{1,8})[^\r\n]*\r\n", body):
        size = int(match[1], 16)
        if size == 0:
            break
        joined += body[match.end() : match.end() + size]
        body = body[match.end() + size + 2 :]
    return joined


# --- for people ---------------------------------------------------------------------------------


def _lines(diagnosis: Diagnosis) -> list[str]:
    rows: list[tuple[object, ...]] = [("what", "passes", "refused", "by", "how")]
    for each in diagnosis.limits:
        refused = "-" if each.refused is None else each.refused
        rows.append(
            (_WORDS[each.question], each.passed, refused, each.hop or "-", each.answer or "-")
        )
    lines = [f"path: {' > '.join(diagnosis.hops) or 'no server shows its name'}", ""]
    if diagnosis.limits:
        lines += [*table(rows, right=(1, 2)), ""]
    raising = [(each.hop, each.setting) for each in diagnosis.limits if each.setting]
    lines += [f"to raise it in {hop}: {setting}" for hop, setting in dict.fromkeys(raising)]
    fitting = ", ".join(diagnosis.fitting) or "none"
    verdict = "fits" if diagnosis.fits else "does not fit"
    lines.append(f"profile {diagnosis.profile} {verdict}; profiles that fit: {fitting}")
    for finding in diagnosis.findings:
        remedy = f" To do: {finding.remedy}." if finding.remedy else ""
        lines.append(f"{finding.severity}: {finding.text}{remedy}")
    return lines
