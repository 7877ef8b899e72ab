"""Arrays onto the graphics card: meshes of boxes, ribbons and glyphs, and the atlas that glyphs come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from kivy.core.text import Label
from kivy.graphics import Mesh, RenderContext
from kivy.graphics.texture import Texture

from engine_app.scene.meshes import (
    BOX_FORMAT,
    FLAT_FORMAT,
    GLYPH_FORMAT,
    RIBBON_FORMAT,
    SHADOW_DROP,
    SHADOW_SOFTNESS,
    Integers64,
)
from engine_app.scene.snapshot import Floats
from engine_app.scene.text import Glyph

MAX_VERTICES = 65_535
"""Of one mesh: its indices have 16 bits."""
ATLAS_SIDE = 1024
FONT_SIZES = (8, 11, 14, 18, 24, 32, 44, 60)
"""Glyphs are drawn at the next larger of these, so that text is neither coarse nor blurred."""

_HEADER = """
#ifdef GL_ES
precision highp float;
#endif
"""
_PLACE = "gl_Position = projection_mat * modelview_mat * vec4(vPosition, 0.0, 1.0);"
_MATRICES = "uniform mat4 modelview_mat; uniform mat4 projection_mat;"

BOX_VERTEX = f"""{_HEADER}
attribute vec2 vPosition; attribute vec2 vLocal; attribute vec4 vShape;
attribute vec4 vFill; attribute vec4 vLine; attribute vec4 vHead;
{_MATRICES}
varying vec2 local; varying vec4 shape; varying vec4 fill; varying vec4 line; varying vec4 head;
void main() {{ local = vLocal; shape = vShape; fill = vFill; line = vLine; head = vHead; {_PLACE} }}
"""
BOX_FRAGMENT = f"""{_HEADER}
varying vec2 local; varying vec4 shape; varying vec4 fill; varying vec4 line; varying vec4 head;
uniform float px;
float outside(vec2 at) {{
  vec2 q = abs(at) - shape.xy + shape.z;
  return min(max(q.x, q.y), 0.0) + length(max(q, 0.0)) - shape.z;
}}
void main() {{
  float d = outside(local);
  vec3 colour = fill.rgb;
  if (head.a > 0.0)
    colour = mix(head.rgb, colour, clamp((local.y + shape.y - head.a) * px + 0.5, 0.0, 1.0));
  if (line.a > 0.0) {{
    float width = max(line.a, 1.1 / px);
    colour = mix(colour, line.rgb, clamp((d + width) * px + 0.5, 0.0, 1.0));
  }}
  float inked = fill.a * clamp(0.5 - d * px, 0.0, 1.0);
  // A black shadow that falls a little lower, below what is inked: both in one pass.
  float away = outside(local - vec2(0.0, {SHADOW_DROP}));
  float soft = 1.0 - smoothstep(-{SHADOW_SOFTNESS}, {SHADOW_SOFTNESS}, away);
  float alpha = inked + soft * soft * shape.w * (1.0 - inked);
  gl_FragColor = vec4(colour * (inked / max(alpha, 0.001)), alpha);
}}
"""
RIBBON_VERTEX = f"""{_HEADER}
attribute vec2 vPosition; attribute vec2 vSide; attribute vec4 vColour;
{_MATRICES}
varying vec2 side; varying vec4 colour;
void main() {{ side = vSide; colour = vColour; {_PLACE} }}
"""
RIBBON_FRAGMENT = f"""{_HEADER}
varying vec2 side; varying vec4 colour; uniform float px;
void main() {{
  float d = (1.0 - abs(side.x)) * side.y * px;
  gl_FragColor = vec4(colour.rgb, colour.a * clamp(d, 0.0, 1.0));
}}
"""
GLYPH_VERTEX = f"""{_HEADER}
attribute vec2 vPosition; attribute vec2 vTexture; attribute vec4 vColour;
{_MATRICES}
varying vec2 place; varying vec4 colour;
void main() {{ place = vTexture; colour = vColour; {_PLACE} }}
"""
GLYPH_FRAGMENT = f"""{_HEADER}
varying vec2 place; varying vec4 colour; uniform sampler2D texture0;
void main() {{ gl_FragColor = vec4(colour.rgb, colour.a * texture2D(texture0, place).a); }}
"""
FLAT_VERTEX = f"""{_HEADER}
attribute vec2 vPosition; attribute vec4 vColour;
{_MATRICES}
varying vec4 colour;
void main() {{ colour = vColour; {_PLACE} }}
"""
FLAT_FRAGMENT = f"""{_HEADER}
varying vec4 colour;
void main() {{ gl_FragColor = colour; }}
"""

_KINDS = {
    "box": (BOX_VERTEX, BOX_FRAGMENT, BOX_FORMAT),
    "ribbon": (RIBBON_VERTEX, RIBBON_FRAGMENT, RIBBON_FORMAT),
    "glyph": (GLYPH_VERTEX, GLYPH_FRAGMENT, GLYPH_FORMAT),
    "flat": (FLAT_VERTEX, FLAT_FRAGMENT, FLAT_FORMAT),
}


class MeshLayer:
    """As many meshes as the vertices need, in one shader. ``kind``: box, ribbon, glyph or flat."""

    def __init__(self, parent: Any, kind: str) -> None:
        vertex, fragment, form = _KINDS[kind]
        self._context = RenderContext(
            use_parent_projection=True, use_parent_modelview=True, vs=vertex, fs=fragment
        )
        if not self._context.shader.success:
            raise RuntimeError(f"the graphics card refuses the shader for a {kind}")
        self._format = [(name.encode(), count, "float") for name, count in form]
        self._meshes: list[Any] = []
        self._texture: Any = None
        self._is_empty = True
        parent.add(self._context)

    def set(self, vertices: Floats, indices: Integers64, texture: Any = None) -> None:
        """``vertices``: (shapes, vertices of one, floats); ``indices``: of one shape."""
        if not len(vertices) and self._is_empty:
            return
        self._is_empty = not len(vertices)
        each = vertices.shape[1]
        room = MAX_VERTICES // each
        chunks = [vertices[start : start + room] for start in range(0, len(vertices), room)]
        while len(self._meshes) < len(chunks):
            mesh = Mesh(fmt=self._format, mode="triangles")
            self._meshes.append(mesh)
            self._context.add(mesh)
        for mesh, chunk in zip(self._meshes, chunks, strict=False):
            if texture is not None and mesh.texture is not texture:
                mesh.texture = texture
            mesh.vertices = np.ascontiguousarray(chunk, np.float32).ravel()
            mesh.indices = _indices(len(chunk), each, indices)
        for mesh in self._meshes[len(chunks) :]:
            mesh.vertices, mesh.indices = [], []

    def uniform(self, name: str, value: Any) -> None:
        self._context[name] = value


def _indices(count: int, each: int, indices: Integers64) -> npt.NDArray[np.uint16]:
    return (np.arange(count)[:, None] * each + indices).astype(np.uint16).ravel()


class GlyphAtlas:
    """A texture with the glyphs that were asked for, at one size. A full one gives blanks for new ones."""

    def __init__(self, size: int) -> None:
        self.size = float(size)
        self.texture = Texture.create(size=(ATLAS_SIDE, ATLAS_SIDE), colorfmt="rgba")
        self.texture.blit_buffer(bytes(ATLAS_SIDE * ATLAS_SIDE * 4), colorfmt="rgba", bufferfmt="ubyte")
        self.texture.mag_filter = self.texture.min_filter = "linear"
        self._glyphs: dict[tuple[str, bool], Glyph] = {}
        self._x = self._y = self._row = 1

    def glyph(self, character: str, bold: bool) -> Glyph:
        key = character, bold
        if key not in self._glyphs:
            self._glyphs[key] = self._draw(character, bold)
        return self._glyphs[key]

    def _draw(self, character: str, bold: bool) -> Glyph:
        label = Label(text=character if character.isprintable() else "?", font_size=self.size, bold=bold)
        label.refresh()
        width, height = label.texture.size
        if self._x + width + 1 > ATLAS_SIDE:
            self._x, self._y, self._row = 1, self._y + self._row + 1, 1
        if self._y + height + 1 > ATLAS_SIDE:
            return Glyph((0.0, 0.0, 0.0, 0.0), float(width), float(height), float(width))
        x, y = self._x, self._y
        self.texture.blit_buffer(
            label.texture.pixels, pos=(x, y), size=(width, height), colorfmt="rgba", bufferfmt="ubyte"
        )
        self._x, self._row = x + width + 1, max(self._row, height)
        side = float(ATLAS_SIDE)
        # What was blitted lies top row first, so v grows downwards like the world's y.
        uv = (x / side, y / side, (x + width) / side, (y + height) / side)
        return Glyph(uv, float(width), float(height), float(width))


def font_size(pixels: float) -> int:
    """The size of the atlas for text that is so high."""
    return next((size for size in FONT_SIZES if size >= pixels * 0.95), FONT_SIZES[-1])
