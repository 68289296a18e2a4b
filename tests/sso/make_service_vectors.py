"""Writes tests/vectors/sso-services.json: rows that open for ever. Run once for each new vector.

python -m tests.sso.make_service_vectors
"""

from __future__ import annotations

import json
from pathlib import Path

from sealedstate._stored.table import Rows
from sealedstate.keyring import Keyring
from sealedstate.sso import ArtifactStore, ConsentStore, ReplayCache
from sealedstate.sso.deployment import SsoDeployment
from sealedstate.storage import MemoryStorage
from tests.support.jar import Clock
from tests.support.login_makers import NOW, OTHER_SP, SP, a_key
from tests.support.rings import randomness

VECTORS = Path(__file__).parents[1] / "vectors" / "sso-services.json"
REALM, ISSUER, ID, SUBJECT = "vectors", "https://idp.example.org/saml", "_5c1f", "jdoé"
RING = Keyring((a_key(1),), lookup=a_key(77).secret, long_term_keys=(a_key(2),))
MESSAGE = b"<samlp:Response/>"
CONTEXTS = ("sealedstate.sso.replay", "sealedstate.sso.artifact", "sealedstate.sso.consent")


def a_deployment(storage: MemoryStorage) -> SsoDeployment:
    return SsoDeployment(storage, Rows(REALM, randomness("service vectors")), lambda: RING, 60)


def main() -> None:
    storage = MemoryStorage(Clock(NOW))
    at = a_deployment(storage)
    ReplayCache(at).admit(ISSUER, ID, NOW + 300, NOW)
    handle = ArtifactStore(at).put(MESSAGE, SP, 60, NOW)
    consents = ConsentStore(at)
    consents.record(SUBJECT, "terms", 3, NOW)
    consents.record(SUBJECT, "attributes", 1, NOW, NOW + 9, OTHER_SP, ["mail", "eduPersonÉ"])
    rows = []
    for context in CONTEXTS:
        for key in storage.keys(context):
            stored = storage.read(context, key)
            assert stored is not None
            rows.append(
                {
                    "context": context,
                    "key": key,
                    "version": stored.version,
                    "expires_at": stored.expires_at,
                    "value": stored.value.hex(),
                }
            )
    VECTORS.write_text(json.dumps({"handle": handle.hex(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
