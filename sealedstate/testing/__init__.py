"""The conformance kit: a pytest suite that holds a storage service to the contract.

    from sealedstate.testing import StorageContract

    class TestMyStore(StorageContract):
        def open_store(self, clock):
            return MyStore("...", clock)

That is all. What the store owes is written down in `sealedstate.storage.contract`; the kit needs
pytest.

The store: `open_store` is called once per test, and again in other processes, where the suite is
found by its module and its name: let it stand at the top of its module. What `open_store` takes
from `self`, such as a path or a URL that a fixture has set, is carried there by pickle. After it,
the kit calls `prepare()`, and in the end `close()`. The tests use contexts of their own, so that
the store need not be empty and is not emptied.

Time: `clock()` is seconds since the epoch, and the only time that the store may go by. A test runs
it ahead of the real time, by up to 1000 years, lets it stand or steps it back. A server that
expires by its own clock must therefore do so later, never earlier, than the record says. Tests that
run at the same time, as under pytest-xdist, need a store each (a file under `tmp_path`, a database
per `worker_id`), or one would reap what the other still needs. No test measures speed, but 16
racers at once are some load: give a store with a deadline a generous one.

Capabilities: what a store can't do it declares, and no test is to be skipped or overridden.

- Without `enumerable`, `indexes` or `contexts`, the kit asks that what they stand for raises
  StorageError and does nothing.
- `shared` and `server_side`: the racers run in 4 processes, and else in threads of this one.
- `context_bytes`, `key_bytes`, `value_bytes` and `total_bytes`: what the kit writes keeps to them,
  but where it asks that more is refused.
- `resolution`: how late the kit accepts that a record has gone.

Two hooks bring more tests when the suite has them, both context managers without arguments:

- `outage()`: nobody reaches the store while the block runs, and everybody does so again after it.
  What was written before is still there.
- `lost_reply()`: the store does what it is asked next, but the reply to it is lost.

For tests of what uses a store, `ScriptedStorage` counts, fails, delays and loses as a test asks.

Knows pytest and the contract. Does not know any store, and nothing else here imports it.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("suite", "records", "names", "indexes", "races")),
    f"{__name__}.faults",
)

from .clock import FakeClock
from .faults import LostReplies, Outages
from .indexes import Indexes
from .names import Contexts, Names
from .races import Races
from .records import Expiry, Records
from .scripted import ScriptedStorage

__all__ = ["FakeClock", "ScriptedStorage", "StorageContract"]

_HOOKS = {"outage": Outages, "lost_reply": LostReplies}


class StorageContract(Records, Expiry, Names, Contexts, Indexes, Races):
    """What every storage service owes. Subclass it, and define `open_store(self, clock)`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for hook, tests in _HOOKS.items():
            for name, test in vars(tests).items() if hasattr(cls, hook) else ():
                if name.startswith("test_"):
                    setattr(cls, name, test)
