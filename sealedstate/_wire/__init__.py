"""FOLD: package."""
