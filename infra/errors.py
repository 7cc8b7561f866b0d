"""The one error whose text is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right, in one sentence: what was expected, what came, what to do."""
