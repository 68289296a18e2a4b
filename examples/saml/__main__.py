"""Starts an identity provider and three services, each a process, and prints the link to open.

python examples/saml [--port N] [--var DIR] [--logins store|cookie]
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.saml.certificates import make_key
from examples.saml.entities import write_metadata
from examples.saml.federation import HOST, MEMBERS, Federation, federation_at
from sealedstate import ConfigurationError

USUAL_PORT = 8100
PATIENCE = 15  # seconds for a member to stop
BACKLOG = 64


def main() -> int:
    """Serve until Ctrl-C, or until the identity provider ends."""
    options = _parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it like Ctrl-C
    try:
        with contextlib.ExitStack() as stack:
            var = options.var or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            listeners = _open_listeners(stack, options.port)
            federation = federation_at([listener.getsockname()[1] for listener in listeners])
            _write_keys_and_metadata(var, federation)
            members = _run_members(var, federation, listeners, options.logins)
            return _serve(stack.enter_context(members), federation)
    except KeyboardInterrupt:
        print("\nStopped.")
        return 0
    except (ConfigurationError, OSError) as error:
        print(f"The example can't start: {error}", file=sys.stderr)
        return 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python examples/saml", description="A SAML 2 identity provider and three services."
    )
    parser.add_argument(
        "--port",
        type=int,
        help=f"the first of {MEMBERS} in a row; 0 for any free ones; by default {USUAL_PORT}, or"
        " free ones when it is taken",
    )
    parser.add_argument(
        "--var",
        type=Path,
        metavar="DIR",
        help="where keys, metadata and stores are kept; by default a temporary directory",
    )
    parser.add_argument(
        "--logins",
        choices=("store", "cookie"),
        default="store",
        help="where the identity provider keeps service logins (see README.md)",
    )
    return parser.parse_args()


def _write_keys_and_metadata(var: Path, federation: Federation) -> None:
    """Keys, unless they exist, and metadata for the ports of this start."""
    var.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("keys", "metadata"):
        (var / name).mkdir(mode=0o700, exist_ok=True)
    for member in federation.members:
        make_key(var, member.name)
    write_metadata(var, federation)


def _open_listeners(stack: contextlib.ExitStack, port: int | None) -> list[socket.socket]:
    """A socket for each member, which listens already, so that an early request waits."""
    first = USUAL_PORT if port is None else port
    try:
        return [_listen(stack, first and first + number) for number in range(MEMBERS)]
    except OSError as error:
        if port is not None or error.errno != errno.EADDRINUSE:
            raise
        return [_listen(stack, 0) for _ in range(MEMBERS)]


def _listen(stack: contextlib.ExitStack, port: int) -> socket.socket:
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(BACKLOG)
    return listener


@contextlib.contextmanager
def _run_members(
    var: Path, federation: Federation, listeners: Sequence[socket.socket], logins: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    ports = [str(listener.getsockname()[1]) for listener in listeners]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for member, listener in zip(federation.members, listeners, strict=True):
            command = [
                *(sys.executable, str(Path(__file__).with_name("member.py")), member.name),
                *("--var", str(var), "--socket", str(listener.fileno()), "--ports", *ports),
                *("--logins", logins),
            ]
            # In a separate session: Ctrl-C reaches only this process, which ends the members.
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
            processes.append(process)
            listener.close()  # a connection to a member that has ended is refused
        yield processes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()


def _serve(processes: Sequence[subprocess.Popen[bytes]], federation: Federation) -> int:
    for member, process in zip(federation.members, processes, strict=True):
        print(f"{member.title:18} {member.at('/')}  (process {process.pid})")
    print("Open the first; Ctrl-C stops all.", flush=True)
    return processes[0].wait()


if __name__ == "__main__":
    sys.exit(main())
