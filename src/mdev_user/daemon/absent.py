"""What is said of something that is asked for and is not there."""

from collections.abc import Iterable


def no_type(type_id: str, known: Iterable[str]) -> str:
    """No parent has the type; ``known`` are those that parents have."""
    return f"no parent has the type {type_id}; there are: {', '.join(sorted(set(known))) or 'none'}"
