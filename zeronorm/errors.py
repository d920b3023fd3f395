"""The error of input that cannot be used, and whose fault another is.

Apart from `checks`, so that reading records needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BY_MODEL = "raised by the model"


class ArgumentError(ValueError):
    """Input from outside that cannot be used: an argument, a file, a model, a data set.

    The message is one line: what was expected, what came.  The command line prints it and exits with status 2.
    """


@contextmanager
def blaming_model() -> Iterator[None]:
    """Within, the model is called: what it raises stays what it is, with a note that it is the model's."""
    try:
        yield
    except ArgumentError:
        raise
    except Exception as error:
        error.add_note(BY_MODEL)
        raise
