"""The shop as an application of a Django project."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The shop."""

    name = "examples.django"
    label = "shop"
    default_auto_field = "django.db.models.BigAutoField"
