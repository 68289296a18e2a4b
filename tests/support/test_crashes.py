"""The judge of crash tests sees each kind of loss, and blames no store for what it may do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sealedstate.storage import MemoryStorage
from tests.support import crashes
from tests.support.backends import Service
from tests.support.crashes import Judge, Witness, record_of
from tests.support.sql_servers import MariaDBServer
from tests.support.workers import SideFile


class Story:
    """Notes of one writer, and a store that need not agree with them."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStorage(time.time)
        self.side_file = SideFile(folder / "notes")
        self.judge = Judge(self.store, {"1": self.side_file})

    def put(self, number: int, value: bytes | None = None) -> None:
        self.store.create("1", str(number), value or record_of(number), None, 1)

    def count(self, number: int) -> None:
        name = "last of 1"
        if not self.store.update("counters", name, b"", None, number):
            self.store.create("counters", name, b"", None, number)

    def note(self, *lines: str) -> None:
        for line in lines:
            kind, call, number, *answer = line.split(" ", 3)
            words = {"True": True, "False": False}
            self.side_file.note(kind, call, int(number), *[words.get(a, a) for a in answer])

    def losses(self) -> list[str]:
        self.judge.judge(["1"])
        return self.judge.losses


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


CREATED = ("begin create 1", "done create 1 True")
DELETED = (*CREATED, "begin delete 1", "done delete 1 True")
COUNTED = ("begin update 1", "done update 1 True")


def test_kept_promises_are_no_losses(story: Story) -> None:
    story.put(1)
    story.count(2)
    story.note(*CREATED, *COUNTED, "begin update 2", "done update 2 False", "begin count 2")
    story.note("done count 2 True", "begin create 3", "done create 3 True", "begin delete 3")
    story.note("done delete 3 True")
    assert story.losses() == []
    assert story.judge.acknowledged == 6
    story.judge.judge_everything()
    assert story.losses() == []


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize(
    "notes",
    [
        ["begin create 1"],
        ["begin create 1", "failed create 1 OutcomeUnknown: lost"],
        [*CREATED, "begin delete 1"],
        [*CREATED, "begin delete 1", "failed delete 1 OutcomeUnknown: lost"],
    ],
)
def test_unanswered_call_may_have_happened_or_not(
    story: Story, notes: list[str], is_there: bool
) -> None:
    if is_there:
        story.put(1)
    story.note(*notes)
    assert story.losses() == []


@pytest.mark.parametrize(
    ("notes", "is_there", "loss"),
    [
        (CREATED, False, "1 must be there"),
        (DELETED, True, "1 must be gone"),
        (["begin create 1", "failed create 1 StorageUnavailable: x"], True, "1 must be gone"),
        (
            [*CREATED, "begin delete 1", "failed delete 1 StorageUnavailable: x"],
            False,
            "1 must be there",
        ),
        (["begin create 1", "done create 1 False"], True, "create 1 answered"),
        ([*CREATED, "begin delete 1", "done delete 1 False"], False, "delete 1 answered"),
        ([*DELETED, *CREATED], True, "1 comes twice"),
        (COUNTED, False, "the counter was at 1"),
        (["begin count 1", "done count 1 False"], False, "neither there nor absent"),
    ],
)
def test_each_kind_of_loss_is_seen(
    story: Story, notes: list[str], is_there: bool, loss: str
) -> None:
    if is_there:
        story.put(1)
    story.note(*notes)
    assert loss in " ".join(story.losses())


def test_record_with_another_value_or_that_is_not_listed_is_a_loss(story: Story) -> None:
    story.put(1, b"torn")
    story.note(*CREATED)
    assert "1 must be there" in " ".join(story.losses())


def test_what_was_judged_before_is_judged_again(story: Story) -> None:
    story.put(1)
    story.note(*CREATED)
    assert story.losses() == []
    story.store.delete("1", "1")
    assert "1 must be there" in " ".join(story.losses())


LEFT = b"as the crash left it".ljust(1 << 15, b"\0")


class StoppedServer(MariaDBServer):
    """Files as a crash leaves them, and a recovery that changes them."""

    def __init__(self, directory: Path) -> None:
        self.port, self.directory = 3306, directory
        self.log_file = directory / "data" / "ib_logfile0"
        self.log_file.parent.mkdir(parents=True)

    def kill9(self) -> None:
        self.log_file.write_bytes(LEFT)

    def start(self) -> None:
        self.log_file.write_bytes(b"recovered")


def test_evidence_of_a_loss_is_kept_as_the_crash_left_it(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "EVIDENCE", tmp_path / "kept")
    witness = Witness(Service("mariadb://x", StoppedServer(tmp_path / "server")))
    witness.kill9()
    witness.start()
    story.note(*CREATED)
    kept = witness.keep(story.losses(), {"1": story.side_file})
    assert (kept / "ib_logfile0.before-recovery").read_bytes() == LEFT
    assert (kept / "losses").read_text().startswith("crash 1\n1: 1 must be there")
    assert (kept / "notes-1").read_bytes() == story.side_file.path.read_bytes()
    assert (kept / "server" / "data" / "ib_logfile0").exists()


def test_evidence_of_a_file_is_kept(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "EVIDENCE", tmp_path / "kept")
    for name in ("store.db", "store.db-journal"):
        (tmp_path / name).write_text(name)
    story.note(*CREATED)
    witness = Witness(Service("sqlite:x", file=tmp_path / "store.db"))
    kept = witness.keep(story.losses(), {"1": story.side_file})
    assert (kept / "store.db").read_text() == "store.db"
    assert (kept / "store.db-journal").read_text() == "store.db-journal"
