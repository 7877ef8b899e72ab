"""What an export was compared with, and what came of it, to be read."""

from __future__ import annotations

from backend.parity import Certificate
from engine_app.plain import plain
from engine_app.ui import theme
from engine_app.ui.theme import Colour, Look
from engine_app.ui.widgets.box import Card, Text
from engine_app.ui.widgets.facts import CopyRow, FactList, StateText, Tiles, labelled

VERDICTS = {
    "equal": "The answers are equal, bit for bit",
    "within tolerance": "The answers agree within the tolerance",
    "differs": "The answers differ",
}


def verdict_colour(look: Look, certificate: Certificate) -> Colour:
    return look.palette.danger if certificate.verdict == "differs" else look.palette.success


def certificate_card(look: Look, certificate: Certificate) -> Card:
    card = Card(look, gap=theme.MEDIUM)
    card.add_widget(Text(look, "PARITY CERTIFICATE", theme.LABEL, look.palette.muted))
    verdict = VERDICTS.get(certificate.verdict, plain(certificate.verdict))
    card.add_widget(StateText(look, verdict, verdict_colour(look, certificate)))
    agreement = certificate.argmax_agreement
    figures = [
        ("largest difference", f"{certificate.max_difference:.2g}"),
        ("mean difference", f"{certificate.mean_difference:.2g}"),
        ("same answer", "one value" if agreement is None else f"{agreement:.2%}"),
    ]
    card.add_widget(Tiles(look, figures))
    card.add_widget(FactList(look, [(title, plain(text)) for title, text in facts(certificate)]))
    card.add_widget(labelled(look, "BLAKE3 of the file", CopyRow(look, certificate.file_blake3, "the hash")))
    return card


def facts(certificate: Certificate) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in certificate.versions.items())
    batches = ", ".join(map(str, certificate.batches))
    return [
        ("It is", certificate.about),
        ("Ran in", f"{certificate.runtime} ({versions})" if versions else certificate.runtime),
        ("Compared on", f"{certificate.inputs.samples} samples, {certificate.inputs.source}"),
        ("In batches of", batches),
        ("Tolerance", f"{certificate.tolerance:g} of an output's largest value"),
    ]
