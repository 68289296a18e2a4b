"""A clock and a store that do what a test asks: `ManualClock`, `ScriptedStorage`.

    clock = ManualClock()
    keeper = Keeper(Settings(clock=clock, ...))
    clock.forward(7200)  # two hours later

`ScriptedStorage` counts calls, and fails, delays or loses replies:

    store = ScriptedStorage(clock)
    store.fail("update", context="sealedstate.part", after=2)  # the third update and all later ones
    store.lose_reply("create")                                 # the next create: done, not reported
    store.before("delete", act=another_node_writes)            # ahead of the next delete
    store.recover()                                            # from here on the store works
    assert store.count["read"] == 1

Each line of a script names operations of the store, or none for all of them, and may limit the
calls that it affects: `context` (only calls for this context), `after` (how many such calls pass
before), and `times` (how many it affects then; None for all until `recover`). Earlier lines come
first: if one fails a call, later lines do not see it.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypedDict, TypeVar, Unpack, cast

from ..errors import OutcomeUnknown, StorageUnavailable, VersionMismatch
from ..storage.contract import Clock, Storage
from ..storage.memory import MemoryStorage

__all__ = ["Call", "ManualClock", "ScriptedStorage"]

P = ParamSpec("P")
R = TypeVar("R")
Error = BaseException | type[BaseException]


class ManualClock:
    """Epoch seconds that stay as they are until a test moves them, as ``Settings(clock=...)``.

    `now`: the current time; may be set.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        """Move the time by this many seconds, back if they are negative."""
        self.now += seconds


class When(TypedDict, total=False):
    """Which calls a line of a script affects; see the module's docstring."""

    context: str | None
    after: int
    times: int | None


class Call(NamedTuple):
    """One call of an operation, with its arguments by name."""

    operation: str
    context: str | None
    arguments: dict[str, Any]


@dataclass
class _Line:
    """One line of a script. `act` gets the call, and what carries it out."""

    operations: tuple[str, ...]
    act: Callable[[Call, Callable[[], Any]], Any]
    context: str | None = None
    after: int = 0
    times: int | None = None

    def affects(self, call: Call) -> bool:
        if self.operations and call.operation not in self.operations:
            return False
        if self.times == 0 or self.context not in (None, call.context):
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def _operation(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The operation of this name and signature, carried out as the script says."""
    name, signature = method.__name__, inspect.signature(method)

    @wraps(method)
    def operation(self: Any, *given: P.args, **named: P.kwargs) -> Any:
        arguments = dict(signature.bind(self, *given, **named).arguments)
        del arguments["self"]
        call = Call(name, arguments.get("context"), arguments)
        self.calls.append(call)
        carry_out = getattr(self.storage, name)
        return self._follow(list(self._script), call, lambda: carry_out(*given, **named))

    return cast("Callable[Concatenate[Any, P], R]", operation)


class ScriptedStorage:
    """`storage`, by default a MemoryStorage at `clock`, under a script.

    `calls`: everything that it was asked, in order; clear the list to count from there.
    """

    WRITES = ("create", "update", "delete", "add_member", "remove_member")
    READS = ("read", "keys", "members", "changes")

    def __init__(self, clock: Clock, storage: Storage | None = None) -> None:
        self.storage = MemoryStorage(clock) if storage is None else storage
        self.capabilities = self.storage.capabilities
        self.calls: list[Call] = []
        self._script: list[_Line] = []
        self._late: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def count(self) -> Counter[str]:
        """How often each operation was called."""
        return Counter(call.operation for call in self.calls)

    # --- the script -----------------------------------------------------------------------------

    def fail(self, *operations: str, error: Error | None = None, **when: Unpack[When]) -> Self:
        """Raise `error` (default: StorageUnavailable) instead; every time, unless `when` says."""

        def act(call: Call, carry_out: Callable[[], Any]) -> Any:
            raise error or StorageUnavailable("the store is down")

        return self._add(operations, act, when)

    def answer(self, *operations: str, value: object, **when: Unpack[When]) -> Self:
        """Return `value` instead; every time, unless `when` says."""
        return self._add(operations, lambda call, carry_out: value, when)

    def lose_reply(
        self,
        *operations: str,
        error: Error | None = None,
        done: bool = True,
        **when: Unpack[When],
    ) -> Self:
        """Carry the next call out, unless `done` is False, and raise `error` all the same.

        By default OutcomeUnknown for a write, StorageUnavailable for a read.
        """

        def act(call: Call, carry_out: Callable[[], Any]) -> Any:
            if done:
                carry_out()
            raise error or _error_of(call)

        return self._add(operations, act, {"times": 1, **when})

    def delay(self, *operations: str, **when: Unpack[When]) -> Self:
        """Raise OutcomeUnknown for the next call, which the store carries out at `arrive()`."""

        def act(call: Call, carry_out: Callable[[], Any]) -> Any:
            self._late.append(carry_out)
            raise _error_of(call)

        return self._add(operations, act, {"times": 1, **when})

    def arrive(self) -> None:
        """Carry out what was delayed, in order; a call that is refused by now has no effect."""
        late, self._late = self._late, []
        for carry_out in late:
            with contextlib.suppress(VersionMismatch):
                carry_out()

    def before(self, *operations: str, act: Callable[[], object], **when: Unpack[When]) -> Self:
        """Call `act` ahead of the next call."""

        def run(call: Call, carry_out: Callable[[], Any]) -> Any:
            act()
            return carry_out()

        return self._add(operations, run, {"times": 1, **when})

    def after(self, *operations: str, act: Callable[[], object], **when: Unpack[When]) -> Self:
        """Call `act` when the next call is done, before its answer arrives."""

        def run(call: Call, carry_out: Callable[[], Any]) -> Any:
            answer = carry_out()
            act()
            return answer

        return self._add(operations, run, {"times": 1, **when})

    def recover(self) -> Self:
        """Forget the script. `calls` and what was delayed stay."""
        self._script.clear()
        return self

    def _add(
        self,
        operations: tuple[str, ...],
        act: Callable[[Call, Callable[[], Any]], Any],
        when: When,
    ) -> Self:
        unknown = [name for name in operations if not hasattr(MemoryStorage, name)]
        assert not unknown, f"no operations of a store: {unknown}"
        self._script.append(_Line(operations, act, **when))
        return self

    def _follow(self, script: list[_Line], call: Call, carry_out: Callable[[], Any]) -> Any:
        while script:
            line = script.pop(0)
            with self._lock:
                affected = line.affects(call)
            if affected:
                return line.act(call, lambda: self._follow(script, call, carry_out))
        return carry_out()

    # --- the operations -------------------------------------------------------------------------

    create = _operation(MemoryStorage.create)
    read = _operation(MemoryStorage.read)
    update = _operation(MemoryStorage.update)
    update_expiration = _operation(MemoryStorage.update_expiration)
    delete = _operation(MemoryStorage.delete)
    touch_context = _operation(MemoryStorage.touch_context)
    delete_context = _operation(MemoryStorage.delete_context)
    keys = _operation(MemoryStorage.keys)
    add_member = _operation(MemoryStorage.add_member)
    remove_member = _operation(MemoryStorage.remove_member)
    members = _operation(MemoryStorage.members)
    changes = _operation(MemoryStorage.changes)
    prepare = _operation(MemoryStorage.prepare)
    ping = _operation(MemoryStorage.ping)
    reap = _operation(MemoryStorage.reap)
    close = _operation(MemoryStorage.close)


def _error_of(call: Call) -> Exception:
    if call.operation in ScriptedStorage.READS:
        return StorageUnavailable("the reply was lost")
    return OutcomeUnknown("the reply was lost", call.arguments.get("version"))
