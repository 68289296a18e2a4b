"""Names for devices, from what browsers say of themselves."""

from __future__ import annotations

import re

from sealedstate import Session

# In this order, because most browsers also name others.
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrome": "Chrome",
    "Safari": "Safari",
    "curl": "curl",
}
SYSTEMS = {
    "Android": "Android",
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "Linux": "Linux",
}


def describe_browser(agent: str) -> str:
    """A name for a device, such as "Firefox on Linux". `agent`: the header User-Agent."""
    browser = next((name for mark, name in BROWSERS.items() if f"{mark}/" in agent), None)
    system = next((name for mark, name in SYSTEMS.items() if mark in agent), None)
    if browser is None:
        browser = re.sub(r"[^\w. -]", "", agent.partition("/")[0])[:30] or "A browser"
    return browser if system is None else f"{browser} on {system}"


def name_device(session: Session) -> str:
    """What the list of devices says of a session: the part that a sign-in has assigned."""
    return str(session.get("device", ""))
