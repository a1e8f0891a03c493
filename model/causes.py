"""What went wrong in many cases, or nearly: their messages, by what these have in common."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_FOLDERS = re.compile(r"(?:[^\s:']*/)+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"(?<![A-Za-z\d])\d+(?:[.,]\d+)*(?![A-Za-z])")
_NAMES = re.compile(r": [A-Z][^\s,:]*(?:, [^\s,:]+)*(?: and … more)?$")


@dataclass
class Cause:
    """One kind of message, and the cases (positions in the manifest) that have it."""

    text: str
    cases: list[int] = field(default_factory=list)


def group_messages(messages: Iterable[tuple[str, Iterable[str]]]) -> list[Cause]:
    """Group the messages of cases (their id and texts) by cause, the most frequent first."""
    causes: dict[str, Cause] = {}
    for position, (case_id, texts) in enumerate(messages):
        # A case may have a message several times, of each of its slides say.
        for text in sorted({cause_of(text, case_id) for text in texts if text}):
            causes.setdefault(text, Cause(text)).cases.append(position)
    return sorted(causes.values(), key=lambda cause: -len(cause.cases))


def cause_of(text: str, case_id: str) -> str:
    """Return what a message has in common with those of other cases: no ids, folders or values."""
    text = text.removeprefix(f"case {case_id}: ")
    # Not inside a word ("b" is in many), nor before one: there "a" is an article, not an id.
    own = rf"(?<![^\W_]){re.escape(case_id)}(?! ?[^\W_])"
    text = re.sub(own, "…", _FOLDERS.sub("", text))
    text = _NUMBER.sub("…", _QUOTED.sub("…", text)).replace("… to …", "…")
    return _NAMES.sub("", text)
