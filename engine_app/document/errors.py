"""What can go wrong with a document.

DocumentError
├── EditError   an edit that cannot be made; the document is as it was
└── FileError   a file that cannot be read or written
"""

from __future__ import annotations


class DocumentError(Exception):
    """The text says what was found and what is allowed."""


class EditError(DocumentError):
    pass


class FileError(DocumentError):
    pass
