"""The one exception that means: the user can fix this."""


class UserError(Exception):
    """A clear message for the user: which file, row and field, what was expected, how to fix it.

    Stage commands print it as one line and exit with code 2, without a traceback.
    """
