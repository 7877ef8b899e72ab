"""States that the self-check makes up: a training, much of everything, long names, and what went wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from engine_app.document.recovery import Recovered
from engine_app.ui.examples import DIGITS, DIGITS_DATA
from engine_app.ui.exporter import Done
from engine_app.ui.network import Network, Story
from engine_app.ui.purse import Purse
from engine_app.ui.runs import Run, SavedRun
from engine_app.ui.trainer import Trainer
from engine_app.ui.tryout import Message, Tryout
from p2p.chain.client import HistoryEntry

LONG_NAME = "Fashion, convolutional, with squeeze and excitation, second try with a longer warm-up"
LONG_ERROR = (
    "/ip4/203.0.113.7/tcp/4400/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X: nobody answers "
    "there for 10 s. Is the coordinator running, and does its address end in its peer id?"
)
STEPS, SEEN = 640, 500


def shown_run(steps: int = SEEN, number: int = 3) -> Run:
    run = Run(DIGITS.name, DIGITS_DATA, number, output=f"models/Handwritten_digits-{number}.cyxmodel")
    for step in range(1, steps + 1):
        loss = 2.2 * math.exp(-step / 90) + 0.05 + 0.04 * math.sin(step * 1.7) * math.exp(-step / 300)
        validation = loss * 1.15 + 0.03
        run.add(
            {
                "step": step,
                "total_steps": STEPS,
                "loss": loss,
                "accuracy": 1 - loss / 2.6,
                "validation_loss": validation if step % 40 == 0 or step == steps else None,
                "validation_accuracy": 1 - validation / 2.6 if step % 40 == 0 or step == steps else None,
                "learning_rate": 0.01 * (1 + math.cos(math.pi * step / STEPS)) / 2,
                "samples_per_s": 5200.0 + 300 * math.sin(step / 9),
            }
        )
    return run


def show_training(trainer: Trainer) -> None:
    """One that runs, and those before it."""
    trainer.run, trainer.history = shown_run(), _runs()
    trainer.state = "training"


def show_trained(trainer: Trainer) -> None:
    """The same, once it is over."""
    run = shown_run(STEPS)
    classes = range(10)
    confusion = [[36 if a == b else int((a, b) in ((8, 1), (3, 5))) for b in classes] for a in classes]
    run.metrics |= {"test_accuracy": 0.978, "test": [{"confusion": confusion}]}
    run.outcome = "done"
    trainer.run, trainer.state = run, "idle"


def _runs() -> list[SavedRun]:
    found = []
    for number, name, outcome in ((2, LONG_NAME, "done"), (1, DIGITS.name, "cancelled")):
        run = shown_run(120 * number, number)
        run.name, run.outcome = name, outcome
        found.append(run.saved(1_790_000_000.0))
    return found


def show_story(network: Network) -> None:
    """What the first job tells."""
    story = Story(shown_run(320))
    story.lines.extend(
        (
            "funded  escrow of 5 CYXWIZ on chain  [5Ju8fQx1mRvKq2aB]",
            "running  segment 1 of 4: checkpoint checked, 0.0046 CYXWIZ vouchered",
            "running  segment 2 of 4: checkpoint checked, 0.0092 CYXWIZ vouchered",
        )
    )
    network.stories[network.jobs[0]["job_id"]] = story


def show_many_jobs(network: Network) -> None:
    """In all states, with long names and texts, while something went wrong."""
    first = network.jobs[0]
    result = {"blake3": "5c1d" * 16}
    others: list[dict[str, Any]] = [
        {"name": LONG_NAME, "state": "settled", "segments_done": 4, "result": result},
        {"name": "iris", "state": "waiting for user", "text": "the escrow was not funded within 60 s"},
        {
            "name": "text",
            "state": "failed",
            "segments_done": 1,
            "text": "ran out of memory: 4 GiB",
        },
        {"name": "regression", "state": "running", "paused": True, "segments_done": 3},
        {"name": "at home", "state": "settled", "unpaid": True, "segments_done": 4, "result": result},
    ]
    changed = [first | one | {"job_id": f"{at:04x}" * 8} for at, one in enumerate(others * 3)]
    network.jobs, network.problem = [first, *changed], LONG_ERROR


def move_deployment(network: Network) -> None:
    """To a peer that its user has not chosen."""
    one = network.deployments[0]
    network.deployments = [one | {"peer_id": network.peers[1]["peer_id"]}]


def show_long_talk(tryout: Tryout) -> None:
    text = "Each segment ends in a checkpoint. The Engine checks it, then signs for what is earned so far. "
    tryout.messages = [
        Message("user", "How is a peer paid?"),
        Message("assistant", text * 6 + "\n\n1. Submit\n2. Train\n3. Check\n4. Sign"),
        Message("user", "And if it vanishes?"),
        Message("assistant", "Then the job goes on elsewhere, from the last checkpoint."),
    ]


def show_failed(trainer: Trainer) -> None:
    """At a node that is named; and one that was cancelled before."""
    run = shown_run(90)
    run.outcome, run.text = "failed", "the loss is nan at step 91: node conv2 was the first to give it"
    trainer.run, trainer.state = run, "idle"


def show_own_network(network: Network) -> None:
    """Away just now, with peers that let in and one that does not."""
    network.state = "away"
    network.text = "192.168.1.20 did not answer for 10 s. What runs goes on; trying again"
    device = {"name": "RTX 3060", "kind": "cuda", "memory_bytes": 12 << 30, "flops_per_s": 12e12}
    peer = {"peer_id": "12D3KooWQx7", "devices": [device], "free": 1}
    network.peers = [peer | {"allowed": True}, peer | {"allowed": False, "peer_id": "12D3KooWAb9"}]


def forget_network(network: Network) -> None:
    network.problem = ""
    network.address, network.state, network.text, network.estimate = "", "off", "", None
    network.peers, network.jobs, network.deployments = [], [], []


def lost() -> Recovered:
    return Recovered(Path("lost"), None, replace(DIGITS, name=LONG_NAME), 1_790_000_000.0)


def differing(done: Done) -> Done:
    """The same export, of which another runtime answers otherwise."""
    worse = msgspec.structs.replace(done.certificate.outputs[0], max_difference=0.4, argmax_agreement=0.91)
    certificate = msgspec.structs.replace(
        done.certificate, outputs=(worse,), max_difference=0.4, argmax_agreement=0.91, verdict="differs"
    )
    return replace(done, certificate=certificate)


def show_balance(purse: Purse) -> None:
    changes = (4_990_800_000, -5_000_000_000, 100_000_000_000)  # of 5 CYXWIZ 0.0092 were earned
    purse.units, purse.lamports, purse.is_embedded, purse.problem = sum(changes), 999_960_000, True, ""
    purse.history = [
        HistoryEntry(f"{at}Ju8fQx1mRvKq2aBz7", 900 - at, None, None, change, sum(changes[at:]))
        for at, change in enumerate(changes)
    ]
    purse.history.insert(1, HistoryEntry("3xFailed9mRvKq2aB", 880, None, "escrow is not funded", 0, 10**11))
