"""Runs the tests of other projects on sealed sessions, and prints what they report as a table.

python tests/peers [NAME...]

Each suite comes from its project's sdist, or from a checkout that a variable names, and runs in
this environment with the plugin of its name in this folder. A failure that is listed with its
reason is an exception; any other failure, and a test that is listed and passes, ends the run with
exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "build" / "peers"


@dataclass(frozen=True)
class Suite:
    """The tests of one project.

    `requirement`: of its sdist. `variable`: the one that names a checkout, for a project whose
    sdist has no tests. `plugin`: the module of this folder that gives it our sessions. `folder`:
    where pytest runs, in the sdist. `tests`: what it runs. `goal`: how many must pass.
    `exceptions`: tests that may fail, with the reason. `is_pytest`: otherwise the plugin is a
    program, which gets the folder, the file for its report, and `tests`.
    """

    name: str
    plugin: str
    goal: int
    requirement: str = ""
    variable: str = ""
    folder: str = "."
    tests: tuple[str, ...] = ("tests",)
    exceptions: dict[str, str] = field(default_factory=dict)
    is_pytest: bool = True


# 5.2 or 6, by the interpreter: see requirements.txt.
IS_DJANGO_6 = metadata.version("django").startswith("6.")
QUERIES = "counts the queries of a session in the database"
LOGIN = {
    "test_session_key_flushed_on_login_after_password_change": "a login of the same user, too,"
    " begins with full lifetimes, and a later end needs a new id: a logout with an earlier cookie"
    " must be kept as long as the later one lives",
    **({"test_protected_view_logged_in_performance": QUERIES} if IS_DJANGO_6 else {}),
}
DJANGO_EXCEPTIONS = {
    "auth_tests": LOGIN,
    "auth_tests, without a store": {
        **LOGIN,
        "test_default_logout_then_login": "shows the cookie of before a logout",
        "test_logout_then_login_with_custom_login": "shows the cookie of before a logout",
    },
    "admin_views": {
        "test_changelist_view_count_queries": QUERIES,
        "test_no_total_count": QUERIES,
        "test_reset_link": QUERIES,
        "test_group_permission_performance": QUERIES,
        "test_user_permission_performance": QUERIES,
    },
    "mixin, without a store": {
        f"test_session_{save}_does_not_resurrect_session_logged_out_in_other_context": "needs one"
        for save in ("save", "asave")
    },
    "sessions_tests": {
        "test_no_httponly_session_cookie": "SESSION_COOKIE_HTTPONLY=False is refused at the start",
        "test_session_delete_on_end": "sets request.COOKIES, where ours are read from the header",
        "test_session_delete_on_end_with_custom_domain_and_path": "sets request.COOKIES",
        "test_save_every_request_with_non_empty_session_renews_session_cookie": "sets"
        " request.COOKIES",
        "test_empty_session_saved": "expects session_key in the cookie, and a row of a table",
        "test_session_save_on_500": "expects that load() asks a database",
        "test_session_save_on_5xx": "expects that load() asks a database",
        "test_session_update_error_redirect": "expects an error where a request ended its session",
    },
}
BY_KEY = "reads the values of other sessions by their session_key; they are in the browsers"
FLASK = "flask==3.1.3"
SUITES = [
    Suite(
        "Flask",
        "flask",
        486,
        FLASK,
        exceptions={
            "test_session_using_session_settings": "SESSION_COOKIE_HTTPONLY=False is refused",
            "test_session_using_samesite_attribute": "a cookie always has SameSite",
            "test_session_expiration": "a cookie has Max-Age in place of Expires",
            "test_bad_environ_raises_bad_request": "fails without our sessions, too (Werkzeug)",
        },
    ),
    Suite(
        "Flask-Login",
        "flask",
        114,
        "flask-login==0.6.3",
        # It reads the time as Python 3.12 deprecates, and makes warnings errors.
        tests=("tests", "-W", "ignore:datetime.datetime.utcnow"),
    ),
    Suite("Flask-WTF", "flask", 80, "flask-wtf==1.3.0"),
    Suite("Flask's tutorial", "flask", 24, FLASK, folder="examples/tutorial"),
    Suite(
        "Starlette",
        "starlette",
        25,
        "starlette==1.10.0",
        tests=("tests/middleware/test_session.py",),
        exceptions={
            "test_session_expires": "a lifetime of 0 or less is refused",
            "test_session_zero_max_age": "a lifetime of 0 or less is refused",
        },
    ),
    Suite(
        "Quart",
        "quart",
        249,
        variable="QUART_CHECKOUT",
        exceptions={
            "test__handle_exception": "fails without our sessions, too",
            "test_cli_blueprints": "fails without our sessions, too (click)",
        },
    ),
    Suite(
        "Litestar's sessions",
        "litestar",
        47,
        variable="LITESTAR_CHECKOUT",
        tests=("tests/unit/test_middleware/test_session",),
        exceptions={
            **dict.fromkeys(
                [
                    "test_dump_and_load_data",
                    "test_load_session_cookies_and_expire_previous",
                    "test_set_session_cookies",
                    "test_store_in_message_clears_cookies_when_session_grows_gt_chunk_size",
                ],
                "more than 8,000 bytes in cookies are refused",
            ),
            "test_key_validation": "a cookie's name has at most 64 characters",
            "test_load_data_should_raise_invalid_tag_if_tampered_aad": "an altered cookie is empty",
        },
    ),
    Suite(
        "Pyramid's sessions",
        "pyramid",
        25,
        "pyramid==2.1",
        tests=("tests/test_session.py::TestBaseCookieSession",),
        exceptions={
            **dict.fromkeys(
                [
                    "test__set_cookie_cookieval_too_long",
                    "test__set_cookie_on_exception",
                    "test__set_cookie_on_exception_no_request_exception",
                    "test__set_cookie_options",
                    "test__set_cookie_real_webob_response",
                ],
                "calls _set_cookie, which is private",
            ),
            **dict.fromkeys(
                [
                    "test_changed",
                    "test_reissue_not_triggered",
                    "test_reissue_str_triggered",
                    "test_reissue_triggered",
                ],
                "reads _dirty, which is private",
            ),
            "test_reissue_never": "a session of 1970 has expired",
            "test_timeout_never": "a session that is sealed a year ahead is refused",
        },
    ),
    Suite(
        "aiohttp-session",
        "aiohttp_session",
        19,
        "aiohttp-session==2.12.1",
        tests=(
            *("-o", "asyncio_mode=auto", "tests/test_cookie_storage.py"),
            *("tests/test_encrypted_cookie_storage.py", "tests/test_http_exception.py"),
            *("tests/test_path_domain.py", "tests/test_response_types.py"),
        ),
        exceptions={
            "test_clear_cookie_on_session_invalidation": "fails without ours, too (aiohttp)",
            "test_prepared_response_type": "a sent response has its session, so it is no error",
            "test_stream_response": "streams carry the cookie, too",
        },
    ),
    *(
        Suite(
            f"Authlib's {name} client",
            plugin,
            goal,
            variable="AUTHLIB_CHECKOUT",
            tests=tuple(tests),
        )
        for name, plugin, goal, *tests in (
            ("Flask", "flask", 37, "tests/clients/test_flask"),
            ("Starlette", "authlib", 29, "tests/clients/test_starlette"),
            (
                *("Django", "authlib_django", 19, "tests/clients/test_django"),
                "--ds=tests.django_settings",
            ),
        )
    ),
    *(
        Suite(
            f"Django {name}",
            "django",
            goals[IS_DJANGO_6],
            f"django=={metadata.version('django')}",
            tests=tuple(arguments),
            exceptions=DJANGO_EXCEPTIONS.get(name, {}),
            is_pytest=False,
        )
        for name, goals, *arguments in (
            ("mixin", (65, 65), "--store", "mixin"),
            ("mixin, without a store", (63, 63), "mixin"),
            ("sessions_tests", (639, 636), "--store", "sessions_tests"),
            ("messages_tests, csrf_tests", (228, 228), "--store", "messages_tests", "csrf_tests"),
            ("test_client", (215, 228), "--store", "test_client", "test_client_regress"),
            ("auth_tests", (813, 852), "--store", "auth_tests"),
            ("auth_tests, without a store", (811, 850), "auth_tests"),
            ("admin_views", (428, 436), "--store", "admin_views"),
        )
    ),
    Suite(
        "django-allauth",
        "allauth",
        378,
        "django-allauth==65.22.1",
        tests=("tests/apps/account", "tests/apps/mfa", "tests/apps/usersessions"),
        exceptions={
            "test_overall_flow": BY_KEY,
            "test_change_password_updates_user_session": BY_KEY,
        },
    ),
]


@dataclass(frozen=True)
class Figures:
    """What a suite reported: how many tests there are, passed and were skipped; which failed."""

    total: int
    passed: int
    skipped: int
    failed: frozenset[str]


def main() -> int:
    """Run the suites; returns the exit code."""
    parser = argparse.ArgumentParser("python tests/peers", description="Tests of other projects.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only suites with this in a name")
    names = [name.lower() for name in parser.parse_args().names]
    rows, is_good = [], True
    for suite in SUITES:
        if names and not any(name in suite.name.lower() for name in names):
            continue
        if suite.variable and suite.variable not in os.environ:
            print(f"{suite.name}: skipped; set {suite.variable} to a checkout that has its tests")
            continue
        figures = run(suite)
        unexpected = figures.failed - suite.exceptions.keys()
        outdated = suite.exceptions.keys() - figures.failed
        is_good = is_good and not (unexpected or outdated) and figures.passed >= suite.goal
        for name in sorted(unexpected):
            print(f"{suite.name}: {name} failed")
        for name in sorted(outdated):
            print(f"{suite.name}: {name} passes, so it is no exception")
        reasons = "; ".join(f"{name}: {suite.exceptions[name]}" for name in suite.exceptions)
        cells = (suite.name, figures.total, figures.passed, figures.skipped, suite.goal, reasons)
        rows.append(cells)
    print("| suite | tests | passed | skipped | goal | exceptions |")
    print("|---|---|---|---|---|---|")
    for cells in rows:
        print(f"| {' | '.join(map(str, cells))} |")
    return 0 if is_good else 1


def run(suite: Suite) -> Figures:
    """Run one suite with its plugin."""
    if suite.variable:
        source = Path(os.environ[suite.variable]).resolve()
    else:
        source = fetch_source(suite.requirement)
    folder = source / suite.folder
    with tempfile.TemporaryDirectory() as made:
        # The plugins are named as what they are for: this folder must not be on the path itself.
        (Path(made) / "peers").symlink_to(HERE)
        report = Path(made) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
            *("-p", f"peers.{suite.plugin}", f"--junit-xml={report}", *suite.tests),
        ]
        if not suite.is_pytest:
            program = (sys.executable, "-m", f"peers.{suite.plugin}")
            command = [*program, str(folder), f"--report={report}", *suite.tests]
        path = os.pathsep.join([made, str(folder)])
        outcome = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            raise SystemExit(
                f"{suite.name}: the tests did not run\n{outcome.stdout}{outcome.stderr}"
            )
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = frozenset(_names_with(cases, "failure", "error"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    bad = sum(case.find(kind) is not None for case in cases for kind in ("failure", "error"))
    return Figures(len(cases), len(cases) - skipped - bad, skipped, failed)


def fetch_source(requirement: str) -> Path:
    """The folder of an sdist, which is fetched once."""
    target = CACHE / re.sub(r"\W", "-", requirement)
    if not target.exists():
        with tempfile.TemporaryDirectory() as made:
            fetch = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
            command = [*fetch, "--no-binary", ":all:", "--dest", made, requirement]
            subprocess.run(command, check=True)
            (archive,) = Path(made).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                opened.extractall(f"{made}/source", filter="data")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(f"{made}/source", target)
    (folder,) = target.iterdir()
    return folder


def _names_with(cases: list[ElementTree.Element], *kinds: str) -> Iterator[str]:
    for case in cases:
        if any(case.find(kind) is not None for kind in kinds):
            yield case.get("name", "").partition("[")[0]


if __name__ == "__main__":
    sys.exit(main())
