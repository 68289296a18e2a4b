"""The tables of ``storage="django:ALIAS"``, in that database only."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import migrations
from django.db.migrations.operations.base import Operation

from sealedstate.deployment import open_store

from .._keeper import database_alias, read_config, read_settings


def create_tables(apps: Any, schema_editor: Any) -> None:
    """Let the store make its tables, through its separate connection."""
    if schema_editor.connection.alias != database_alias(read_config()):
        return
    store: Any = open_store(read_settings())  # without the keys, which a migration may not have
    with contextlib.closing(store):
        store.prepare()


class Migration(migrations.Migration):
    """Creates nothing for any other store."""

    atomic = False
    dependencies: ClassVar[Sequence[tuple[str, str]]] = []
    operations: ClassVar[Sequence[Operation]] = [
        migrations.RunPython(create_tables, migrations.RunPython.noop, elidable=False)
    ]
