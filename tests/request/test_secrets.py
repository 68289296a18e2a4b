"""Nothing logged, raised, observed or shown in a repr has a secret, a subject or a cookie."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable

import pytest

from sealedstate import SealedStateError, Session
from sealedstate._cookies.codec import OpenedRecord
from sealedstate._cookies.header import Candidates
from sealedstate._stored.parts import CONTEXT as PARTS
from sealedstate.events import Event
from sealedstate.keyring import Keyring
from sealedstate.session import id_bytes
from sealedstate.testing import ScriptedStorage
from tests.request.test_load import tampered
from tests.support.jar import RING, Browser, Clock
from tests.support.shop import NEXT_KEY, at, node, record_of, setting, sign_in


def test_no_log_error_or_repr_shows_a_secret(
    clock: Clock, store: ScriptedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = os.urandom(6).hex()
    seen: list[str] = []
    events: list[Event] = []
    merge = {"vault": lambda *_: canary}
    shop = node(clock, store, profile="roomy", merge=merge, observers=[events.append])
    settings_repr = repr(shop.settings)
    browser = Browser(shop)

    def note(*things: object) -> None:
        seen.extend(f"{thing!r} {thing}" for thing in things)

    def failing(act: Callable[[], object]) -> None:
        with pytest.raises(SealedStateError) as caught:
            act()
        note(caught.value)
        seen.append("".join(traceback.format_exception(caught.value)))

    def tokens() -> list[str]:
        return [*browser.jar.ours().values()]

    secrets = [canary]
    values = {"vault": canary, "cart": [canary], "large": canary * 400, "note": {"x": canary}}
    sign_in(browser, canary, **values)
    secrets += tokens()
    # Everything that can happen to it: good, refused, torn, lost, down, too late.
    session = browser.session()
    assert dict(session) == values
    ids = [session.id, repr(id_bytes(session)), id_bytes(session).hex()]
    note(session, session.changes(), shop.info(session), session.load(), record_of(browser))
    note(shop, Candidates((tokens()[0],), {1: (tokens()[0],)}))
    note(OpenedRecord(record_of(browser), 1, RING.keys[0]))
    for text in tampered(tokens()[-1]):
        shop.session(f"__Host-Http-s={text}").get("cart")
    unknown = node(clock, store, Keyring((NEXT_KEY,)))
    at(unknown, browser).visit(setting(cart=canary))
    failing(lambda: at(unknown, browser).session().invalidate())
    core = f"__Host-Http-s={browser.jar.ours()['__Host-Http-s']}"
    assert shop.session(core).get("large") is None
    store.fail(context=PARTS)
    failing(lambda: browser.session()["vault"])
    store.recover().fail()
    failing(session.invalidate)
    assert browser.session().withheld
    store.recover().fail(*store.WRITES, context=PARTS)
    failing(lambda: browser.visit(setting(vault=canary * 2)))
    store.recover()
    tabs = [browser.session(), browser.session()]
    for tab in tabs:
        tab["vault"] = canary * 3
        browser.jar.receive(shop.save(tab))
    secrets += tokens()
    failing(lambda: session.__setitem__("cart", [canary, object()]))
    failing(lambda: session.__setitem__("x" * 200, canary))
    failing(lambda: setattr(session, "subject", canary + "\ud800"))
    none = Browser(node(clock, None))
    failing(lambda: sign_in(none, canary, cart=canary * 2000))
    session.mark_headers_sent()
    failing(lambda: session.update(cart=canary))
    (key, *_) = store.keys(PARTS)
    store.delete(PARTS, key)
    assert browser.session().get("vault") is None
    browser.visit(Session.regenerate)
    secrets += tokens()
    shop.revoke_subject(canary)
    assert browser.session().subject is None
    logged = [record.getMessage() for record in caplog.records]
    logged += [str(record.__dict__) for record in caplog.records]
    assert len(logged) > 50
    assert len(seen) > 15
    raw = [key.secret.hex() for key in RING.keys] + [repr(RING.keys[0].secret)]
    assert not [text for text in logged for known in ids if known in text]
    names = {event.name for event in events}
    assert names >= {"spilled", "saved", "opened", "recalled", "revoked", "refused"}
    assert not [known for known in ids if known in repr(events)]
    for text in [*logged, *seen, repr(events), settings_repr, repr(RING)]:
        for secret in [*secrets, *raw]:
            assert secret not in text
