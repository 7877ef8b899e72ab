"""Entry point of a worker process: ``python -m backend.workers``."""

from backend.workers.main import main

if __name__ == "__main__":
    main()
