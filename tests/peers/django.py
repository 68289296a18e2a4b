"""Runs Django's own tests on sealed sessions.

    python -m peers.django DJANGO_SOURCE [--store] [--report=FILE] auth_tests messages_tests
    python -m peers.django DJANGO_SOURCE [--store] [--report=FILE] mixin

`peers` is this folder, linked into a folder of the path, so that its modules hide no library. The
report has the form of JUnit's. ``mixin`` is `SessionTestsMixin`, which Django's engines share. All
else is run by Django's own runtests.py, with our engine, our middleware in place of Django's, and
our test clients.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
import types
import unittest
from typing import Any
from xml.etree import ElementTree

from sealedstate import Key


def add_settings(with_store: bool) -> str:
    """Make a settings module, as Django's test_sqlite; returns its name."""
    table: dict[str, Any] = {"keys": Key.generate(os.urandom).export(), "cookie_name": "sessionid"}
    if with_store:
        table["storage"] = f"sqlite:{tempfile.mkdtemp(prefix='peers-')}/store.db"
    module = types.ModuleType("peer_settings")
    sqlite = {"ENGINE": "django.db.backends.sqlite3"}
    vars(module).update(
        DATABASES={"default": sqlite, "other": sqlite},
        SECRET_KEY="django_tests_secret_key",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        USE_TZ=False,
        SESSION_ENGINE="sealedstate_django",
        SEALEDSTATE=table,
    )
    sys.modules[module.__name__] = module
    return module.__name__


def replace_middleware() -> None:
    """Let every project of the suites that has our engine have our middleware in Django's place."""
    import django.contrib.sessions.middleware as middleware
    from django.conf import settings

    from sealedstate_django import SealedSessionMiddleware
    from sealedstate_django.test import install

    stock: Any = middleware.SessionMiddleware

    class Replaced(stock):  # type: ignore[misc]
        def __new__(cls, get_response: Any) -> Any:
            is_ours = settings.SESSION_ENGINE == "sealedstate_django"
            return (SealedSessionMiddleware if is_ours else stock)(get_response)

    # Its name and its place are in messages, and in the checks of the admin.
    Replaced.__name__ = Replaced.__qualname__ = stock.__name__
    Replaced.__module__ = stock.__module__
    middleware.SessionMiddleware = Replaced  # type: ignore[misc]
    install()


def make_runner(report: str) -> type[Any]:
    """A test runner that writes a report."""
    from django.test.runner import DiscoverRunner

    class ReportingRunner(DiscoverRunner):
        def suite_result(self, suite: Any, result: Any, **kwargs: Any) -> Any:
            if report:
                write_report(report, result)
            return super().suite_result(suite, result, **kwargs)

    return ReportingRunner


def write_report(path: str, result: unittest.TestResult) -> None:
    """Write a JUnit report: a case for each test that did not pass, and for the number passed."""
    bad = {str(getattr(test, "test_case", test)) for test, _ in result.failures + result.errors}
    skipped = {str(test) for test, _ in result.skipped}
    root = ElementTree.Element("testsuite")
    for name in sorted(bad | skipped):
        case = ElementTree.SubElement(root, "testcase", name=name.partition(" ")[0])
        ElementTree.SubElement(case, "failure" if name in bad else "skipped")
    for _ in range(result.testsRun - len(bad | skipped)):
        ElementTree.SubElement(root, "testcase", name="passed")
    ElementTree.ElementTree(root).write(path)


def run_mixin(report: str) -> int:
    """Run Django's tests of an engine; the cookies of all saves are in one jar by session_key."""
    import django
    from django.conf import settings
    from django.test import SimpleTestCase

    apps = ["auth", "contenttypes", "sessions"]
    settings.INSTALLED_APPS = [*(f"django.contrib.{each}" for each in apps), "sessions_tests"]
    django.setup()
    from sessions_tests.tests import SessionTestsMixin  # type: ignore[import-not-found]

    from sealedstate_django import SessionStore

    jar: dict[str, str] = {}

    def backend(session_key: str | None = None) -> SessionStore:
        """A session, or that of the browser which has the cookies of this one."""
        if session_key in jar:
            store = SessionStore.from_cookies(jar[session_key])
        else:
            store = SessionStore(session_key)

        def keep(lines: Any) -> None:
            if (key := store.session_key) is not None:
                jar[key] = "; ".join(line.partition(";")[0] for line in lines)

        store.on_save = keep
        return store

    # As a class, for tests that call its methods.
    backend.clear_expired = SessionStore.clear_expired  # type: ignore[attr-defined]

    class SealedSessionTests(SessionTestsMixin, SimpleTestCase):  # type: ignore[misc]
        pass

    SealedSessionTests.backend = staticmethod(backend)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(SealedSessionTests)
    runner = make_runner(report)()
    result = runner.run_suite(suite)
    runner.suite_result(suite, result)
    return len(result.failures) + len(result.errors)


def main(arguments: list[str]) -> int:
    options = [each for each in arguments if each.startswith("--")]
    source, *labels = [each for each in arguments if each not in options]
    with_store = "--store" in options
    report = "".join(each[9:] for each in options if each.startswith("--report="))
    report = report and os.path.abspath(report)  # noqa: PTH100
    os.environ["DJANGO_SETTINGS_MODULE"] = add_settings(with_store)
    tests = os.path.join(os.path.abspath(source), "tests")  # noqa: PTH100, PTH118
    sys.path[0] = tests
    os.chdir(tests)
    if labels == ["mixin"]:
        return run_mixin(report)
    replace_middleware()
    vars(sys.modules["peer_settings"])["TEST_RUNNER"] = "peer_settings.Runner"
    vars(sys.modules["peer_settings"])["Runner"] = make_runner(report)
    sys.argv = ["runtests.py", "--settings=peer_settings", "--parallel=1", *labels]
    runpy.run_path("runtests.py", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
