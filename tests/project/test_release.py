"""What the owner gives is in one place, and a release waits for it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from types import ModuleType

from tests.support.documents import ROOT


def load_owner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("owner", ROOT / "release/owner.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_release_is_refused_while_a_value_of_the_owner_is_missing() -> None:
    owner = load_owner().read_owner()
    command = [sys.executable, str(ROOT / "release/owner.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = [name for name, value in owner.items() if not value]
    assert done.returncode == bool(missing)
    assert done.stderr.splitlines() == [
        f"release/owner.toml: {name} is missing" for name in missing
    ]


def test_values_of_the_owner_replace_what_is_marked_as_missing() -> None:
    module = load_owner()
    given = dict.fromkeys(module.read_owner(), "https://given.example")
    for path, text in module.documents(given).items():
        assert "not given yet" not in text, path
        assert "https://given.example" in text, path
        if path.name == "pyproject.toml":
            urls = tomllib.loads(text)["project"]["urls"]
            assert urls == dict.fromkeys(["Repository", "Documentation"], "https://given.example")
            assert module.with_urls(text, module.read_owner()) == path.read_text("utf-8")
