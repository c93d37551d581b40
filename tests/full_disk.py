"""A disk that is full, as far as a process can make one for itself."""

import resource
from contextlib import contextmanager


@contextmanager
def files_at_most(number_bytes):
    """The system refuses to write more into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
