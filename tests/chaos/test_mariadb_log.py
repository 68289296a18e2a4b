"""What the recovery of MariaDB takes back, at will.

InnoDB writes the last block of its log from the buffer into which other connections put their next
records meanwhile. It sets a 0 behind the last record, where a recovery shall stop; a record that
comes before the bytes are taken overwrites this 0. Behind it, the buffer has records of two rounds
before. If one of them begins there, the recovery takes it for the next, and applies the old records
over newer rows, until InnoDB writes that block again.

Here this moment is held: the log is looked at while nothing is written, and the server is killed
when its recovery would go too far. The store's writes meet those of another application, which
draws numbers from a sequence: InnoDB logs each with 18 bytes and does not wait for the disk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

from sealedstate.errors import StorageError
from sealedstate.storage import Storage, open_storage
from tests.support.backends import patient
from tests.support.crashes import QUICK_RECOVERY
from tests.support.innodb_log import LogReader
from tests.support.server_process import ServerEnded
from tests.support.sql_servers import MariaDBServer, running

pytestmark = [pytest.mark.server, pytest.mark.slow]

PATIENCE = 300  # seconds; some two hundred attempts take two, of a busy machine ten
# Slow enough that the next write finds less than a block, and its records are written alone.
DRAW = """
    BEGIN NOT ATOMIC
        DECLARE drawn INT DEFAULT 0;
        WHILE drawn < 20 DO
            SELECT NEXTVAL(numbers) INTO @number;
            DO BENCHMARK(50, MD5('a little time'));
            SET drawn = drawn + 1;
        END WHILE;
    END"""


def value_of(version: int) -> bytes:
    return b"acknowledged %08d" % version


class OtherApplication:
    """Draws numbers whenever it is asked to, in a thread with a connection of its own."""

    def __init__(self, server: MariaDBServer, schema: str) -> None:
        self._connection = server.connect(schema)
        self._connection.cursor().execute(
            "CREATE SEQUENCE numbers MINVALUE 1 MAXVALUE 200 NOCACHE CYCLE ENGINE = InnoDB"
        )

    def draw(self) -> threading.Thread:
        thread = threading.Thread(target=self._connection.cursor().execute, args=[DRAW])
        thread.start()
        return thread


def write_until_the_log_has_no_end(
    server: MariaDBServer, store: Storage, other: OtherApplication
) -> int:
    """Return the version of the last acknowledged write. The log then repeats an older one."""
    log, reader = server.directory / "data" / "ib_logfile0", LogReader()
    version, deadline = 1, time.monotonic() + PATIENCE
    assert store.create("c", "k", value_of(version), None, version)
    while time.monotonic() < deadline:
        version += 1
        drawing = other.draw()
        assert store.update("c", "k", value_of(version), None, version)
        drawing.join()
        # A write logs the old value, for its undoing, and then the new one. Only with two of them
        # is the row itself certainly among what is applied again.
        if reader.repeated_tail(log.read_bytes()).count(value_of(0)[:-8]) > 1:
            return version
    raise AssertionError(
        f"{version} writes, and each time the log had an end: if this MariaDB is mended,"
        " _mariadb.py declares it less durable than it is"
    )


def test_recovery_takes_back_acknowledged_writes(disk: Path) -> None:
    # Without the last option, InnoDB writes its log once a second even where no one waits for it.
    options = [*QUICK_RECOVERY, "--innodb-flush-log-at-timeout=2700"]
    with running(MariaDBServer, *options, folder=disk) as server:
        schema = server.fresh_schema()
        store = open_storage(patient(server.url(schema)), time.time)
        store.prepare()
        if store.capabilities.durable:
            pytest.skip("this MariaDB is older than the fault")
        version = write_until_the_log_has_no_end(server, store, OtherApplication(server, schema))
        server.kill9()
        stored = None
        # Where some of the old records fit on no page, the server ends, now or a little later.
        with contextlib.suppress(ServerEnded, StorageError):
            server.start()
            stored = store.read("c", "k")
        assert stored is None or stored.version < version
        store.close()
