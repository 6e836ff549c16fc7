"""Makes untrusted text (file names, errors of plug-ins, results of strangers) safe to show and store."""

NAME = "^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"  # a word that may name a file or folder: of a suite, a defence, a protocol
LONGEST_NAME = 80


def plain(text: object) -> str:
    """`text` on one line; characters that a terminal would act on become spaces.

    A byte of a file name that is not text (a lone surrogate in Python) is shown as \\xNN.
    """
    return "".join(char if char.isprintable() else _shown(char) for char in str(text))


def _shown(char: str) -> str:
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else " "


def told(error: BaseException, most: int = 300) -> str:
    """An error's message, on one line of at most `most` characters, even if its class raises when asked for it."""
    try:
        text = str(error)
    except BaseException as other:  # a plug-in's class may raise anything here too
        if isinstance(other, KeyboardInterrupt):
            raise
        text = "its message cannot be had"
    return " ".join(plain(text).split())[:most]


def named(error: BaseException, most: int = 300) -> str:
    """`ValueError: what it says`, as `told`."""
    said = told(error, most)
    return plain(type(error).__name__) + (f": {said}" if said else "")
