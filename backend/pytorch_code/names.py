"""Names in generated source, made from the ids of nodes: whatever an id, a plain identifier. Pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

RESERVED = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children code compile cpu cuda
    delete_all_unused_submodules delete_submodule double dump_patches eval extra_repr float forward
    get_buffer get_extra_state get_parameter get_submodule graph half ipu load_state_dict meta modules mtia
    named_buffers named_children named_modules named_parameters parameters print_readable recompile
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to
    to_empty to_folder train training type xpu zero_grad
    """.split()  # noqa: SIM905 - a list of sixty words
)
"""Attributes of a module, which a layer of that name would hide."""
SCOPE = frozenset(
    "self torch nn functional take_every one_hot tokenize samples labels batch super range".split()  # noqa: SIM905
)
"""What the body of ``forward`` reads, which a value of that name would hide."""
_CODED = "node_x"


def is_kept(node_id: str) -> bool:
    """Whether an id is used as it is. The compiler then names its weights so, too."""
    return (
        node_id.isidentifier()
        and node_id.isascii()
        and not keyword.iskeyword(node_id)
        and not node_id.startswith(("_", _CODED))
        and node_id not in RESERVED
        and node_id not in SCOPE
    )


class Names:
    """Names of the nodes of a document and its bodies: one for each id, none for two."""

    def __init__(self, ids: Iterable[str]) -> None:
        every = tuple(dict.fromkeys(ids))
        self._used = {node_id for node_id in every if is_kept(node_id)}
        self._names = {
            node_id: node_id if is_kept(node_id) else self.fresh(_cleaned(node_id)) for node_id in every
        }
        self._classes: set[str] = set()

    def __getitem__(self, node_id: str) -> str:
        return self._names[node_id]

    def fresh(self, wanted: str) -> str:
        """``wanted``, or with a number where that is taken."""
        return _unique(wanted, self._used)

    def fresh_class(self, wanted: str, reserved: frozenset[str]) -> str:
        """The same in the form of a class's name."""
        name = "".join(part[:1].upper() + part[1:] for part in _words(wanted)) or "Model"
        if not name[0].isalpha() or keyword.iskeyword(name) or name in reserved:
            name = f"Model{name}"
        return _unique(name, self._classes)

    def renamed(self, of: Iterable[str]) -> dict[str, str]:
        """What parts of weights' names are called here, by what the compiler may call them."""
        changed = [(node_id, self._names[node_id]) for node_id in dict.fromkeys(of)]
        changed = [(node_id, name) for node_id, name in changed if node_id != name]
        coded = {_CODED + node_id.encode().hex(): name for node_id, name in changed}
        plain = {node_id: name for node_id, name in changed if node_id.isidentifier() and node_id.isascii()}
        return coded | plain


def _unique(wanted: str, used: set[str]) -> str:
    name, number = wanted, 2
    while name in used:
        name, number = f"{wanted}_{number}", number + 1
    used.add(name)
    return name


def _cleaned(node_id: str) -> str:
    name = "_".join(_words(node_id))[:64]
    if not name[:1].isalpha() or name.startswith(_CODED):
        return f"layer_{name}" if name else "layer"
    return name if is_kept(name) else f"{name}_layer"


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^0-9A-Za-z]+", text) if word]
