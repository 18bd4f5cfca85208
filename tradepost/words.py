"""Small words of sentences."""


def counted(number: int, what: str) -> str:
    """`1 payment`, `2 payments`."""
    return f"{number} {what}{'s' * (number != 1)}"
