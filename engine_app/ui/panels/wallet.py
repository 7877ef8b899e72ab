"""The key that pays for jobs: made, opened, kept safe; what it holds and what it paid."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from kivy.uix.boxlayout import BoxLayout

from engine_app.plain import plain, sentence
from engine_app.ui import theme
from engine_app.ui.context import Context
from engine_app.ui.panels.pick_file import FilePicker, ask_path
from engine_app.ui.purse import Purse
from engine_app.ui.widgets.box import Card, Column, Gap, Row, Text, flow_of, page_title
from engine_app.ui.widgets.buttons import Kind, ListRow, PushButton
from engine_app.ui.widgets.facts import CopyRow, labelled, show_order
from engine_app.ui.widgets.fields import TextField
from engine_app.ui.widgets.scroll import Scroll
from engine_app.wallets import LAMPORTS_PER_SOL
from p2p.pricing import format_tokens, parse_tokens

AIRDROP = "100"


class WalletPage(BoxLayout):
    def __init__(self, context: Context, purse: Purse) -> None:
        super().__init__()
        self._context, self._purse = context, purse
        self._passphrase = TextField(
            context.look, "", hint="Passphrase; none leaves the key readable on this disk", secret=True
        )
        look = context.look
        self._column, self._second = Column(look, gap=theme.LARGE), Column(look, gap=theme.LARGE)
        self._page = Column(look, gap=0)
        self.add_widget(Scroll(look, self._page, size_hint_max_x=look.px(2 * theme.READING_WIDTH)))
        self._stop = purse.listen(self.refresh)
        self.refresh()

    def on_parent(self, _: Any, parent: Any) -> None:
        """Shown, also again: what was paid meanwhile is asked for."""
        if parent is not None and self._purse.address:
            self._purse.refresh()
        elif parent is not None and self._purse.exists:
            self._purse.open()

    def close(self) -> None:
        self._stop()

    def refresh(self) -> None:
        look, purse, column = self._context.look, self._purse, self._column
        if self._passphrase.parent is not None:
            self._passphrase.parent.remove_widget(self._passphrase)
        for each in (column, self._second, self._page):
            each.clear_widgets()
        for each in (column, self._second):
            if each.parent is not None:
                each.parent.remove_widget(each)
        self._page.add_widget(page_title(look, "Wallet"))
        self._page.add_widget(flow_of(look, column, self._second))
        show_order(look, column, purse.problem, purse.busy, purse.call_off)
        if purse.address:
            self._show_open()
        elif purse.exists:
            self._show_locked()
        else:
            self._show_none()

    def _show_none(self) -> None:
        look, purse = self._context.look, self._purse
        card = self._card("No wallet yet")
        text = "A wallet is a key that pays for jobs. Whoever has it has the tokens: keep a copy safe."
        card.add_widget(Text(look, text, colour=look.palette.muted))
        card.add_widget(self._passphrase)
        row = Row(look)
        row.add_widget(
            PushButton(look, "Make a wallet", lambda: purse.create(self._passphrase.text), Kind.PRIMARY)
        )
        row.add_widget(PushButton(look, "Restore a copy", self._ask_restore))
        row.add_widget(Gap(look))
        card.add_widget(row)

    def _show_locked(self) -> None:
        look, purse = self._context.look, self._purse
        card = self._card("Locked")
        card.add_widget(Text(look, "The wallet is encrypted.", colour=look.palette.muted))
        card.add_widget(self._passphrase)
        row = Row(look)
        row.add_widget(PushButton(look, "Open it", lambda: purse.open(self._passphrase.text), Kind.PRIMARY))
        row.add_widget(Gap(look))
        card.add_widget(row)

    def _show_open(self) -> None:
        look, purse = self._context.look, self._purse
        card = self._card("Balance")
        amount = format_tokens(purse.units) if purse.units is not None else "Not asked yet"
        card.add_widget(Text(look, amount, theme.TITLE))
        fees = f"{purse.lamports / LAMPORTS_PER_SOL:g} SOL for fees" if purse.units is not None else ""
        card.add_widget(Text(look, fees, theme.SMALL, look.palette.muted))
        card.add_widget(labelled(look, "Address", CopyRow(look, purse.address, "the address")))
        row = Row(look)
        row.add_widget(PushButton(look, "Refresh", purse.refresh, icon="reset"))
        row.add_widget(PushButton(look, "Back up", self._ask_back_up, icon="download"))
        if purse.is_embedded:
            drop = partial(purse.airdrop, parse_tokens(AIRDROP))
            kind = Kind.PLAIN if purse.units else Kind.PRIMARY
            row.add_widget(PushButton(look, f"Get {AIRDROP} test tokens", drop, kind))
        row.add_widget(Gap(look))
        card.add_widget(row)
        card = self._card("History", self._second)
        card.spacing = look.px(theme.HALF)
        if not purse.history:
            card.add_widget(Text(look, "Nothing was paid or received yet.", colour=look.palette.muted))
        for entry in purse.history:
            text, icon, colour = f"Balance {format_tokens(entry.balance)}", "export", look.palette.muted
            amount = f"−{format_tokens(-entry.change)}"
            if entry.error is not None:
                text, icon, colour = sentence(plain(entry.error)), "error", look.palette.danger
                amount = "Failed"
            elif entry.change > 0:
                amount, icon, colour = f"+{format_tokens(entry.change)}", "download", look.palette.success
            card.add_widget(
                ListRow(
                    look,
                    amount,
                    text,
                    mark=colour,
                    icon=icon,
                    figure=f"{entry.signature[:12]}...",
                    tip=entry.signature,
                )
            )

    def _card(self, title: str, column: Column | None = None) -> Card:
        card = Card(self._context.look, gap=theme.MEDIUM)
        card.add_widget(Text(self._context.look, title, theme.HEADING))
        (column or self._column).add_widget(card)
        return card

    def _ask_back_up(self) -> None:
        ask_path(
            self._context,
            "Back up the wallet",
            Path.home() / "cyxwiz-wallet.json",
            "Write",
            self._purse.back_up,
        )

    def _ask_restore(self) -> None:
        host = self._context.host

        def picked(path: Any) -> None:
            host.close()
            self._purse.restore(path, self._passphrase.text)

        host.open("Restore a wallet", FilePicker(self._context, (".json",), picked), wide=560, fills=True)
