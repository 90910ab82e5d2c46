"""The one exception of the machine room: what cannot be done here, and what would help."""

from __future__ import annotations


class Trouble(Exception):
    """Something outside the room is missing or failed; the message is for a person."""
