"""The canvas: a document drawn in a few meshes, under fingers, mouse and keys. Decides nothing itself.

``scene`` works out what is to be seen and what a gesture means; here it is uploaded and carried out.
Only what changed is built anew: panning within what was built moves a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from kivy.clock import Clock
from kivy.core.window import Window
from kivy.graphics import (
    ClearBuffers,
    ClearColor,
    InstructionGroup,
    MatrixInstruction,
    PopMatrix,
    PushMatrix,
    ScissorPop,
    ScissorPush,
    Translate,
)
from kivy.graphics.transformation import Matrix
from kivy.metrics import Metrics
from kivy.uix.widget import Widget

from backend.graph import Graph, Wiring
from engine_app.document import editing
from engine_app.document.analysis import Analysis
from engine_app.document.editing import Editing
from engine_app.document.edits import Edit
from engine_app.document.errors import EditError
from engine_app.document.files import editable
from engine_app.document.search import Found
from engine_app.document.view import Rect, bounds
from engine_app.document.wiring import opened
from engine_app.scene import overlay
from engine_app.scene.gestures import (
    Button,
    DragCancelled,
    DragEnded,
    Dragged,
    Gesture,
    GestureRecognizer,
    Modifiers,
    Scrolled,
)
from engine_app.scene.meshes import QUAD, grid, no_boxes, ribbon_indices
from engine_app.scene.pulse import Sparks, Training
from engine_app.scene.render import (
    DETAILS,
    LARGEST_TITLE,
    SMALLEST_TEXT,
    TITLE_SIZE,
    Layers,
    Look,
    Picture,
    cover_of,
    frame_texts,
    is_covered,
    moving,
    still,
)
from engine_app.scene.snapshot import Snapshot, SnapshotBuilder
from engine_app.scene.text import TextLayout
from engine_app.scene.tool_state import (
    AskForNode,
    EditFrame,
    EditTitle,
    Enter,
    Intent,
    Make,
    Mode,
    Moving,
    Select,
    ShowMenu,
    Stage,
    Tell,
    ToolState,
)
from engine_app.scene.tool_state import Look as LookAt
from engine_app.scene.tools import handle, still_possible
from engine_app.scene.view import View
from engine_app.ui.meshes import GlyphAtlas, MeshLayer, font_size
from engine_app.ui.theme import Look as WindowLook

GRID_GAP, CLOSEST_DOTS = 24.0, 14.0
SLOW_TICK_S, SLOW_FLOW_S = 0.04, 0.25
"""A frame that takes longer than the one is followed by pulses that move every so many seconds."""
SMALLEST = 100
"""A canvas that is narrower has not been laid out yet."""
_BUTTONS = {"right": Button.SECONDARY, "middle": Button.MIDDLE}
_WHEEL = {"scrolldown": 1.0, "scrollup": -1.0}
"""Kivy names the wheel by what the page does."""


class Document(Protocol):
    """What the canvas shows and changes. Whoever changes it calls ``refresh``."""

    @property
    def state(self) -> Editing: ...

    @property
    def analysis(self) -> Analysis: ...

    def show(self, state: Editing) -> None: ...


@dataclass(frozen=True, slots=True)
class CanvasActions:
    """What leads beyond the canvas. Places of ``show_menu`` are the window's."""

    ask_for_node: Callable[[AskForNode], None]
    show_menu: Callable[[float, float, ShowMenu], None]
    edit_text: Callable[[EditFrame | EditTitle], None]
    tell: Callable[[str], None]


class _Sheet:
    """The meshes of one set of layers, from back to front."""

    def __init__(self, parent: Any) -> None:
        self.frames = MeshLayer(parent, "box")
        self.stubs = MeshLayer(parent, "ribbon")
        self.links = MeshLayer(parent, "ribbon")
        self.blocks = MeshLayer(parent, "flat")
        self.boxes = MeshLayer(parent, "box")
        self.glyphs = MeshLayer(parent, "glyph")

    def set(self, layers: Layers, texture: Any) -> None:
        self.frames.set(layers.frames, QUAD)
        self.links.set(layers.links, ribbon_indices(layers.segments))
        self.stubs.set(layers.stubs, QUAD)
        self.blocks.set(layers.blocks, QUAD)
        self.boxes.set(layers.boxes, QUAD)
        self.glyphs.set(layers.glyphs, QUAD, texture)

    def zoom(self, zoom: float) -> None:
        for layer in (self.frames, self.stubs, self.links, self.boxes):
            layer.uniform("px", float(zoom))


class GraphCanvas(Widget):
    def __init__(
        self, look: WindowLook, document: Document, actions: CanvasActions, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._look = look
        self._document = document
        self._actions = actions
        self._dp = look.pixels_per_dp
        self._density = float(Metrics.density)
        """Pixels of a dp, however large the user wants everything: so many show what is in a node."""
        self._colours = Look(look.palette)
        self._builder = SnapshotBuilder()
        self._gestures = GestureRecognizer(self._dp)
        self._atlases: dict[int, TextLayout] = {}
        self._shown: Editing | None = None
        self._analysis: Analysis | None = None
        self._graph = Graph("")
        self._cover: tuple[Rect, float] | None = None
        self._moving: frozenset[int] = frozenset()
        self._fitted: View | None = None
        """What ``fit`` came to: as long as nobody looks elsewhere, all stays in sight in other sizes too."""
        self.foot = 0.0
        """Pixels at the bottom that tools lie on: what is fitted stays above them."""
        self._touch: Any = None
        self._grabbed_at: tuple[float, float] | None = None
        """Where the mouse was last while it carries what is selected with no button down."""
        self._training = Training()
        self._speed = 0.0
        self._flowed_s = self._flow_wait_s = 0.0
        self._map_key: tuple[Any, ...] | None = None
        self.scene = Snapshot()
        self.view = View(zoom=self._dp)
        self.tools = ToolState()
        self._build_canvas()
        self._draw_soon = Clock.create_trigger(self._draw, -1)
        self._ticking = Clock.schedule_interval(self._tick, 1 / 30)
        self.bind(pos=self._arrange, size=self._arrange)
        self.refresh()

    def close(self) -> None:
        self._end_grab()
        self._ticking.cancel()

    # -- looking -------------------------------------------------------------------------------

    @property
    def state(self) -> Editing:
        return self._document.state

    @property
    def wiring(self) -> Wiring:
        """What is open, with places for all nodes."""
        return opened(self._graph, self.state.inside)

    def refresh(self) -> None:
        """Draws the document as it is now."""
        state, before, analysis = self.state, self._shown, self._document.analysis
        if state is before and analysis is self._analysis:
            return
        is_new_analysis, self._analysis = analysis is not self._analysis, analysis
        self._shown = state
        is_elsewhere = before is None or state.inside != before.inside
        if before is None or state.graph is not before.graph:
            self._graph = editable(state.graph).graph
        if is_elsewhere:
            self.tools = ToolState(mode=self.tools.mode)
        if before is None or is_elsewhere or is_new_analysis or state.graph is not before.graph:
            self.scene = self._builder.build(self.wiring, analysis, state.inside)
        if before is not None and state.graph is not before.graph:
            self.tools = still_possible(self.tools, self.scene)
        self._cover = None
        is_new = before is None or (not (state.done or state.undone) and state.graph is not before.graph)
        if (is_elsewhere or is_new) and self.width > SMALLEST:
            self.fit()
        self._draw_soon()

    def select(self, node_ids: frozenset[str]) -> None:
        if node_ids != self.state.selected:
            self._document.show(editing.select(self.state, node_ids))
            self.refresh()

    def go_to(self, depth: int) -> None:
        """Back to a breadcrumb."""
        self._document.show(editing.leave(self.state, depth))
        self.refresh()

    def set_mode(self, mode: Mode) -> None:
        self.tools = ToolState(mode=mode)
        self._draw_soon()

    def look_at(self, view: View) -> None:
        self.view = view
        self._draw_soon()

    def fit(self) -> None:
        """All of it in sight."""
        around = self.scene.bounds()
        if around is not None:
            self.look_at(self.view.fitted(around, 48 * self._dp, self._dp, self.foot))
            self._fitted = self.view

    def fit_selected(self) -> None:
        numbers = [self.scene.index[name] for name in self.state.selected if name in self.scene.index]
        around = bounds(self.scene.rect(number) for number in numbers)
        if around is not None:
            self.look_at(self.view.fitted(around, 96 * self._dp, 1.2 * self._dp, self.foot))

    def go_to_found(self, found: Found, head: float = 0.0) -> None:
        """Into sight, as near as it can be read; a node selected too. ``head``: see ``View.fitted``."""
        chosen = (found.id,) if found.frame is None else ()
        self._document.show(editing.go_to(self.state, found.inside, chosen))
        self.refresh()
        rect = self.scene.rect_of(found)
        if rect is not None:
            zoom = self.view.zoom if self.view.zoom >= DETAILS * self._dp else self._dp
            self.look_at(self.view.fitted(rect, 48 * self._dp, zoom, self.foot, head))

    def change(self, edit: Edit, gesture: str = "") -> bool:
        """What cannot be done is told, not raised."""
        try:
            self._document.show(editing.do(self.state, edit, gesture))
        except EditError as error:
            self._actions.tell(str(error))
            return False
        self.refresh()
        return True

    # -- fingers, mouse, wheel -----------------------------------------------------------------

    def on_touch_down(self, touch: Any) -> bool:
        if not self.collide_point(*touch.pos):
            return False
        button = touch.button if "button" in touch.profile else "left"
        if self._grabbed_at is not None and button not in _WHEEL:
            self._end_grab(drops=button != "right")
            return True
        if button in _WHEEL:
            self._take([Scrolled(*self._place(touch), _WHEEL[button], _modifiers())])
            return True
        touch.grab(self)
        self._touch = touch
        kind = _BUTTONS.get(button, Button.PRIMARY)
        # Where it began: in a slow frame Kivy has moved the touch on before it tells of it.
        began = float(touch.ox - self.x), float((self.y + self.height) - touch.oy)
        self._take(self._gestures.down(touch.uid, *began, Clock.get_time(), _modifiers(), kind))
        return True

    def on_touch_move(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        self._take(self._gestures.move(touch.uid, *self._place(touch)))
        return True

    def on_touch_up(self, touch: Any) -> bool:
        if touch.grab_current is not self:
            return False
        touch.ungrab(self)
        self._touch = None
        self._take(self._gestures.up(touch.uid, *self._place(touch), Clock.get_time()))
        return True

    def grab(self) -> None:
        """What is selected goes with the mouse until a click. The right button, or Escape, calls it off."""
        if self._grabbed_at is None and self._gestures.is_idle:
            self._grabbed_at = self._pointer()
            self.tools = replace(self.tools, action=Moving(self.state.selected), pending=None)
            Window.bind(mouse_pos=self._carry)

    def _carry(self, *_: Any) -> None:
        if not isinstance(self.tools.action, Moving):  # an edit from elsewhere let go of it
            self._end_grab()
        elif self._grabbed_at is not None:
            (x, y), before = self._pointer(), self._grabbed_at
            self._grabbed_at = x, y
            self._take([Dragged(x, y, x - before[0], y - before[1])])

    def _end_grab(self, drops: bool = False) -> None:
        if self._grabbed_at is not None:
            at, self._grabbed_at = self._grabbed_at, None
            Window.unbind(mouse_pos=self._carry)
            self._take([DragEnded(*at) if drops else DragCancelled()])

    def _pointer(self) -> tuple[float, float]:
        """Of the mouse, in pixels from the upper left corner."""
        x, y = self.to_widget(*Window.mouse_pos)
        return float(x - self.x), float(self.y + self.height - y)

    def hand_over(self) -> Any:
        """The finger that is down, for a menu that opened under it; None if there is none."""
        touch, self._touch = self._touch, None
        if touch is not None:
            touch.ungrab(self)
        self._take(self._gestures.cancel())
        return touch

    def zoom_by(self, factor: float) -> None:
        """Around the middle."""
        self.look_at(self.view.zoomed(factor, self.width / 2, self.height / 2))

    def cancel(self) -> bool:
        """Escape: calls off what is going on; False if there was nothing."""
        found = self._gestures.cancel()
        was_busy = bool(found) or self.tools.pending is not None or self._grabbed_at is not None
        self._end_grab()
        self._take(found)
        self.tools = ToolState(mode=self.tools.mode)
        self._draw_soon()
        return was_busy

    def _place(self, touch: Any) -> tuple[float, float]:
        """Pixels from the upper left corner."""
        return float(touch.x - self.x), float((self.y + self.height) - touch.y)

    def show_training(self, sparks: Mapping[str, Sparks], speed: float | None) -> None:
        """What goes on at the nodes, and how fast data flows, in lengths of a link in a second; None: not."""
        if not sparks and not self._training.sparks:
            return
        phase = None if speed is None else (self._training.phase or 0.0)
        self._training, self._speed = Training(phase, sparks), speed or 0.0
        self._draw_soon()

    def _tick(self, dt: float) -> None:
        self._flow(dt)
        self._take(self._gestures.tick(Clock.get_time()))

    def _flow(self, dt: float) -> None:
        """Moves the pulses; now and then only, where a frame is so slow that they would take all the time."""
        self._flowed_s += dt
        wait = SLOW_FLOW_S if dt > SLOW_TICK_S else 0.0
        if not self._speed or self._training.phase is None or self._flowed_s < max(wait, self._flow_wait_s):
            return
        if self.get_parent_window() is None:
            return
        phase = (self._training.phase + self._flowed_s * self._speed) % 1.0
        self._training = replace(self._training, phase=phase)
        self._flowed_s, self._flow_wait_s = 0.0, wait
        self._draw_soon()

    def _take(self, gestures: list[Gesture]) -> None:
        for gesture in gestures:
            stage = Stage(self.wiring, self.scene, self.view, self.state.selected, self._dp)
            self.tools, intents = handle(self.tools, gesture, stage)
            for intent in intents:
                self._carry_out(intent)
        if gestures:
            self._draw_soon()

    def _carry_out(self, intent: Intent) -> None:
        match intent:
            case LookAt(view):
                self.look_at(view)
            case Select(nodes):
                self.select(nodes)
            case Make(edit):
                self.change(edit)
            case Enter(node):
                self._document.show(editing.enter(self.state, node))
                self.refresh()
            case AskForNode():
                self._actions.ask_for_node(intent)
            case ShowMenu(x, y):
                self._actions.show_menu(self.x + x, (self.y + self.height) - y, intent)
            case EditFrame() | EditTitle():
                self._actions.edit_text(intent)
            case Tell(text):
                self._actions.tell(text)

    # -- drawing -------------------------------------------------------------------------------

    def _build_canvas(self) -> None:
        self._scissor = ScissorPush()
        self._matrix = MatrixInstruction()
        ground = ClearColor(*self._look.palette.canvas), ClearBuffers(clear_color=True)
        for instruction in (self._scissor, *ground):  # clearing is many times cheaper than a rectangle
            self.canvas.add(instruction)
        dots = InstructionGroup()
        self._grid_place = Translate()
        for instruction in (PushMatrix(), self._grid_place):
            dots.add(instruction)
        self._grid = MeshLayer(dots, "flat")
        dots.add(PopMatrix())
        self.canvas.add(dots)
        self._grid_key: tuple[float, ...] = ()
        world = InstructionGroup()
        world.add(PushMatrix())
        world.add(self._matrix)
        self._still = _Sheet(world)
        self._titles = MeshLayer(world, "glyph")
        self._drawn = _Sheet(world)
        world.add(PopMatrix())
        self.canvas.add(world)
        self._map_panel = MeshLayer(self.canvas, "box")
        self._map_nodes = MeshLayer(self.canvas, "flat")
        self._map_window = MeshLayer(self.canvas, "box")
        for layer in (self._map_panel, self._map_window):
            layer.uniform("px", 1.0)
        self.canvas.add(ScissorPop())

    def _arrange(self, *_: Any) -> None:
        is_untouched = self._fitted in (None, self.view)
        self.view = self.view.resized(self.width, self.height)
        if is_untouched and self.width > SMALLEST:
            self.fit()
        self._draw_soon()

    def _draw(self, _dt: float = 0.0) -> None:
        view, zoom = self.view, self.view.zoom
        x, y = self.to_window(*self.pos)
        self._scissor.x, self._scissor.y = int(x), int(y)
        self._scissor.width, self._scissor.height = max(int(self.width), 1), max(int(self.height), 1)
        left, top = self.x - view.x * zoom, (self.y + self.height) + view.y * zoom
        matrix = Matrix().multiply(Matrix().translate(left, top, 0)).multiply(Matrix().scale(zoom, -zoom, 1))
        self._matrix.matrix = matrix
        self._draw_grid(left, top, zoom)
        picture = Picture(
            self.scene, self._colours, self._text(zoom), zoom / self._density, self.state.selected
        )
        texture = picture.text.atlas.texture  # type: ignore[attr-defined]
        for sheet in (self._still, self._drawn):
            sheet.zoom(zoom)
        action = self.tools.action
        going = frozenset(
            self.scene.index[name]
            for name in (action.nodes if isinstance(action, Moving) and (action.dx or action.dy) else ())
            if name in self.scene.index
        )
        leaving = frozenset() if isinstance(action, Moving) and action.copies else going
        built = self._cover
        if built is None or leaving != self._moving or not is_covered(view.visible, built[0], zoom, built[1]):
            self._cover, self._moving = (cover_of(view.visible), zoom), leaving
            self._still.set(still(picture, self._cover[0], leaving), texture)
            self._titles.set(frame_texts(picture), QUAD, texture)
        above = overlay.drawn(picture, self.tools, going, moving)
        if self._training.sparks:
            above = overlay.with_training(above, picture, self._training, view.visible)
        self._drawn.set(above, texture)
        self._draw_map()
        self.canvas.ask_update()

    def _draw_map(self) -> None:
        place = overlay.MapView(self.view.visible, self.x, self.y, self.width, self.height)
        is_shown = overlay.has_map(self.scene, place, self._dp)
        key = (self.scene, *self.pos, *self.size) if is_shown else None
        if key != self._map_key:
            self._map_key = key
            scene = self.scene if is_shown else Snapshot()
            self._map_panel.set(overlay.map_panel(scene, self._colours, place, self._dp), QUAD)
            self._map_nodes.set(overlay.map_nodes(scene, self._colours, place, self._dp), QUAD)
        window = overlay.map_window(self.scene, self._colours, place, self._dp) if is_shown else no_boxes()
        self._map_window.set(window, QUAD)

    def _text(self, zoom: float) -> TextLayout:
        size = font_size(max(TITLE_SIZE * zoom, min(SMALLEST_TEXT * self._density, LARGEST_TITLE * zoom)))
        if size not in self._atlases:
            self._atlases[size] = TextLayout(GlyphAtlas(size))
        return self._atlases[size]

    def _draw_grid(self, left: float, top: float, zoom: float) -> None:
        gap = GRID_GAP * zoom
        while gap < CLOSEST_DOTS * self._dp:
            gap *= 4
        self._grid_place.xy = self.x + round((left - self.x) % gap), self.y + round((top - self.y) % gap)
        key = gap, self.width, self.height
        if key != self._grid_key:
            self._grid_key = key
            self._grid.set(grid(self.width, self.height, gap, 2 * self._dp, self._look.palette.line), QUAD)


def _modifiers() -> Modifiers:
    pressed = set(Window.modifiers)
    return Modifiers("shift" in pressed, bool(pressed & {"ctrl", "meta"}), "alt" in pressed)
