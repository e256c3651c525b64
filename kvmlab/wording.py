"""Words that every part of kvmlab writes alike."""


def count(number: int, word: str) -> str:
    """
    >>> count(1, "core"), count(2, "die")
    ('1 core', '2 dies')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"
