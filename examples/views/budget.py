"""How a session's place in the cookies looks: the budget, and the parts with where they live.

Knows facts and how they are drawn. Does not know requests, or what an application keeps in a part.
"""

from __future__ import annotations

from pathlib import Path

from sealedstate import Profile
from sealedstate._wire.record import Place, Policy

from .drawing import Mark, Piece, bar
from .facts import Facts, PartFacts, room_beside
from .markup import Html, Templates, ago, counted, definitions, fill, joined

TEMPLATES = Templates(Path(__file__).with_name("templates"))
PLACES = {
    Place.CORE: ("core", "first cookie"),
    Place.OVERFLOW: ("overflow", "further cookies"),
    Place.SPILLED: ("spilled", "store"),
}
MAY_LIVE = {
    Policy.COOKIE: "cookies only",
    Policy.SERVER: "store only",
    Policy.AUTO: "wherever it fits",
}
# What has a colour of its own in the stylesheet.
COLOURED = {"services", "cart", "note", "authn", "csrf", "profile"}


# --- the budget ---------------------------------------------------------------------------------


def budget(facts: Facts, profile: Profile, last: int | None) -> Html:
    """A card with what the browser carries; `last`: the bytes of the last Set-Cookie, if known."""
    return TEMPLATES.fill(
        "budget.html",
        ours=f"{facts.load.ours:,}",
        total=f"{profile.total_bytes:,}",
        profile=profile.name,
        cookies=_cookies_told(facts),
        main=_main_bar(facts, profile),
        store=_store(facts),
        legend=joined(_legend_item(piece) for piece in _pieces(facts)),
        header=f"{facts.load.header:,} of {profile.header_bytes:,}",
        header_bar=_header_bar(facts, profile),
        response="not remembered" if last is None else f"{last:,} of {profile.response_bytes:,}",
        response_bar=_response_bar(last or 0, profile),
    )


def _cookies_told(facts: Facts) -> str:
    cookies = facts.load.cookies
    sizes = ", ".join(f"{name} {size:,}" for name, size in cookies)
    return f"in {counted(len(cookies), 'cookie')}: {sizes}"


def _main_bar(facts: Facts, profile: Profile) -> Html:
    # Straight after a switch of profiles by address, ours may be more than the profile allows.
    scale = max(profile.total_bytes, facts.load.ours)
    left = room_beside(profile, facts.load.foreign, facts.load.ours)
    return bar(
        _pieces(facts),
        [Mark(at, f"{at:,}") for at in _limits(profile)],
        scale,
        "Bytes in our cookies",
        blocked=scale - left,
    )


def _limits(profile: Profile) -> list[int]:
    """Nothing, what each further cookie begins with, and what all of ours may take."""
    inner = range(0, profile.total_bytes, profile.cookie_bytes)
    return [*inner, profile.total_bytes]


def _pieces(facts: Facts) -> list[Piece]:
    """What our cookies carry: overhead first, then the parts, the largest last."""
    parts = sorted(facts.parts, key=lambda part: (part.place is Place.OVERFLOW, part.cookie_bytes))
    return [
        Piece("overhead", "overhead", facts.overhead),
        *(
            Piece(_colour(part.name), part.name, part.cookie_bytes)
            for part in parts
            if part.place is not Place.SPILLED
        ),
    ]


def _colour(name: str) -> str:
    return f"part-{name}" if name in COLOURED else "part-other"


def _legend_item(piece: Piece) -> Html:
    return fill(
        '<li><svg class="swatch" aria-hidden="true"><rect class="$kind"/></svg>$label'
        " <b>$size</b></li>",
        kind=piece.kind,
        label=piece.label,
        size=f"{piece.size:,}",
    )


def _store(facts: Facts) -> Html:
    stored = [part for part in facts.parts if part.place is Place.SPILLED]
    if not stored:
        return Html('<li class="hint">nothing of yours</li>')
    sizes = [None if part.value_bytes is None else f"{part.value_bytes:,}" for part in stored]
    return joined(
        fill(
            '<li><svg class="swatch" aria-hidden="true"><rect class="$kind"/></svg>$name'
            " <b>$size</b></li>",
            kind=_colour(part.name),
            name=part.name,
            size=size or "",
        )
        for part, size in zip(stored, sizes, strict=True)
    )


def _header_bar(facts: Facts, profile: Profile) -> Html:
    ours, foreign = facts.load.ours, facts.load.foreign
    pieces = [Piece("ours", "ours", ours), Piece("foreign", "other cookies", foreign)]
    # What came through once may be more than the profile allows: then the limit is drawn.
    scale = max(profile.header_bytes, ours + foreign)
    limit = [Mark(profile.header_bytes, "")] if scale > profile.header_bytes else []
    return bar(pieces, limit, scale, "Bytes in the Cookie header")


def _response_bar(last: int, profile: Profile) -> Html:
    scale = max(profile.response_bytes, last)
    return bar([Piece("ours", "Set-Cookie", last)], [], scale, "Bytes of the last Set-Cookie")


# --- the parts ----------------------------------------------------------------------------------


def parts(facts: Facts, base: str) -> Html:
    """The rows of a table of parts; a spilled one is read by a link to the page `base`."""
    ordered = sorted(facts.parts, key=lambda part: (part.place is Place.SPILLED, part.name))
    return joined(_part_row(base, part) for part in ordered)


def _part_row(base: str, part: PartFacts) -> Html:
    place, where = PLACES[part.place]
    return TEMPLATES.fill(
        "part_row.html",
        name=part.name,
        colour=_colour(part.name),
        place=place,
        where=where,
        policy=MAY_LIVE[part.policy],
        size=_read_link(base, part) if part.value_bytes is None else f"{part.value_bytes:,}",
        in_cookies=f"{part.cookie_bytes:,}" if part.cookie_bytes else "–",
    )


def _read_link(base: str, part: PartFacts) -> Html:
    return fill(
        '<a href="$base/?read=$name" title="one read from the store">read</a>',
        base=base,
        name=part.name,
    )


# --- who it is ----------------------------------------------------------------------------------


def session_facts(facts: Facts) -> Html:
    """Who it is and how long it lasts, for a <dl>."""
    times = facts.times
    return definitions(
        [
            ("Id", fill("<code>$id</code>", id=facts.session_id)),
            ("Subject", facts.subject),
            ("Age", ago(times.now - times.began)),
            ("Sealed", ago(times.now - times.sealed) + " ago"),
            ("Ends if idle", f"in {ago(times.idle_end - times.now)}"),
            ("Ends anyway", f"in {ago(times.absolute_end - times.now)}"),
            ("Generation", f"{facts.generation:,}"),
        ]
    )
