"""Turns one object file of ``clang -target bpfel`` into a program that Solana loads. Pure.

The output is SBPF version 0, the ELF layout that every cluster accepts: text, read-only data, a dynamic
section, and one relocation for each system call, which the loader binds by name. Writable data, jump
tables and calls into other object files are refused: a Solana program cannot have them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

EM_BPF = 247
SHT_SYMTAB, SHT_NOBITS, SHT_REL = 2, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
STT_SECTION = 3
R_BPF_64_64, R_BPF_64_ABS64, R_BPF_64_32 = 1, 2, 10
R_SBF_SYSCALL = 10
CALL, RELATIVE_CALL = 0x85, 0x10

PROGRAM_REGION = 1 << 32
"""Where the virtual machine maps the file."""
TEXT_AT = 64 + 3 * 56
"""Behind the ELF header and three program headers."""
ENTRY = "entrypoint"


class LinkError(Exception):
    """The object uses something that a Solana program cannot have."""


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    type: int
    flags: int
    data: bytes
    link: int
    info: int
    align: int


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    info: int
    section: int
    """0: defined elsewhere, that is, a system call."""
    value: int


@dataclass(frozen=True, slots=True)
class ObjectFile:
    sections: list[Section]
    symbols: list[Symbol]


@dataclass(slots=True)
class Image:
    """The program while it is put together. ``places``: section index → (is text, offset in it)."""

    text: bytearray = field(default_factory=bytearray)
    rodata: bytearray = field(default_factory=bytearray)
    places: dict[int, tuple[bool, int]] = field(default_factory=dict)
    syscalls: list[tuple[int, str]] = field(default_factory=list)
    """(offset in the text, name)."""

    def address(self, symbol: Symbol, addend: int) -> int:
        """Of read-only data, as the program sees it."""
        is_text, offset = self.places[symbol.section]
        if is_text:
            raise LinkError(f"the address of code is taken: {symbol.name}")
        return PROGRAM_REGION + TEXT_AT + len(self.text) + offset + symbol.value + addend


def link(object_file: bytes) -> bytes:
    """The program file. Raises LinkError."""
    parsed = read_object(object_file)
    image = lay_out(parsed)
    for section in parsed.sections:
        if section.type == SHT_REL and section.info in image.places:
            relocate(parsed, image, section)
    entry = next((s for s in parsed.symbols if s.name == ENTRY and s.section), None)
    if entry is None:
        raise LinkError(f"no function {ENTRY}")
    return write_program(image, TEXT_AT + image.places[entry.section][1] + entry.value)


def read_object(data: bytes) -> ObjectFile:
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (1, EM_BPF):
        raise LinkError("not a relocatable 64-bit little-endian BPF object")
    (headers_at,) = struct.unpack_from("<Q", data, 40)
    count, names_index = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, headers_at + 64 * i) for i in range(count)]
    names = _contents(data, headers[names_index])
    sections = [
        Section(_string(names, h[0]), h[1], h[2], _contents(data, h), h[6], h[7], h[8] or 1) for h in headers
    ]
    table = next(section for section in sections if section.type == SHT_SYMTAB)
    strings = sections[table.link].data
    symbols = [
        Symbol(_string(strings, name), info, section, value)
        for name, info, _, section, value, _ in struct.iter_unpack("<IBBHQQ", table.data)
    ]
    return ObjectFile(sections, symbols)


def _contents(data: bytes, header: tuple[int, ...]) -> bytes:
    return b"" if header[1] == SHT_NOBITS else data[header[4] : header[4] + header[5]]


def _string(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def lay_out(parsed: ObjectFile) -> Image:
    """Puts every loaded section behind the others of its kind, ``.text`` first."""
    image = Image()
    numbered = sorted(enumerate(parsed.sections), key=lambda item: (item[1].name != ".text", item[0]))
    for index, section in numbered:
        if not section.flags & SHF_ALLOC or section.name == ".eh_frame":
            continue
        if section.flags & SHF_WRITE or section.type == SHT_NOBITS:
            if section.data or section.type == SHT_NOBITS:
                raise LinkError(f"writable section {section.name}")
            continue
        is_text = bool(section.flags & SHF_EXECINSTR)
        target = image.text if is_text else image.rodata
        target += bytes(-len(target) % (8 if is_text else max(8, section.align)))
        image.places[index] = (is_text, len(target))
        target += section.data
    image.rodata += bytes(-len(image.rodata) % 8)
    return image


def relocate(parsed: ObjectFile, image: Image, section: Section) -> None:
    is_text, base = image.places[section.info]
    for offset, info in struct.iter_unpack("<QQ", section.data):
        kind, symbol = info & 0xFFFFFFFF, parsed.symbols[info >> 32]
        at = base + offset
        if is_text and kind == R_BPF_64_64:
            _load_address(image, at, symbol)
        elif is_text and kind == R_BPF_64_32:
            _call(image, at, symbol)
        elif not is_text and kind == R_BPF_64_ABS64:
            (addend,) = struct.unpack_from("<Q", image.rodata, at)
            struct.pack_into("<Q", image.rodata, at, image.address(symbol, addend))
        else:
            raise LinkError(f"relocation type {kind} in {parsed.sections[section.info].name}")


def _load_address(image: Image, at: int, symbol: Symbol) -> None:
    """``lddw``: the immediate is split over two instruction slots."""
    low, high = struct.unpack_from("<I4xI", image.text, at + 4)
    address = image.address(symbol, high << 32 | low)
    struct.pack_into("<I", image.text, at + 4, address & 0xFFFFFFFF)
    struct.pack_into("<I", image.text, at + 12, address >> 32)


def _call(image: Image, at: int, symbol: Symbol) -> None:
    if image.text[at] != CALL:
        raise LinkError(f"a call relocation on opcode {image.text[at]:#x}")
    image.text[at + 1] = RELATIVE_CALL
    if symbol.section == 0:
        image.syscalls.append((at, symbol.name))
        struct.pack_into("<i", image.text, at + 4, -1)
        return
    _, base = image.places[symbol.section]
    (immediate,) = struct.unpack_from("<i", image.text, at + 4)
    addend = (immediate + 1) * 8 if symbol.info & 15 == STT_SECTION else 0
    target = base + symbol.value + addend
    struct.pack_into("<i", image.text, at + 4, (target - at) // 8 - 1)


# -- writing: text, read-only data, dynamic section, dynamic symbols, their names, relocations

SECTION_NAMES = (".text", ".rodata", ".dynamic", ".dynsym", ".dynstr", ".rel.dyn", ".shstrtab")


def write_program(image: Image, entry: int) -> bytes:
    names = sorted({name for _, name in image.syscalls})
    strings, name_at = _string_table([ENTRY, *names])
    symbols = bytes(24) + struct.pack("<IBBHQQ", name_at[ENTRY], 0x12, 0, 1, entry, 0)
    symbols += b"".join(struct.pack("<IBBHQQ", name_at[name], 0x10, 0, 0, 0, 0) for name in names)
    relocations = b"".join(
        struct.pack("<QQ", TEXT_AT + at, (2 + names.index(name)) << 32 | R_SBF_SYSCALL)
        for at, name in image.syscalls
    )
    section_names, section_name_at = _string_table(SECTION_NAMES)

    dynamic_size = 16 * (9 if relocations else 6)
    rodata_at = TEXT_AT + len(image.text)
    dynamic_at = rodata_at + len(image.rodata)
    symbols_at = dynamic_at + dynamic_size
    strings_at = symbols_at + len(symbols)
    relocations_at = strings_at + len(_padded(strings))
    names_at = relocations_at + len(relocations)
    headers_at = names_at + len(_padded(section_names))

    tags = [(30, 4), (6, symbols_at), (11, 24), (5, strings_at), (10, len(strings)), (0, 0)]
    if relocations:
        tags[1:1] = [(17, relocations_at), (18, len(relocations)), (19, 16)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)

    # Name, type, flags, offset, size, link, info, entry size; address is the offset where it is loaded.
    table = [
        (".text", 1, 6, TEXT_AT, len(image.text), 0, 0, 0),
        (".rodata", 1, 2, rodata_at, len(image.rodata), 0, 0, 0),
        (".dynamic", 6, 3, dynamic_at, len(dynamic), 5, 0, 16),
        (".dynsym", 11, 2, symbols_at, len(symbols), 5, 1, 24),
        (".dynstr", 3, 2, strings_at, len(strings), 0, 0, 0),
        (".rel.dyn", 9, 2, relocations_at, len(relocations), 4, 0, 16),
        (".shstrtab", 3, 0, names_at, len(section_names), 0, 0, 0),
    ]
    section_headers = bytes(64) + b"".join(
        struct.pack(
            "<IIQQQQIIQQ", section_name_at[name], kind, flags, at if flags else 0, at, size, to, info, 8, each
        )
        for name, kind, flags, at, size, to, info, each in table
    )
    segments = [
        (1, 5, TEXT_AT, len(image.text) + len(image.rodata)),
        (1, 4, dynamic_at, names_at - dynamic_at),
        (2, 6, dynamic_at, len(dynamic)),
    ]
    program_headers = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, 8) for kind, flags, at, size in segments
    )
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 3, EM_BPF, 1, entry, 64, headers_at, 0, 64, 56, 3, 64, len(table) + 1, len(table)
    )
    code = header + program_headers + bytes(image.text) + bytes(image.rodata)
    return (
        code + dynamic + symbols + _padded(strings) + relocations + _padded(section_names) + section_headers
    )


def _string_table(names: list[str] | tuple[str, ...]) -> tuple[bytes, dict[str, int]]:
    table, offsets = b"\0", {}
    for name in names:
        offsets[name] = len(table)
        table += name.encode() + b"\0"
    return table, offsets


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)
