"""What a format is: which things it takes, the sources that are in them, and the sink that writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..exceptions import SourceError
from .content import begins, otherwise
from .sink import CollectionSink, Sink
from .source import Source


class Format:
    """A file format, or a library whose arrays are read. Each says for itself what it takes.

    A library that a format needs is imported in `open_sources` and not before: all that another format might take is
    shown to `takes` too.

    Attributes
    ----------
    files, arrays : str
        What messages call its files and its arrays; "" if it reads none.
    suffixes : tuple of str
        How the names of its files often end, with the dot. Only messages go by them: what a file is, its content says.
    sink : type of Sink, optional
        What writes it.
    collection_sink : type of CollectionSink, optional
        What writes several arrays in it.

    Examples
    --------
    >>> import numpy as np
    >>> from quantize.io.formats.memory import ArraySource
    >>> class Raw(Format):  # bytes of which each is a value
    ...     files = "raw (.raw)"
    ...
    ...     def takes(self, thing):
    ...         return suffix_of(thing) == ".raw"
    ...
    ...     def open_sources(self, thing):
    ...         return {"": ArraySource(np.fromfile(thing, np.uint8))}
    >>> Raw().takes("photo.raw"), Raw().takes("https://photos/photo.raw"), Raw().takes(np.zeros(3))
    (True, False, False)
    """

    files: str = ""
    arrays: str = ""
    suffixes: tuple[str, ...] = ()
    sink: type[Sink] | None = None
    collection_sink: type[CollectionSink] | None = None

    def takes(self, thing: Any) -> bool:
        """Whether to read a thing: the path of a file or folder that is there, a URL, both as str, or an object."""
        return False

    def open_sources(self, thing: Any) -> Mapping[str, Source]:
        """The arrays in a thing that it takes, by name; that of a thing which is one array is ""."""
        raise NotImplementedError

    def hint(self, path: str) -> str:
        """What else to say, after a colon or a semicolon, of a path that is not there or that no format takes."""
        return ""

    def refusal(self, path: str) -> str:
        """What to say after the name of a file or a folder that no format takes, if it is for this one to say."""
        if suffix_of(path) not in self.suffixes or os.path.isdir(path) or otherwise(path):
            return ""
        return f" is no {self.files.partition(' ')[0]} file: {begins(path)}"


def needed(module: str, extra: str, what: str) -> Any:
    """A module of an optional library, without which a thing cannot be read; `what` says which thing that is.

    Raises
    ------
    SourceError
        If it is not installed, with the extra that brings it.
    """
    try:
        return import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise SourceError(f'{what}; reading it needs {name}: pip install "quantize[{extra}]"') from None


def library(thing: Any) -> str:
    """The library that a thing's class is of.

    >>> import fractions
    >>> library(fractions.Fraction(1, 2))
    'fractions'
    """
    return type(thing).__module__.partition(".")[0]


def is_url(thing: Any) -> bool:
    return isinstance(thing, str) and "://" in thing


def suffix_of(thing: Any) -> str:
    """How the name of a file ends, with the dot, in lower case; "" for URLs and for what is no path.

    >>> suffix_of("data/x.NPY"), suffix_of("s3://bucket/x.npy"), suffix_of(3)
    ('.npy', '', '')
    """
    return Path(thing).suffix.lower() if isinstance(thing, str) and not is_url(thing) else ""
