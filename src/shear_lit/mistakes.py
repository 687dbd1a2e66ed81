"""The one kind of error that a person is told in one line: what they typed, what is wrong with it, and the way out."""


class Mistake(ValueError):
    """Something that a user can put right; every room's errors are of this kind.

    The message has four parts: the key as the user typed it, the value found, the rule that it breaks, and the edit
    that repairs it. Where several commands reach the same check under keys of their own, the key travels apart from
    the rest, and the command line puts its own word in its place.

    Args:
        message: The message; with ``key``, what follows it: ``'path' has no config.json: ... . Name ...``.
        key: Key of the setting that holds the value, as ``fit`` calls it (``model.source``).
    """

    exit_code = 2
    """What the process ends with: 2 where the user has to change something, 1 where a run has failed."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key

    def __str__(self) -> str:
        message = str(self.args[0])
        return message if self.key is None else f"{self.key}={message}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors of worker processes arrive pickled; a subclass's own arguments are part of its state.
        return (_again, (type(self), self.args, self.__dict__))


def _again(kind: type[Mistake], args: tuple[object, ...], state: dict[str, object]) -> Mistake:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error
