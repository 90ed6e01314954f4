"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A clear message for the user: which file, row and field, what was expected, how to fix it.

    Stage commands print it as one line and exit with code 2, without a traceback.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error of another package says, or its name where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
