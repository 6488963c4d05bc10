"""The reference page of reasons, generated from the table in `api.reasons`."""

from pathlib import Path

from internvl_operator.api.reasons import MEANINGS

PAGE = Path("docs/reference/reasons.md")
"""Where the repository keeps the generated page."""

_HEAD = """\
<!-- Generated from operator/internvl_operator/api/reasons.py by `internvl crd --write`. Do not edit. -->
# Reasons

Every reason that a condition, an Event or a failure of an InternVLTraining can carry.

| Reason | Condition | What happened | What to do |
| --- | --- | --- | --- |
"""


def to_markdown() -> str:
    """The page."""
    rows = [
        f"| `{reason}` | {meaning.condition} | {meaning.happened} | {meaning.remedy} |"
        for reason, meaning in MEANINGS.items()
    ]
    return _HEAD + "\n".join(rows) + "\n"
