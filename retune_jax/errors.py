"""The one exception that means "the user has to change something"."""


class UserError(Exception):
    """A user's mistake: its message is one clear line that names the file, key or value that is wrong.

    The command lines print it to stderr without a traceback and exit with code 2.
    """
