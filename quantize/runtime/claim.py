"""Which job a place belongs to, and whether this one may go on there."""

from __future__ import annotations

from typing import Any

CHANGED = "source changed"  # in the fingerprint of a run that cannot be gone on with


def difference(old: Any, new: Any, path: str = "") -> str:
    """Where two fingerprints differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [difference(old.get(key), new.get(key), key) for key in {**old, **new}]
        return ", ".join(part for part in parts if part)
    if old == new:
        return ""
    if path == CHANGED:
        return "its source changed while it was read"
    return "the values of the source" if path == "sample" else f"{path} was {old} and is {new}"
