"""What a check says, and the one way in which it is said to a user: by the package's logger."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass

logger = logging.getLogger(__name__)

WARNING, NOTE = 'warning', 'note'


@dataclass(frozen=True)
class Finding:
    """Something about a scan that its reconstruction would hide.

    check  the stable name of the check     saw   what was measured, with numbers
    level  `WARNING`; or `NOTE` where an    why   what it does to the result
           honest scan can look like this   cure  what to do
    """

    check: str
    level: str
    saw: str
    why: str
    cure: str

    def __str__(self) -> str:
        """The finding as one line."""
        return f'{self.check}: {self.saw}. {self.why}. {self.cure}.'

    def as_dict(self) -> dict[str, str]:
        """Return the finding for JSON."""
        return asdict(self)


def tell(findings: Iterable[Finding], name: str = '') -> None:
    """Log each finding, of the scan `name`, at its level: notes are information."""
    for finding in findings:
        level = logging.WARNING if finding.level == WARNING else logging.INFO
        logger.log(level, '%s%s', f'{name}: ' if name else '', finding)
