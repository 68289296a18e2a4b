"""Hypothesis strategies: values that a session carries, and records."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, timedelta, timezone
from decimal import Decimal

from hypothesis import strategies as st
from markupsafe import Markup

from sealedstate._wire import cbor
from sealedstate._wire.record import NO_TERMS, OverflowSet, Record, Terms

SECONDS = st.integers(-86399, 86399).map(lambda seconds: timedelta(seconds=seconds))
MICROSECONDS = st.integers(-86399_999999, 86399_999999).map(
    lambda micros: timedelta(microseconds=micros)
)
ZONES = st.none() | st.just(UTC) | (SECONDS | MICROSECONDS).map(timezone)
MOMENTS = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(),
    ZONES,
    st.sampled_from([0, 0, 0, 1]),
)
INTEGERS = (
    st.integers(-300, 300)
    | st.integers(-(1 << 66), 1 << 66)
    | st.integers(1 - (1 << 4096), (1 << 4096) - 1)
)
DECIMALS = st.decimals(allow_nan=False) | st.sampled_from(
    [Decimal(text) for text in ("-0", "1E+30", "1E-30", "0E+3", "NaN", "NaN7", "Infinity", "1.50")]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    INTEGERS,
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    MOMENTS,
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    DECIMALS,
    st.text(max_size=20).map(Markup),
)
HASHABLE = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
TEXT_KEYS = st.text(max_size=10) | st.binary(max_size=10)


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(TEXT_KEYS, inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
    )


VALUES: st.SearchStrategy[object] = st.recursive(LEAVES, containers, max_leaves=20)
NAMES = st.text(max_size=20)
VERSIONS = st.dictionaries(NAMES, st.integers(1, (1 << 63) - 1), max_size=3)
OVERFLOWS = st.none() | st.builds(
    OverflowSet,
    st.binary(min_size=8, max_size=8),
    st.integers(1, 7),
    st.binary(min_size=16, max_size=16),
    st.lists(NAMES, max_size=4, unique=True).map(tuple),
)
PARTS = st.dictionaries(NAMES, VALUES.map(cbor.encode), max_size=4)
TERMS = st.builds(
    lambda *given: Terms(*given) if Terms(*given) != NO_TERMS else NO_TERMS,
    st.none() | st.booleans(),
    st.none() | st.integers(1, (1 << 32) - 1),
    st.booleans(),
)
FIELDS = st.dictionaries(
    st.integers(128, 254).filter(lambda number: number != 253), st.binary(max_size=40), max_size=4
)


def with_one_place(record: Record) -> Record:
    """The record, with each name in one list only."""
    if record.overflow is not None:
        names = tuple(name for name in record.overflow.names if name not in record.parts)
        record = replace(record, overflow=replace(record.overflow, names=names))
    elsewhere = {*record.parts, *(record.overflow.names if record.overflow else ())}
    spilled = {name: at for name, at in record.spilled.items() if name not in elsewhere}
    orphaned = {name: at for name, at in record.orphaned_rows.items() if name not in spilled}
    return replace(record, spilled=spilled, orphaned_rows=orphaned)


RECORDS = st.builds(
    lambda id, subject, began, lifetime, *rest: with_one_place(
        Record(id, subject, began, began + lifetime, *rest)
    ),
    st.binary(min_size=16, max_size=16),
    st.none() | st.text(max_size=40),
    st.integers(0, (1 << 40) - 1),
    st.integers(0, (1 << 40) - 1) | st.integers(0, 400 * 24).map(lambda hours: hours * 3600),
    st.integers(0, (1 << 40) - 1),
    PARTS,
    OVERFLOWS,
    VERSIONS,
    VERSIONS,
    TERMS,
    FIELDS,
)
SEALED_AT = st.integers(0, (1 << 40) - 1)
