"""Errors that a user can mend: what is told of them, in one line."""

import errno

from stages.core import layout

# What is wrong with a disk or with this machine's limits, and what its user can do.
LACKS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your quota of disk space is used up; free some space",
    errno.EFBIG: "a file may not grow that large here (ulimit -f, or the file system's own limit)",
    errno.EROFS: "the disk is read-only; make it writable, or work in another folder",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n 4096)",
    errno.ENFILE: "too many files are open on this machine; end other programs",
    errno.EIO: "the disk failed (Input/output error); see the system's log",
}
# The same of a database, by the beginning of sqlite's name for the error.
DATABASE_LACKS = {
    "SQLITE_BUSY": "another program holds it; end that, or wait",
    "SQLITE_LOCKED": "another program holds it; end that, or wait",
    "SQLITE_FULL": LACKS[errno.ENOSPC],
    "SQLITE_READONLY": LACKS[errno.EROFS],
    "SQLITE_IOERR": "its disk failed or is full",
    "SQLITE_CANTOPEN": "its folder cannot be written, or too many files are open",
    "SQLITE_CORRUPT": "`make store` shows the damage, and how to mend it",
    "SQLITE_NOTADB": "`make store` shows the damage, and how to mend it",
}


class UserError(Exception):
    """A clear message for the user: which file, row and field, what was expected, how to fix it.

    Stage commands print it as one line and exit with code 2, without a traceback.
    """


def message_about(error: Exception) -> str | None:
    """One line about a file, a disk or a limit of this machine, which the user can mend, else None."""
    again = "and run again (finished work is kept)"
    name = getattr(error, "sqlite_errorname", "")
    for start, mend in DATABASE_LACKS.items():
        if name.startswith(start):
            return f"{layout.STORE}: {error}: {mend}, {again}"
    if not isinstance(error, OSError):
        return None
    if error.errno in LACKS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{LACKS[error.errno]}, {again}"
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else None


def reason(error: BaseException) -> str:
    """The first line of what an error of another package says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
