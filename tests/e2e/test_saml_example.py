"""The SAML example, started as the README says: one sign-in, one sign-out, no forgery."""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
from saml2 import BINDING_HTTP_POST, BINDING_HTTP_REDIRECT
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from examples.saml.drafts import draft_artifact_resolve, draft_logout_request, new_id
from examples.saml.xml_text import wrap_in_envelope
from sealedstate import PROFILES
from sealedstate.sso import PERSISTENT, TRANSIENT, NameID
from tests.support.browser import complaints, open_browser, take_picture
from tests.support.installed import program
from tests.support.saml_federation import (
    SERVICES,
    Running,
    Visitor,
    hidden,
    message_fields,
    post_soap,
    running,
    where_to,
)

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "saml.png"
PATIENCE = 60  # seconds; a page is a dozen signatures of several processes

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:saml2"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    program("xmlsec1")
    with running(tmp_path_factory.mktemp("saml")) as started:
        yield started


@pytest.fixture
def visitor(federation: Running) -> Visitor:
    return Visitor(federation)


# --- in the browser -----------------------------------------------------------------------------


def arrive(driver: Chrome, locator: str) -> str:
    """The text at `locator` on the page where a chain of redirects and forms ends."""
    # Asked during a change of pages, chromedriver answers with one of several errors.
    wait = WebDriverWait(driver, PATIENCE, ignored_exceptions=[WebDriverException])
    return str(wait.until(lambda _: driver.find_element(By.CSS_SELECTOR, locator).text))


def press(driver: Chrome, label: str) -> None:
    driver.find_element(By.XPATH, f"//main//button[text()='{label}']").click()


def test_one_sign_in_serves_three_services_and_one_sign_out_ends_them_all(
    federation: Running,
) -> None:
    with open_browser() as driver:
        for service in SERVICES:
            driver.get(federation.at[service])
            press(driver, "Sign in")
            if service == "library":
                assert arrive(driver, "#why") == "Library wants to know who you are."
                driver.find_element(By.ID, "name").send_keys("Ada Lovelace")
                press(driver, "Sign in")
            assert arrive(driver, "#login ~ form ~ p").startswith("The back channel")
            assert arrive(driver, "#who") == "Welcome, Ada Lovelace."

        driver.get(federation.at["idp"])
        assert arrive(driver, "#count") == "3 service logins"
        ours = int(arrive(driver, "#ours").replace(",", ""))
        cookies = {cookie["name"]: cookie["value"] for cookie in driver.get_cookies()}
        assert ours == len("idp=") + len(cookies["idp"]) <= PROFILES["portable"].cookie_bytes
        if "SAML_SCREENSHOT" in os.environ:
            take_picture(driver, PICTURE, 1200, 1000)

        driver.get(federation.at["library"])
        press(driver, "Sign out")
        notice = "You are signed out here and at every other service."
        assert arrive(driver, "[role=status]") == notice
        for service in SERVICES:
            driver.get(federation.at[service])
            assert arrive(driver, "#who") == "You are not signed in here."
        driver.get(federation.at["idp"])
        assert arrive(driver, "h1") == "Sign in"
        assert complaints(driver) == []  # the pages obey their own content policy
        assert Visitor(federation, cookies).signed_in_at == []  # copies of the cookies are refused


# --- signing on ---------------------------------------------------------------------------------


def test_keys_are_for_their_owner_only_and_stay(federation: Running) -> None:
    for path in [*federation.var.glob("keys/*.key"), *federation.var.glob("*/kek")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(federation.var.stat().st_mode) == 0o700


def test_assertion_counts_once_also_for_concurrent_tries_and_an_older_cookie(
    visitor: Visitor,
) -> None:
    answer = visitor.until_identified("library")
    before = [visitor.copy() for _ in range(4)]  # their sessions wait for the answer
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda each: each.step(answer).status_code, before))
    assert sorted(statuses) == [303, 400, 400, 400]
    assert sorted("library" in each.signed_in_at for each in before) == [False, False, False, True]
    assert visitor.step(answer).status_code == 400
    stranger = Visitor(visitor.running)
    assert "this browser has not asked for it" in stranger.step(answer).text


def test_altered_assertion_is_refused(visitor: Visitor) -> None:
    answer = visitor.until_identified("library")
    fields = message_fields(answer)
    xml = base64.b64decode(fields["SAMLResponse"]).decode()
    for altered in (
        xml.replace(">Ada<", ">Eve<"),
        re.sub(r"<(ns\d:Signature)\b.*?</\1>", "", xml, flags=re.DOTALL),
        xml.replace("https://library.example.org/saml", "https://wiki.example.org/saml"),
    ):
        assert altered != xml
        forged = fields | {"SAMLResponse": base64.b64encode(altered.encode()).decode()}
        assert visitor.post(where_to(answer), forged).status_code == 400
    assert "Welcome, " in visitor.follow(answer).text


def test_request_counts_once_and_only_as_it_was_signed(visitor: Visitor) -> None:
    address = where_to(visitor.press("library", "/sign-in"))
    base, _, query = address.partition("?")
    fields = dict(parse_qsl(query))
    for altered in (
        {name: text for name, text in fields.items() if name not in ("Signature", "SigAlg")},
        fields | {"RelayState": "elsewhere"},
        fields | {"SigAlg": "http://www.w3.org/2000/09/xmldsig#rsa-sha1"},
    ):
        assert visitor.get(f"{base}?{urlencode(altered)}").status_code == 400
    assert visitor.get(f"{address}&SAMLRequest=x").status_code == 400
    assert visitor.get(address).status_code == 303
    again = visitor.get(address)
    assert (again.status_code, "used before" in again.text) == (400, True)


def test_service_may_force_or_forbid_asking_but_not_choose_address_or_name_id(
    federation: Running, visitor: Visitor
) -> None:
    visitor.sign_in("library")
    assert where_to(visitor.get(authn_request_address(federation))).startswith(
        federation.at["library"]
    )
    forced = visitor.follow(visitor.get(authn_request_address(federation, force_authn="true")))
    assert "Library wants to know who you are." in forced.text
    stranger = Visitor(federation)
    quiet = stranger.get(authn_request_address(federation, is_passive="true"))
    response = base64.b64decode(message_fields(quiet)["SAMLResponse"])
    assert b"urn:oasis:names:tc:SAML:2.0:status:NoPassive" in response
    for unwanted in (
        {"nameid_format": PERSISTENT},
        {"binding": "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Artifact"},
        {"assertion_consumer_service_url": federation.at["wiki"] + "/acs"},
        {"assertion_consumer_service_url": federation.at["library"] + "/elsewhere"},
    ):
        assert visitor.get(authn_request_address(federation, **unwanted)).status_code == 400


def authn_request_address(federation: Running, **wishes: str) -> str:
    """Where a browser goes with an AuthnRequest of the library."""
    client, address = federation.client("library"), f"{federation.at['idp']}/sso"
    wishes = {"binding": BINDING_HTTP_POST} | wishes
    _, message = client.create_authn_request(address, sign=False, **wishes)
    info = client.apply_binding(BINDING_HTTP_REDIRECT, str(message), address, sign=True)
    return str(dict(info["headers"])["Location"])


def test_request_that_waits_for_a_sign_in_is_answered_once(visitor: Visitor) -> None:
    address = f"{visitor.running.at['idp']}/sign-in"
    page = visitor.follow(visitor.press("wiki", "/sign-in"))
    form = {"name": "Ada", "request": hidden(page, "request")}
    other = Visitor(visitor.running)
    others_form = form | {"csrf": hidden(other.visit("idp"), "csrf")}
    assert visitor.post(address, form | {"csrf": hidden(page, "csrf")}).status_code == 200
    refused = other.post(address, others_form)
    assert (refused.status_code, "answered already" in refused.text) == (400, True)
    assert other.signed_in_at == []


def test_artifact_is_resolved_once_and_only_for_its_service(
    federation: Running, visitor: Visitor
) -> None:
    answer = visitor.until_identified("exams")
    address = where_to(answer)
    before, artifact = visitor.copy(), dict(parse_qsl(address.partition("?")[2]))["SAMLart"]
    assert "<ns0:Response" not in resolve(federation, "library", artifact)
    assert "Welcome, " in visitor.follow(answer).text
    again = before.get(address)
    assert (again.status_code, "used before" in again.text) == (400, True)
    assert "exams" not in before.signed_in_at
    assert "<ns0:Response" not in resolve(federation, "exams", artifact)


def resolve(federation: Running, service: str, artifact: str) -> str:
    """The identity provider's answer to a service that resolves an artifact."""
    address = f"{federation.at['idp']}/artifacts"
    xml = draft_artifact_resolve(federation.client(service), artifact, address, new_id())
    answer = post_soap(address, wrap_in_envelope(xml))
    assert (answer.status_code, "ArtifactResponse" in answer.text) == (200, True)
    return answer.text


# --- signing out --------------------------------------------------------------------------------


def test_sign_out_by_soap_reaches_all_services_without_any_cookie(visitor: Visitor) -> None:
    visitor.sign_in(*SERVICES)
    copy = visitor.copy()
    assert copy.signed_in_at == ["idp", *SERVICES]
    # Only the service's cookie: its server does the rest.
    at_exams = Visitor(visitor.running, {"exams": visitor.cookies["exams"]})
    page = at_exams.follow(at_exams.press("exams", "/sign-out-by-soap")).text
    assert "signed out here and at every other service" in page
    assert visitor.signed_in_at == []
    assert copy.signed_in_at == []


def test_service_that_does_not_answer_makes_the_logout_a_partial_one(
    federation: Running, visitor: Visitor
) -> None:
    visitor.sign_in("library", "wiki", "exams")
    with federation.silent("wiki"):
        page = visitor.follow(visitor.press("library", "/sign-out-by-soap")).text
    assert "not every service has confirmed" in page
    assert visitor.signed_in_at == ["wiki"]


def test_browser_that_is_stuck_at_a_service_continues_without_it(visitor: Visitor) -> None:
    visitor.sign_in("library", "wiki", "exams")
    answer = visitor.press("idp", "/sign-out")
    stuck_at = where_to(answer)  # the browser never comes back from there
    assert stuck_at.startswith(visitor.running.at["library"])
    assert "Library was asked to sign you" in visitor.visit("idp").text
    page = visitor.follow(visitor.press("idp", "/sign-out/skip"))
    assert "Not confirmed by: Library." in page.text
    assert visitor.signed_in_at == ["library"]
    assert "Sign in" in visitor.visit("idp").text


def test_sign_in_during_a_logout_still_ends_all_services(visitor: Visitor) -> None:
    visitor.sign_in("library", "wiki")
    assert where_to(visitor.press("idp", "/sign-out"))
    assert visitor.signed_in_at == ["library", "wiki"]
    visitor.sign_in("exams")
    assert visitor.signed_in_at == ["idp", "exams"]


def test_logout_by_redirect_counts_once_and_only_as_it_was_signed(visitor: Visitor) -> None:
    visitor.sign_in("library", "wiki")
    address = where_to(visitor.press("library", "/sign-out"))
    base, _, query = address.partition("?")
    fields = dict(parse_qsl(query))
    unsigned = {"SAMLRequest": fields["SAMLRequest"]}
    assert visitor.get(f"{base}?{urlencode(unsigned)}").status_code == 400
    assert visitor.get(f"{base}?{urlencode(fields | {'RelayState': 'x'})}").status_code == 400
    assert visitor.signed_in_at == ["idp", "wiki"]
    to_wiki = visitor.get(address)
    assert where_to(to_wiki).startswith(visitor.running.at["wiki"])
    assert visitor.get(address).status_code == 400
    from_wiki = visitor.step(to_wiki)
    answer, _, query = where_to(from_wiki).partition("?")
    unsigned = {
        name: text for name, text in parse_qsl(query) if name not in ("Signature", "SigAlg")
    }
    assert visitor.get(f"{answer}?{urlencode(unsigned)}").status_code == 400
    assert "at every other service" in visitor.follow(from_wiki).text
    assert visitor.get(where_to(from_wiki)).status_code == 400
    assert visitor.signed_in_at == []


def test_forged_logout_by_soap_ends_nothing(federation: Running, visitor: Visitor) -> None:
    visitor.sign_in("library", "wiki")
    name_id = name_id_at(visitor, "library")
    address, other = f"{federation.at['idp']}/slo/soap", f"{federation.at['wiki']}/slo/soap"
    library, wiki = federation.client("library"), federation.client("wiki")
    signed = draft_logout_request(library, address, name_id, None, new_id(), sign=True)
    for forged in (
        draft_logout_request(library, address, name_id, None, new_id(), sign=False),
        draft_logout_request(library, other, name_id, None, new_id(), sign=True),
        signed.replace(str(name_id.value), str(name_id_at(visitor, "wiki").value)),
        signed.replace("library.example.org", "wiki.example.org"),
        signed.replace("library.example.org", "nowhere.example.org"),
        re.sub(r'IssueInstant="\d{4}', 'IssueInstant="2019', signed),
        "<nonsense/>",
    ):
        answer = post_soap(address, wrap_in_envelope(forged))
        assert (answer.status_code, "LogoutResponse" in answer.text) == (400, False)
    # The signature is valid, but a NameID of one service means nothing from another.
    of_another = draft_logout_request(wiki, address, name_id, None, new_id(), sign=True)
    assert post_soap(address, wrap_in_envelope(of_another)).status_code == 200
    assert visitor.signed_in_at == ["idp", "library", "wiki"]

    assert post_soap(address, wrap_in_envelope(signed)).status_code == 200
    assert "wiki" not in visitor.signed_in_at
    again = post_soap(address, wrap_in_envelope(signed))
    assert (again.status_code, "used before" in again.text) == (400, True)


def name_id_at(visitor: Visitor, service: str) -> NameID:
    found = re.search(r'<code id="name-id">([^<]+)<', visitor.visit(service).text)
    assert found is not None
    return NameID(found[1], TRANSIENT)


def test_form_of_another_site_ends_no_session(visitor: Visitor) -> None:
    visitor.sign_in("library")
    for name in ("idp", "library"):
        forged = visitor.post(f"{visitor.running.at[name]}/sign-out", {"csrf": "0" * 32})
        assert forged.status_code == 403
    assert visitor.signed_in_at == ["idp", "library"]


# --- with the logins in the cookie --------------------------------------------------------------


def test_services_in_the_cookie_are_notified_when_it_comes_next(tmp_path: Path) -> None:
    program("xmlsec1")
    with running(tmp_path, "--logins", "cookie") as federation:
        visitor = Visitor(federation)
        visitor.sign_in("library", "wiki")
        page = visitor.visit("idp").text
        assert 'data-part="services" data-place="core"' in page
        copy = visitor.copy()
        page = visitor.follow(visitor.press("library", "/sign-out-by-soap")).text
        assert "not every service has confirmed" in page
        assert "Welcome, " in visitor.visit("wiki").text  # the idp could not know
        assert "Sign in" in copy.visit("idp").text
        assert copy.signed_in_at == []
