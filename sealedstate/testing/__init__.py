"""The conformance kit: a pytest suite that tests a store against the storage contract.

    from sealedstate.testing import StorageContract

    class TestMyStore(StorageContract):
        def open_store(self, clock):
            return MyStore("...", clock)

`sealedstate.storage.contract` states the contract. The kit needs pytest.

**The store.** `open_store` is called once per test, and again in other processes. They find the
suite by its module and name, so define it at the top of its module. What `open_store` reads from
`self`, such as a path or a URL that a fixture has set, is pickled for them. The kit then calls
`prepare()`, if the store has it, and finally `close()`. The tests use new contexts, so the store
need not be empty, and is not emptied.

**Time.** `clock()` returns seconds since the epoch and is the only time that the store may use. A
test moves it ahead of the real time, by up to 1000 years, stops it or steps it back. A server that
expires records by its own clock must do so later, not earlier, than the record says. Tests that run
in parallel, as with pytest-xdist, need one store each (a file under `tmp_path`, a database per
`worker_id`), or they would reap each other's records. No test measures speed, but 16 concurrent
callers are some load: give a store with a deadline a generous one.

**Capabilities.** A store declares what it cannot do. No test needs to be skipped or overridden.

- Without `enumerable`, `indexes` or `contexts`, the kit expects that the operations which need them
  raise StorageError and do nothing.
- With `shared` and `server_side`, the concurrent callers run in 4 processes, else in one.
- The kit writes nothing larger than `context_bytes`, `key_bytes`, `value_bytes` and `total_bytes`,
  except where it expects a refusal.
- With `changes`, a follower of the contexts in `FOLLOWED` must find each acknowledged write.
- `resolution` is how late a record may be gone.
- The operations of `ManagedStorage` are tested if the store has all of them.

**Hooks.** Two methods, both context managers without arguments, add tests to a suite that has them:

- `outage()`: while the block runs, the store can't be reached. Afterwards it can, and has lost
  nothing.
- `lost_reply()`: the store carries out the next request, but the reply is lost.

For tests of applications there are `ManualClock`, which moves only when a test says so, and
`ScriptedStorage`, which counts, fails and delays calls as a test asks.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("_suite", "_records", "_names", "_races")),
)

from ._names import Indexes, Listings, Managed, Names, Touching
from ._races import Following, LostReplies, Outages, Races
from ._records import Expiry, Records
from ._suite import FakeClock
from .scripted import ManualClock, ScriptedStorage

__all__ = ["FakeClock", "ManualClock", "ScriptedStorage", "StorageContract"]

_HOOKS = {"outage": Outages, "lost_reply": LostReplies}


class StorageContract(
    Records, Expiry, Names, Listings, Managed, Touching, Indexes, Races, Following
):
    """What every store owes. Subclass it and define `open_store(self, clock)`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for hook, tests in _HOOKS.items():
            for name, test in vars(tests).items() if hasattr(cls, hook) else ():
                if name.startswith("test_"):
                    setattr(cls, name, test)
