"""The main job on embedded defaults: coordinator, chain, peer and Engine as processes of this machine.

Trains a small convolutional network on handwritten digits at the peer, pays for it, fetches the model
and calls it where it was trained. ``scripts/demo`` installs what this needs and starts it.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import trio
from local_network import EngineRun, LocalNetwork, NetworkError, loopback_environment
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from backend.datasets import load_dataset, split
from backend.pipeline import read_pipeline
from backend.readers import convert
from backend.serialize import load_graph
from backend.serving.messages import LoadModel, Predict, Predicted, TensorSpec
from backend.workers.supervisor import PoolConfig, open_pool
from p2p.api import Engine
from p2p.chain.client import open_chain
from p2p.errors import P2PError
from p2p.logs import configure_logging
from p2p.pricing import format_tokens
from p2p.protocols.coordinator import ChainInfo

# Its learning rate, weight decay, dropout and label smoothing were chosen from 24 combinations by mean
# validation accuracy, then validation loss, over the splits of seeds 0 to 3; nothing by the test part.
GRAPH = Path(__file__).parent / "examples" / "digits_cnn.json"
PRICE, BUDGET, AIRDROP = "10", "5", "100"
CALLS = 200
PICTURE_COLUMNS = 126
LONG_ID = re.compile(r"\b[1-9A-HJ-NP-Za-km-z]{32,}\b")

console = Console(stderr=True, highlight=False, record=True)
started_at = time.monotonic()


def say(text: str) -> None:
    """One line of what happens and why; of long ids the last letters, which are in the table in full."""
    shown = LONG_ID.sub(lambda found: f"..{found[0][-6:]}", text)
    console.print(f"{time.monotonic() - started_at:6.2f} s  {shown}", markup=False, soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="The main job on this machine alone.")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line of stdout")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep data and logs in this new directory")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write what was shown as an SVG too")
    options = parser.parse_args()
    # As Ctrl-C, which trio knows how to take: an exception out of a handler of ours would tear its loop.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    configure_logging("warning", json=False)
    loopback_environment()
    try:
        if options.keep is not None:
            options.keep.mkdir(parents=True)
            found = run_demo(options.keep.absolute())
        else:
            with tempfile.TemporaryDirectory(prefix="cyxwiz-demo-") as directory:
                found = run_demo(Path(directory))
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left running")
        sys.exit(130)
    except (NetworkError, P2PError, FileExistsError) as error:
        console.print(f"the demo failed: {error}", markup=False)
        sys.exit(1)
    show(found)
    if options.picture is not None:
        console.width = PICTURE_COLUMNS
        console.save_svg(str(options.picture), title="scripts/demo")
    if options.json:
        print(json.dumps(found), flush=True)


def run_demo(directory: Path) -> dict[str, Any]:
    network = LocalNetwork(directory)
    try:
        return run_job(network)
    finally:
        network.stop()


def run_job(network: LocalNetwork) -> dict[str, Any]:
    say("starting a coordinator with its own Solana chain: it introduces, vouches and settles")
    network.start_coordinator()
    say(f"starting a peer: it measures this machine's devices and offers them for {PRICE} CYXWIZ an hour")
    peer = network.start_peer("peer", PRICE, "--gpus", "all")
    say("making a wallet, and taking free tokens from the embedded chain")
    wallet = json.loads(network.engine("wallet", "new", "--json"))["address"]
    network.engine("wallet", "airdrop", AIRDROP, "--coordinator", network.address)
    data = write_digits(network.directory / "digits.safetensors")
    say(f"wrote scikit-learn's digits, {data.stat().st_size} bytes: they go to the peer and to nobody else")
    chain = chain_info(network)
    wallets = {"user": wallet, "node": peer["payout_wallet"]}
    before = trio.run(balances, chain, wallets)

    begun_at = time.time()
    summary, first_batch_at, speeds = follow(network.follow(*submit_words(data)))
    wall_s = time.time() - begun_at
    after = trio.run(balances, chain, wallets)
    moved = network.ask("peer", "status")
    answers = call_model(network, summary, data)
    return {
        "test_accuracy": summary["metrics"]["test_accuracy"],
        "samples_per_s": statistics.median(speeds) if speeds else None,
        "submit_to_first_batch_s": first_batch_at - summary["created_at"],
        "command_to_first_batch_s": first_batch_at - begun_at,
        "wall_s": wall_s,
        "bytes_moved": moved["bytes_sent"] + moved["bytes_received"],
        "model_blake3": summary["result"]["blake3"],
        "job_id": summary["job_id"],
        "peer_id": summary["peer_id"],
        "escrow_create_signature": summary["escrows"][-1]["create_signature"],
        "escrow_settle_signature": summary["settle_signature"],
        "balances": {
            f"{who}_{when}": amounts[who]
            for who in ("user", "node", "platform")
            for when, amounts in (("before", before), ("after", after))
        },
        **answers,
    }


def submit_words(data: Path) -> tuple[str, ...]:
    return ("submit", str(GRAPH), "--data", str(data), "--budget", BUDGET, "--follow")


def write_digits(path: Path) -> Path:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    source = path.with_suffix(".npz")
    np.savez(source, x=pixels.reshape(-1, 1, 8, 8).astype(np.float32), y=labels.astype(np.int64))
    convert(source, path)
    return path


def follow(run: EngineRun) -> tuple[dict[str, Any], float, list[float]]:
    """The job's summary, when its first batch was trained, and samples per second."""
    times: dict[str, float] = {}
    speeds: list[float] = []
    bars = (
        TextColumn("          training"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*bars, console=console, transient=True) as progress:
            task = progress.add_task("training", total=None, text="")
            for news in run.news():
                metrics = news.get("metrics")
                if news["kind"] == "progress" and metrics:
                    times.setdefault("first batch", news["at"])
                    if metrics.get("samples_per_s"):
                        speeds.append(metrics["samples_per_s"])
                    text = f"step {metrics['step']} of {metrics['total_steps']}, loss {metrics['loss']:.3f}"
                    progress.update(task, completed=metrics["step"], total=metrics["total_steps"], text=text)
                elif news["kind"] not in ("progress", "transfer"):
                    say(str(news.get("text", "")))
        summary = run.finish()
    finally:
        run.stop()
    return summary, times["first batch"], speeds


def chain_info(network: LocalNetwork) -> ChainInfo:
    from coordinator.chain.genesis import MINT, PROGRAM_ID

    status = network.ask("coordinator", "status")
    return ChainInfo(
        rpc_url=status["rpc_url"],
        program_id=PROGRAM_ID,
        mint=MINT,
        platform_account=status["platform_account"],
        arbiter=status["arbiter"],
        embedded=True,
        claim_window_s=0,
    )


async def balances(info: ChainInfo, wallets: dict[str, str]) -> dict[str, int]:
    """Units of user, node and platform. The platform is known by its token account alone."""
    async with open_chain(info) as chain:
        found = {name: int(await chain.token_balance(wallet)) for name, wallet in wallets.items()}
        found["platform"] = int(await chain.account_balance(info.platform_account))
    return found


def call_model(network: LocalNetwork, summary: dict[str, Any], data: Path) -> dict[str, Any]:
    """Calls at the peer on images that it never trained on, against the fetched model run here."""
    images = held_out(data)
    model = summary["result"]["blake3"]
    say(f"calling the model at the peer {CALLS} times, and once on {len(images)} images it never trained on")
    with Engine(network.engine_home) as engine:
        path = engine.fetch(summary["job_id"])
        there = engine.infer(summary["peer_id"], model, images)
        durations = []
        for call in range(CALLS):
            begun = time.perf_counter()
            engine.infer(summary["peer_id"], model, images[call % len(images)][None])
            durations.append((time.perf_counter() - begun) * 1000)
        here = trio.run(predict_here, network.directory / "local", path, images)
    return {
        "parity_argmax_equal": bool((there.argmax(1) == here.argmax(1)).all()),
        "parity_max_difference": float(np.abs(there - here).max()),
        "infer_p50_ms": statistics.median(durations),
    }


def held_out(data: Path) -> Any:
    """The images of the graph's own test split."""
    dataset = load_dataset(data)
    plan = read_pipeline(load_graph(GRAPH.read_bytes()))
    _, validation, test = plan.split_sizes(len(dataset.x))
    parts = split(dataset.y, validation, test, plan.split_seed, stratified=plan.stratified)
    return np.ascontiguousarray(dataset.x[parts.test], dtype=np.float32)


async def predict_here(directory: Path, model: Path, images: Any) -> Any:
    """The same model in a sandboxed worker of this process."""
    async with open_pool(PoolConfig(directory, prewarmed=0)) as pool:
        worker = await pool.acquire(timeout_s=60)
        (worker.directory / "model.cyxmodel").write_bytes(await trio.Path(model).read_bytes())
        await worker.send(LoadModel("model", "model.cyxmodel", "cpu"))
        await worker.receive(timeout_s=60)
        await worker.send(
            Predict(1, "model", (TensorSpec("input", "float32", images.shape),)), images.tobytes()
        )
        answer, body = await worker.receive(timeout_s=60)
        if not isinstance(answer, Predicted):
            raise NetworkError(f"the local run failed: {answer}")
        return np.frombuffer(body, answer.outputs[0].dtype).reshape(answer.outputs[0].shape)


def show(found: dict[str, Any]) -> None:
    money = found["balances"]
    gained = {who: money[f"{who}_after"] - money[f"{who}_before"] for who in ("user", "node", "platform")}
    rows = {
        "test accuracy": f"{found['test_accuracy']:.4f}",
        "training speed": f"{found['samples_per_s'] or 0:,.0f} samples/s",
        "submitted to first batch": f"{found['submit_to_first_batch_s']:.2f} s",
        "command to first batch": f"{found['command_to_first_batch_s']:.2f} s",
        "command to settled": f"{found['wall_s']:.2f} s",
        "moved between Engine and peer": f"{found['bytes_moved']:,} bytes",
        "the user paid": format_tokens(-gained["user"]),
        "of that to the peer, 90 %": format_tokens(gained["node"]),
        "and to the platform, 10 %": format_tokens(gained["platform"]),
        "same answers there and here": "yes" if found["parity_argmax_equal"] else "NO",
        "largest difference": f"{found['parity_max_difference']:.1e}",
        f"one call, median of {CALLS}": f"{found['infer_p50_ms']:.2f} ms",
        "job": found["job_id"],
        "peer": found["peer_id"],
        "model": found["model_blake3"],
    }
    console.print("\n[bold]One job, end to end[/bold]")
    for name, value in rows.items():
        console.print(f"  {name:<29} {value}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
