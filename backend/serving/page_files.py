"""The page to try a model by hand, as answers: read from disk once, with headers that let in nothing else."""

from __future__ import annotations

from pathlib import Path

from backend.serving.http import Headers, Reply

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Headers = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


def page_replies() -> dict[str, Reply]:
    """By path."""
    return {
        path: Reply((_PAGE / name).read_bytes(), kind, headers=_HEADERS)
        for path, (name, kind) in _FILES.items()
    }
