"""The error of input that cannot be used.  Apart from `checks`, so that reading records needs no torch."""

from __future__ import annotations


class ArgumentError(ValueError):
    """Input from outside that cannot be used: an argument, a file, a model, a data set.

    The message is one line: what was expected, what came.  The command line prints it and exits with status 2.
    """
