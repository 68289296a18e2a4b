"""The cookie budget of a session in numbers: what the bars of `session.html` show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sealedstate import PartInfo, Profile, SessionInfo


class Piece(NamedTuple):
    """One coloured piece of a bar. `kind` is its class in the stylesheet."""

    kind: str
    label: str
    size: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What a browser carries for a session, and what `profile` lets it carry. Sizes in bytes.

    `header_bytes`: the length of the request's Cookie header. `last_set_cookie`: the size of the
    session's last Set-Cookie lines; None if not remembered.
    """

    info: SessionInfo
    profile: Profile
    header_bytes: int
    last_set_cookie: int | None

    @property
    def ours(self) -> int:
        """All our cookies, with their names."""
        return sum(self.info.cookie_bytes.values())

    @property
    def pieces(self) -> list[Piece]:
        """What our cookies carry: overhead first, then the parts, the largest last."""
        parts = sorted(self.in_cookies.items(), key=_place_and_size)
        overhead = self.ours - sum(part.cookie_bytes for part in self.in_cookies.values())
        return [
            Piece("overhead", "overhead", max(0, overhead)),
            *(Piece(f"part-{name}", name, part.cookie_bytes) for name, part in parts),
        ]

    @property
    def in_cookies(self) -> dict[str, PartInfo]:
        """The parts that the cookies carry."""
        return {name: part for name, part in self.info.parts.items() if part.place != "spilled"}

    @property
    def in_store(self) -> dict[str, PartInfo]:
        """The parts that the store keeps."""
        return {name: part for name, part in self.info.parts.items() if part.place == "spilled"}

    @property
    def scale(self) -> int:
        """The length of the bar: more than the profile allows, straight after a change of it."""
        return max(self.profile.total_bytes, self.ours)

    @property
    def limits(self) -> list[int]:
        """Zero, where each further cookie begins, and what all our cookies may take."""
        return [*range(0, self.profile.total_bytes, self.profile.cookie_bytes), self.scale]

    @property
    def blocked(self) -> int:
        """What the cookies of others take from our room."""
        return self.scale - self.info.room_bytes

    @property
    def header(self) -> list[Piece]:
        """The Cookie header: our cookies, and those of others."""
        return [
            Piece("ours", "ours", self.ours),
            Piece("foreign", "other cookies", self.header_bytes - self.ours),
        ]

    @property
    def response(self) -> list[Piece]:
        """The last Set-Cookie lines."""
        return [Piece("ours", "Set-Cookie", self.last_set_cookie or 0)]


def _place_and_size(item: tuple[str, PartInfo]) -> tuple[bool, int]:
    return item[1].place == "overflow", item[1].cookie_bytes
