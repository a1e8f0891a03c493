"""JSON as hospitals and platforms write it."""

import json
from pathlib import Path

from model.errors import CaseError, Warn
from model.messages import repeated, some


def read_json(path: Path, *, warn: Warn) -> object:
    """Read a JSON file; of equal keys in one object, the first holds.

    Raises:
        CaseError: It is absent or is not JSON.
    """

    def first_of_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            several = some(repeated(key for key, _ in pairs))
            warn(f"{path}: expected each key once, found more of {several}; the first is used")
            content.update(reversed(pairs))
        return content

    try:
        content: object = json.loads(path.read_bytes(), object_pairs_hook=first_of_each)
    except FileNotFoundError:
        raise CaseError(path, expected="a JSON file", found="no file") from None
    except OSError as error:
        raise CaseError(path, expected="a readable JSON file", found=error.strerror) from error
    except (ValueError, RecursionError) as error:  # no JSON, no text, or too many brackets
        raise CaseError(path, expected="valid JSON", found=error) from error
    return content
