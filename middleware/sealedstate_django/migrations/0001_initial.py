"""The tables of ``storage="django:ALIAS"``, in that database only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import migrations
from django.db.migrations.operations.base import Operation

from .._keeper import database_alias, keeper


def create_tables(apps: Any, schema_editor: Any) -> None:
    """Let the store make its tables, through its separate connection."""
    if schema_editor.connection.alias != database_alias():
        return
    prepare = getattr(keeper().deployment.store, "prepare", None)
    if prepare is not None:
        prepare()


class Migration(migrations.Migration):
    """Creates nothing for any other store."""

    atomic = False
    dependencies: ClassVar[Sequence[tuple[str, str]]] = []
    operations: ClassVar[Sequence[Operation]] = [
        migrations.RunPython(create_tables, migrations.RunPython.noop, elidable=False)
    ]
