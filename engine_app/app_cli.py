"""``cyxwiz app``: opens the window. Kivy is imported only here and below."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import click


@click.command()
@click.argument(
    "file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path, resolve_path=True)
)
@click.option(
    "--self-check",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path, resolve_path=True),
    help="Walk through the main screens without a display, write their pictures to DIR, and end.",
)
@click.pass_context
def app(context: click.Context, file: Path | None, self_check: Path | None) -> None:
    """Open the window, with the graph FILE in it."""
    if self_check is not None:
        run_self_check(self_check)
    else:
        open_window(context.obj, file)


def open_window_or_help(context: click.Context) -> None:
    """What plain ``cyxwiz`` does: the window where there is a display and Kivy, else help."""
    from importlib.util import find_spec

    from engine_app.ui.kivy_setup import has_display

    if has_display() and find_spec("kivy") is not None:
        open_window(context.obj, None)
    else:
        click.echo(context.get_help())


def open_window(data_dir: str | None, file: Path | None) -> None:
    """Until it is closed."""
    from engine_app.config import ConfigError, read_config
    from engine_app.entry import CommandError, report, run
    from engine_app.ui.kivy_setup import WindowOptions, has_display, prepare_kivy

    if not has_display():
        report(CommandError("no display: set DISPLAY or WAYLAND_DISPLAY; `cyxwiz --help` lists commands"))
    try:
        config = read_config(data_dir)
    except ConfigError as error:
        report(error)
    try:
        prepare_kivy(WindowOptions(home=config.data_dir / "kivy"))
    except ImportError:
        report(CommandError("the window needs Kivy: pip install 'cyxwiz[engine]'"))
    from kivy.core.window import Window

    if Window is None:
        report(CommandError("no window could be opened: is there a display, with OpenGL 2 or newer?"))
    from engine_app.ui.app import EngineApp, Opening
    from engine_app.ui.loop import run_app

    window = EngineApp(Opening(config, file))
    gc.collect()
    gc.freeze()  # libraries are not looked through again each time that a large graph is changed

    async def main() -> None:
        await run_app(window, window.begin, window.show_error)

    run(main, config)


def run_self_check(directory: Path) -> None:
    """In a data directory of its own, so that it looks the same everywhere and touches nothing."""
    from tempfile import TemporaryDirectory

    from engine_app.config import Config
    from engine_app.entry import run
    from engine_app.ui.kivy_setup import WindowOptions, prepare_kivy

    os.environ["SDL_VIDEODRIVER"] = "offscreen"
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place:
        config = Config(Path(place) / "engine", None, None, "error")
        prepare_kivy(WindowOptions(home=Path(place) / "kivy", width=1920, height=1280))
        from engine_app.ui.self_check import check_window

        async def main() -> None:
            for picture in await check_window(config, directory):
                click.echo(str(picture))

        run(main, config)
