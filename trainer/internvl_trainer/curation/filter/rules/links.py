"""Addresses over and over, as advertisements and scraped pages have them."""

import re
from collections import Counter
from collections.abc import Sequence

from internvl_trainer.curation.filter.rules.rule import Measured, answers, excerpt, largest
from internvl_trainer.data.records import Turn

_ADDRESS = re.compile(r"https?://[^\s<>\"')\]]+|www\.[^\s<>\"')\]]+|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}")


def repeated_addresses(turns: Sequence[Turn]) -> Measured:
    """How often the most frequent URL or e-mail address comes in one answer."""
    counts = (Counter(match.rstrip(".,;:") for match in _ADDRESS.findall(text)) for text in answers(turns))
    return largest([Measured(count, excerpt(address)) for each in counts for address, count in each.items()])
