"""Every exception that the library raises on purpose."""

from __future__ import annotations

REMEDY = "Restore it from a copy, or quantize the source again with overwrite=True"


class QuantizeError(Exception):
    """Base of all errors of this library; bad arguments are plain `ValueError` and `TypeError`."""


class StoreError(QuantizeError):
    """A store is not what it should be: not ours, of a newer version, contradicting itself, or of another job."""


class UnfinishedStoreError(StoreError):
    """A store whose run has not come to its end cannot be read."""


class DamagedChunkError(StoreError):
    """A chunk of a sealed store is missing or holds other bytes than were written.

    `place` is its key, in a shard with its place there.
    """

    place = ""

    @classmethod
    def at(cls, where: str, place: str, why: ValueError) -> DamagedChunkError:
        error = cls(f"{where}/{place} is damaged: {why}. {REMEDY}")
        error.place = place
        return error


class WorkersError(QuantizeError):
    """A cluster cannot do a job: its workers cannot, for a message that says why, or it is not there any more."""


class SourceError(QuantizeError, ValueError):
    """A source cannot be read.

    Its file is cut, locked, of a format that is not known or may not be read; or what it needs beside itself is not
    there: another file that it refers to, a filter, a codec.
    """


class SourceChangedError(QuantizeError):
    """The source is not what it was in pass 1."""


class UndeclaredValuesError(QuantizeError, TypeError, ValueError):
    """A source gave an array of another shape or dtype than it declares."""


class RefusedValuesError(QuantizeError, ValueError):
    """The data hold NaN, missing or infinite values that the settings take no code for."""


class DeclarationError(QuantizeError, ValueError):
    """A source says something of its values that is not understood, and so cannot be heeded."""


class QuantizeWarning(UserWarning):
    """A result will be what was asked for, and most likely not what is wanted."""
