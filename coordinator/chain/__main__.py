"""``python -m coordinator.chain``: the embedded chain in its own process. Prints its URL once it listens."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import trio

from coordinator.chain.server import ChainConfig, run_chain
from p2p.datadir import DataDir
from p2p.errors import DataDirLockedError
from p2p.logs import configure_logging


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 takes a free one.")
@click.option("--slot-ms", default=400, show_default=True, type=click.IntRange(1, 60_000))
@click.option("--platform-wallet", default=None, help="Gets a token account for the platform's share.")
def main(data_dir: Path, host: str, port: int, slot_ms: int, platform_wallet: str | None) -> None:
    """Run CyxWiz's own Solana chain."""
    configure_logging("info", json=False)
    config = ChainConfig(data_dir, host, port, slot_ms, platform_wallet)
    try:
        with DataDir.open(data_dir, "the embedded chain"):
            trio.run(_main, config)
    except KeyboardInterrupt:
        sys.exit(130)
    except DataDirLockedError as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if not isinstance(cause, OSError):
            raise
        raise click.ClickException(f"cannot answer at {host}, port {port}: {cause.strerror}") from error


async def _main(config: ChainConfig) -> None:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(run_chain, config)
        print(url, flush=True)


if __name__ == "__main__":
    main()
