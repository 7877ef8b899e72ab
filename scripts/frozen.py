"""Where the one-file program begins: as the command ``cyxwiz``, or as a worker that it starts of itself."""

from __future__ import annotations

import sys

WORKER = ["-P", "-s", "-m", "backend.workers"]


def main() -> None:
    if sys.argv[1 : 1 + len(WORKER)] == WORKER:
        del sys.argv[1 : 1 + len(WORKER)]
        from backend.workers.main import main as work

        work()
        return
    from engine_app.cli import main as engine

    engine()


if __name__ == "__main__":
    main()
