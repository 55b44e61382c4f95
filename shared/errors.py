"""Errors that a person can act on: a stable code, a subject, and a sentence with the remedy.

Every error that may reach a user, a log line or the status of an object is a `MeshlogError`. Its code never
changes meaning between releases; the sentence may be improved at any time. Programming errors stay ordinary
Python exceptions: they are bugs, and their traceback is wanted.
"""

from __future__ import annotations


class MeshlogError(Exception):
    """A failure with a stable `code`, the thing it is `about`, and a `sentence` with the remedy."""

    def __init__(self, code: str, sentence: str, *, about: str = "") -> None:
        super().__init__(f"{about}: {sentence}" if about else sentence)
        self.code = code
        self.sentence = sentence
        self.about = about


class BadInputError(MeshlogError):
    """What the user gave cannot be used as it is; commands end with exit code 2."""
