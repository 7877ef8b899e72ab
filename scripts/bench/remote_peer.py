"""A peer that serves models to whoever holds a token: its host, calls and workers, without jobs and money.

Started by remote_infer.py: ``remote_peer.py FOLDER COORDINATOR_ID MODEL...``; a line of JSON says where.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import trio

from backend.serving.messages import RuntimeOptions
from p2p.files import FileStore
from p2p.host import open_host
from p2p.identifiers import PeerId
from p2p.identity import Identity
from p2p.logs import configure_logging
from peer.access import Access
from peer.artifacts import Artifacts
from peer.deployments import Deployments
from peer.hosting import Hosting
from peer.inference import InferenceService
from peer.store import open_store


def job_of(number: int) -> str:
    """The deployment of the model with that place on the command line."""
    return f"{number:064x}"


async def serve(folder: Path, coordinator: PeerId, models: list[Path]) -> None:
    async with (
        open_host(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network,
        open_store(folder / "peer.sqlite") as store,
        trio.open_nursery() as nursery,
    ):
        artifacts = Artifacts(FileStore(folder / "store", 1 << 30), store)
        access = Access(network.peer_id, coordinator, time.time)
        deployments = Deployments((), lambda: 0, artifacts.files.path, nursery)
        hosting = Hosting(folder / "hosted", nursery)
        for number, model in enumerate(models):
            await hosting.start(job_of(number), model, options=RuntimeOptions(threads=1))
        InferenceService(network, access, store, artifacts, deployments, hosting, time.time).serve()
        print(json.dumps({"peer_id": network.peer_id, "addresses": list(network.addresses())}), flush=True)
        await trio.sleep_forever()


def main() -> None:
    configure_logging("warning")
    folder, coordinator, *models = sys.argv[1:]
    trio.run(serve, Path(folder), PeerId(coordinator), list(map(Path, models)))


if __name__ == "__main__":
    main()
