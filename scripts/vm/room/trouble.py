"""The exceptions of the machine room: what cannot be done here, and what would help."""

from __future__ import annotations


class Trouble(Exception):
    """Something outside the room is missing or failed; the message is for a person."""


class Unavailable(Trouble):
    """This machine cannot run the room: a tool, the network or a package is not to be had."""
