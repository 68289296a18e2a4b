"""The conformance kit: a pytest suite that holds a storage service to the contract.

    from sealedstate.testing import StorageContract

    class TestMyStore(StorageContract):
        def open_store(self, clock):
            return MyStore("...", clock)

That is all. `open_store` is called once per test, and again in other processes: what it takes from
`self` (a path or a URL that a fixture has set) is carried there by pickle. The tests use contexts
of their own, so that the store need not be empty and is not emptied. They move their clock ahead;
tests that run at the same time, as under pytest-xdist, therefore need a store each (a file under
`tmp_path`, a database per `worker_id`), or one would reap what the other still needs.

16 racers at once are no test of speed: give a store with a deadline a generous one.

What a store can't do it declares in its `capabilities`; the kit then asks that it says so by
StorageError, and does nothing. No test is to be skipped.

Two hooks bring more tests when the suite has them, both context managers without arguments:

- `outage()`: nobody reaches the store while the block runs, and everybody does so again after it.
  What was written before is still there.
- `lost_reply()`: the store does what it is asked next, but the reply to it is lost.

Knows pytest and the contract. Does not know any store, and nothing else here imports it.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("suite", "records", "expiry", "names", "contexts", "indexes", "races")
    ),
    f"{__name__}.faults",
)

from .clock import KitClock  # noqa: E402
from .contexts import Contexts  # noqa: E402
from .expiry import Expiry  # noqa: E402
from .faults import LostReplies, Outages  # noqa: E402
from .indexes import Indexes  # noqa: E402
from .names import Names  # noqa: E402
from .races import Races  # noqa: E402
from .records import Records  # noqa: E402

__all__ = ["KitClock", "StorageContract"]

_HOOKS = {"outage": Outages, "lost_reply": LostReplies}


class StorageContract(Records, Expiry, Names, Contexts, Indexes, Races):
    """What every storage service owes. Subclass it, and define `open_store(self, clock)`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for hook, tests in _HOOKS.items():
            for name, test in vars(tests).items() if hasattr(cls, hook) else ():
                if name.startswith("test_"):
                    setattr(cls, name, test)
