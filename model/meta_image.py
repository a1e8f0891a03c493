"""MetaImage files: whether their pixels are whole, which the library that reads them does not tell.

It returns pixels of what a damaged stream gave so far, and writes on stderr, where the platform
looks for errors. Source: MetaIO's metaImage.cxx and metaUtils.cxx.
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MOST_HEADER_BYTES = 2**16
CHUNK_BYTES = 2**20

_LAST_FIELD = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(\S+)[^\n]*\n", re.MULTILINE)
_FIELD = re.compile(rb"^\s*(\w+)\s*[=:]\s*(\S+)", re.MULTILINE)
_DIMENSIONS = ([b"2"], [b"3"], [b"4"])
_EITHER_HEADER = 32 + zlib.MAX_WBITS
"""Streams of zlib and of gzip, as MetaIO takes both."""


@dataclass(frozen=True)
class MetaHeader:
    """What says where and how a file has its pixels.

    Attributes:
        fields: First word of each field's value.
        data_start: Where the pixels start.
    """

    fields: dict[bytes, bytes]
    data_start: int

    @classmethod
    def read(cls, path: Path) -> "MetaHeader | None":
        """Return a file's header; None where it does not come to its end.

        None, too, unless it says just once that there are 2 to 4 dimensions: with other numbers
        MetaIO crashes, or never ends.
        """
        with path.open("rb") as file:
            start = file.read(MOST_HEADER_BYTES)
        last = _LAST_FIELD.search(start)
        if last is None:
            return None
        fields = _FIELD.findall(start[: last.end()])
        if [value for name, value in fields if name == b"NDims"] not in _DIMENSIONS:
            return None
        return cls(dict(fields), last.end())

    @property
    def data_file(self) -> str:
        """Name of the file that has the pixels, as the header has it; "LOCAL" if it does itself."""
        name = self.fields[b"ElementDataFile"]
        return "LOCAL" if name.upper() == b"LOCAL" else name.decode(errors="replace")

    def has_all(self, path: Path, count: int) -> bool:
        """Return whether the file has so many bytes of pixels; True of pixels in words."""
        if not self._says(b"BinaryData"):
            return True
        present = path.stat().st_size - self.data_start
        if not self._says(b"CompressedData"):
            return present >= count
        # The format lets a file leave the length out, but then MetaIO reads nonsense.
        length = self.fields.get(b"CompressedDataSize", b"")
        if not length.isdigit() or int(length) > present:
            return False
        with path.open("rb") as file:
            file.seek(self.data_start)
            return _inflates_to(file, int(length), count)

    def _says(self, field: bytes) -> bool:
        """Return whether a field is true, as MetaIO looks at it."""
        return self.fields.get(field, b"").startswith((b"T", b"t", b"1"))


def _inflates_to(file: BinaryIO, length: int, count: int) -> bool:
    """Return whether a compressed stream of a length holds so many bytes, and their checksum."""
    inflater = zlib.decompressobj(_EITHER_HEADER)
    inflated = 0
    try:
        while not inflater.eof and inflated <= count:
            chunk = inflater.unconsumed_tail
            if not chunk:
                chunk = file.read(min(length, CHUNK_BYTES))
                length -= len(chunk)
            if not chunk:
                return False
            inflated += len(inflater.decompress(chunk, CHUNK_BYTES))
    except zlib.error:
        return False
    return inflated == count
