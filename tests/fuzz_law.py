"""How a broken rule is told."""


class ViolationError(AssertionError):
    """Something happened that must not; `rule` names which law it breaks."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def must(rule: str, holds: object, text: str) -> None:
    """Raise unless it holds."""
    if not holds:
        raise ViolationError(rule, text)
