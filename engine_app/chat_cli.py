"""``cyxwiz chat``: a conversation with a deployed model."""

from __future__ import annotations

import click

from engine_app.arguments import Number
from engine_app.train_cli import config_of


@click.command()
@click.argument("deployment")
@click.argument("prompt", required=False)
@click.option("--peer", metavar="PEER", help="Ask only there, also where the deployment moved by itself.")
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1, 1 << 20), help="The most that one answer may have.")
@click.option("--temperature", type=Number(0, 2), help="0: always the likeliest word.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The same answer each time.")
@click.option(
    "--coordinator", metavar="ADDR", help="Multiaddress of the coordinator; default: the one used last."
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout, one object per answer.")
@click.pass_context
def chat(
    context: click.Context,
    /,
    deployment: str,
    prompt: str | None,
    peer: str | None,
    system: str | None,
    coordinator: str | None,
    as_json: bool,
    **options: float | None,
) -> None:
    """Talk with the model of DEPLOYMENT; the answer shows as it is made, and Ctrl-C stops it.

    With a PROMPT, or one on stdin, it answers once. The peer that serves the model sees the conversation.
    """
    from engine_app import chatting

    order = chatting.ChatOrder(deployment, peer, system, options, as_json)
    chatting.talk(config_of(context, coordinator), order, prompt)
