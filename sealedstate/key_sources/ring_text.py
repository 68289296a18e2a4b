"""A ring's document as bytes and back, the same for every place that holds one.

Knows the document, its key-encryption keys and the last ring that was read. Does not know where the
bytes are kept.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import CapacityError, OperatorError
from ..keys import Keyring
from ..rotation import Ring, RingUnreadable, dump_ring, parse_ring
from ..rotation.document import MAX_BYTES, RingUnwrapped
from ..storage.contract import Clock


class RingText:
    """The documents of one place, which errors call `where`.

    `wrapping`: the key-encryption keys, of which the first wraps; None where secrets are in clear.
    `takes_clear`: whether one in clear is read all the same, to be wrapped by the next write.
    """

    def __init__(
        self,
        where: str,
        wrapping: Keyring | None,
        random: Callable[[int], bytes],
        clock: Clock,
        takes_clear: bool = False,
    ) -> None:
        self.where = where
        self._wrapping = wrapping
        self._random = random
        self._clock = clock
        self._takes_clear = takes_clear
        self._last: tuple[bytes, Ring] | None = None

    def read(self, content: bytes | None) -> Ring | None:
        """The ring of a document, the same object while the bytes are the same. None is none.

        Raises RingUnreadable.
        """
        if content is None:
            return None
        last = self._last  # once: other threads read, too
        if last is not None and last[0] == content:
            return last[1]
        try:
            ring = self._parsed(content)
        except RingUnreadable as error:
            raise RingUnreadable(f"{self.where}: {error}") from None
        self._last = (content, ring)
        return ring

    def _parsed(self, content: bytes) -> Ring:
        now = int(self._clock())
        try:
            return parse_ring(content, self._wrapping, now)
        except RingUnwrapped:
            if not self._takes_clear:
                raise
            return parse_ring(content, None, now)

    def written(self, ring: Ring) -> bytes:
        """A document that is known to read back as `ring`.

        Raises CapacityError where it is larger than a document may be, and OperatorError.
        """
        content = dump_ring(ring, self._wrapping, self._random).encode()
        if len(content) > MAX_BYTES:
            raise too_large(self.where, content, MAX_BYTES)
        # What nobody could read again would end every session: better not to rotate.
        if self.read(content) != ring:
            raise OperatorError(f"{self.where}: the new ring would not read back as it is")
        return content


def too_large(where: str, content: bytes, most: int) -> CapacityError:
    """What is to be done about a ring that does not fit."""
    return CapacityError(
        f"{where}: the ring of {len(content)} bytes does not fit into {most};"
        " with a longer rotate_every or a shorter keep it has fewer keys"
    )
