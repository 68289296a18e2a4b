"""The tables of ``storage="django:ALIAS"``, in that database only."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import migrations

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
    dependencies: ClassVar[list[tuple[str, str]]] = []
    operations: ClassVar[list[Any]] = [
        migrations.RunPython(create_tables, migrations.RunPython.noop, elidable=False)
    ]
