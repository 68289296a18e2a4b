"""Flask's tutorial and Django's admin in a real browser, unchanged but for their configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="not installed: selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By

from sealedstate import Key
from sealedstate.keyring import export_lookup
from tests.peers.__main__ import FLASK, fetch_source
from tests.support.browser import complaints, follow, open_browser
from tests.support.client import send
from tests.support.servers import Server, gunicorn

pytestmark = pytest.mark.server

TUTORIAL = """
from flaskr import create_app
from sealedstate_flask import SealedSessions

application = create_app()
SealedSessions(application)
"""
ADMIN = """
import os

from tests.support import django_site

django_site.PROJECT.update(
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{os.environ['SITE']}/db"}
    },
    SEALEDSTATE={"storage": "django:default"},
    MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage",
    CSRF_USE_SESSIONS=True,
    ROOT_URLCONF="tests.support.django_admin",
    INSTALLED_APPS=[*django_site.PROJECT["INSTALLED_APPS"], "django.contrib.staticfiles"],
    STATIC_URL="static/",
)
django_site.set_up()

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

application = StaticFilesHandler(get_wsgi_application())
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    keys = [Key.generate(os.urandom).export(), export_lookup(os.urandom(32))]
    return {
        "SEALEDSTATE_KEYS": "\n".join(keys),
        "SITE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }


def run(folder: Path, environ: Mapping[str, str], *command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def fill(driver: webdriver.Chrome, **fields: str) -> None:
    """Fill in the form of the page and send it."""
    for name, value in fields.items():
        field = driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(value)
    follow(driver, driver.find_element(By.CSS_SELECTOR, "input[type=submit]"))


def text_of(driver: webdriver.Chrome) -> str:
    return driver.find_element(By.TAG_NAME, "body").text


def captured(driver: webdriver.Chrome) -> str:
    """The Cookie header that a thief of this moment has."""
    return "; ".join(f"{each['name']}={each['value']}" for each in driver.get_cookies())


def test_user_of_flasks_tutorial_registers_posts_and_logs_out(
    browser: webdriver.Chrome, environ: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(fetch_source(FLASK) / "examples/tutorial/flaskr", tmp_path / "flaskr")
    run(tmp_path, environ, "-m", "flask", "--app", "flaskr", "init-db")
    environ["SEALEDSTATE_STORAGE"] = f"sqlite:{tmp_path}/store.db"
    environ["SEALEDSTATE_SUBJECT_KEY"] = "user_id"
    with gunicorn(tmp_path, TUTORIAL, environ=environ) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        follow(browser, browser.find_element(By.LINK_TEXT, "Register"))
        fill(browser, username="ann", password="secret")
        fill(browser, username="ann", password="wrong")
        assert "Incorrect password." in text_of(browser)  # a flashed message
        fill(browser, username="ann", password="secret")
        follow(browser, browser.find_element(By.LINK_TEXT, "New"))
        fill(browser, title="First post", body="of a sealed session")
        assert "First post\nby ann" in text_of(browser)
        cookie = captured(browser)
        assert b"Log Out" in send(server.port, "GET", "/", cookie).body
        follow(browser, browser.find_element(By.LINK_TEXT, "Log Out"))
        assert "Log In" in text_of(browser)
        assert_is_refused(server, "/", cookie, b"Log Out")
        assert_no_complaints(browser)


def test_user_of_djangos_admin_logs_in_adds_a_user_and_logs_out(
    browser: webdriver.Chrome, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "served.py").write_text(ADMIN)
    set_up = (
        "import served\n"
        "from django.contrib.auth.models import User\n"
        "from django.core.management import call_command\n"
        "call_command('migrate', verbosity=0)\n"
        "User.objects.create_superuser('ann', 'ann@example.org', 'secret')\n"
    )
    run(tmp_path, environ, "-c", set_up)
    with gunicorn(tmp_path, ADMIN, environ=environ) as server:
        browser.get(f"http://127.0.0.1:{server.port}/admin/")
        fill(browser, username="ann", password="wrong")
        assert "Please enter the correct username" in text_of(browser)
        fill(browser, username="ann", password="secret")
        follow(browser, browser.find_element(By.CSS_SELECTOR, ".model-user .addlink"))
        fill(browser, username="joe", password1="a long password", password2="a long password")
        assert "The user “joe” was added successfully." in text_of(browser)
        browser.get(f"http://127.0.0.1:{server.port}/admin/auth/user/")
        assert "2 users" in text_of(browser)
        cookie = captured(browser)
        assert b"Site administration" in send(server.port, "GET", "/admin/", cookie).body
        follow(browser, browser.find_element(By.CSS_SELECTOR, "#logout-form button"))
        assert "Logged out" in text_of(browser)
        assert_is_refused(server, "/admin/", cookie, b"Site administration")
        assert_no_complaints(browser)


def assert_is_refused(server: Server, path: str, cookie: str, shown: bytes) -> None:
    """Every worker refuses a cookie that was captured before the logout."""
    for _ in range(10):
        assert shown not in send(server.port, "GET", path, cookie).body


def assert_no_complaints(driver: webdriver.Chrome) -> None:
    """Its console has complaints about these applications, but none about a cookie."""
    assert [each for each in complaints(driver) if "cookie" in each["message"].lower()] == []
