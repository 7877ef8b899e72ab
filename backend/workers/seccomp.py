"""The system calls that a closed worker may not make, as a seccomp filter. Linux only.

A filter denies by returning an error number, so library code that merely tries carries on. It
covers what landlock does not see: sockets, programs, other processes' signals and limits, file
modes and owners, kernel interfaces. Every thread of the process is covered at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
_X32_CALLS = 0x40000000
_CLONE_THREAD = 0x10000

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_COLUMN = {"x86_64": 0, "aarch64": 1}

_ABSENT = -1
_DENIED: dict[str, tuple[int, int]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, _ABSENT),
    "vfork": (58, _ABSENT),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    # Memory that neither the address space's limit nor the supervisor's count sees, or that stays behind.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # A library's file may be open to read; its owner could still change what it is.
    "fchmod": (91, 52),
    "fchown": (93, 55),
    "fsetxattr": (190, 7),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "chmod": (90, _ABSENT),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, _ABSENT),
    "lchown": (94, _ABSENT),
    "fchownat": (260, 54),
    "utime": (132, _ABSENT),
    "utimes": (235, _ABSENT),
    "futimesat": (261, _ABSENT),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "open_by_handle_at": (304, 265),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "iopl": (172, _ABSENT),
    "ioperm": (173, _ABSENT),
    "modify_ldt": (154, _ABSENT),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "fanotify_init": (300, 262),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "swapoff": (168, 225),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    # Flushing everybody's files over and over would stall the machine.
    "sync": (162, 81),
    "syncfs": (306, 267),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
}
_CLONE = (56, 220)
_LISTEN = (50, 201)
_NO_DESCRIPTOR = 0xFFFFFFFF
_CLONE3 = 435
_KILL = (62, 129)
_TGKILL = (234, 131)
_PRLIMIT = (302, 261)
_SET_AFFINITY = (203, 122)
_PRCTL = (157, 167)
_SET_PARENT_DEATH_SIGNAL = 1
_SENDING = (((44, 206), 3), ((46, 211), 2), ((307, 269), 3))
"""sendto, sendmsg and sendmmsg, and which of their arguments holds the flags."""
_FAST_OPEN = 0x20000000
_FCNTL = (72, 25)
_SET_OWNER, _SET_SIGNAL, _SET_OWNER_EX, _SET_LEASE = 8, 10, 15, 1024
_IOCTL = (16, 29)
_FORBIDDEN_IOCTLS = (
    0x40086602, 0x401C5820,  # a file's flags and attributes
    0x5412, 0x541C,  # what is typed at a terminal, and the console
    0x8901, 0x8902,  # a socket's owner
)  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def machine() -> str | None:
    """This machine's name if the filter knows its system calls."""
    name = platform.machine()
    return name if name in _AUDIT else None


def build_filter(machine_name: str, pid: int, listener: int | None = None) -> bytes:
    """The filter's instructions for a process that may signal only ``pid``, itself.

    ``listener``: the one descriptor on which it may listen; accepting needs no leave of its own, as
    nothing else can be listened on.
    """
    column = _COLUMN[machine_name]
    parts = [
        _load(_ARCHITECTURE_AT),
        _jump(_EQUAL, _AUDIT[machine_name], 1, 0),
        _return(_KILL_PROCESS),
        _load(_NUMBER_AT),
    ]
    if machine_name == "x86_64":
        parts += [_jump(_AT_LEAST, _X32_CALLS, 0, 1), _denied()]
    for numbers in _DENIED.values():
        if numbers[column] != _ABSENT:
            parts += [_jump(_EQUAL, numbers[column], 0, 1), _denied()]
    # glibc falls back from clone3 to clone, whose flags a filter can see.
    parts += [_jump(_EQUAL, _CLONE3, 0, 1), _return(_ERROR | errno.ENOSYS)]
    parts += _only_if(_CLONE[column], _ANY_BIT, _CLONE_THREAD)
    parts += _only_if(_LISTEN[column], _EQUAL, _NO_DESCRIPTOR if listener is None else listener)
    parts += _only_if(_KILL[column], _EQUAL, pid)
    parts += _only_if(_TGKILL[column], _EQUAL, pid)
    parts += _only_if(_PRLIMIT[column], _EQUAL, 0)
    parts += _only_if(_SET_AFFINITY[column], _EQUAL, 0)
    # Nobody's death but its parent's ends a worker that escaped its supervisor.
    parts += _unless(_PRCTL[column], 0, (_SET_PARENT_DEATH_SIGNAL,))
    # A listener that was shut down connects again by sending with TCP's fast open, past connect and landlock.
    for numbers, flags in _SENDING:
        parts += _unless(numbers[column], flags, (_FAST_OPEN,), _ANY_BIT)
    # A descriptor's owner gets the signal that is set for it, any signal, when there is something to read.
    parts += _unless(_FCNTL[column], 1, (_SET_OWNER, _SET_SIGNAL, _SET_OWNER_EX, _SET_LEASE))
    parts += _unless(_IOCTL[column], 1, _FORBIDDEN_IOCTLS)
    parts.append(_return(_ALLOW))
    return b"".join(parts)


def hide_io_uring() -> None:
    """Has this process find no io_uring, which libuv would take and the closed worker may not keep: what
    goes through such a ring passes every filter. Raises OSError; needs no_new_privs to be set."""
    name = machine()
    if name is None:
        raise OSError(errno.ENOSYS, f"no system call table for {platform.machine()}")
    number = _DENIED["io_uring_setup"][_COLUMN[name]]
    parts = [_load(_NUMBER_AT), _jump(_EQUAL, number, 0, 1), _return(_ERROR | errno.ENOSYS), _return(_ALLOW)]
    _install(name, b"".join(parts))


def install(listener: int | None = None) -> None:
    """Closes this process, all threads of it. Raises OSError; needs no_new_privs to be set."""
    name = machine()
    if name is None:
        raise OSError(errno.ENOSYS, f"no system call table for {platform.machine()}")
    _install(name, build_filter(name, os.getpid(), listener))


def _install(name: str, instructions: bytes) -> None:
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(_SECCOMP[name], _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program))
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def _only_if(number: int, comparison: int, value: int) -> list[bytes]:
    """Allows call ``number`` only where its first argument compares so with ``value``."""
    return [
        _jump(_EQUAL, number, 0, 4),
        _load(_ARGUMENT_AT),
        _jump(comparison, value, 1, 0),
        _denied(),
        _return(_ALLOW),
    ]


def _unless(number: int, argument: int, values: tuple[int, ...], comparison: int = _EQUAL) -> list[bytes]:
    """Allows call ``number`` but where that argument is one of ``values``, or has one of their bits."""
    body = [_load(_ARGUMENT_AT + 8 * argument)]
    for value in values:
        body += [_jump(comparison, value, 0, 1), _denied()]
    body.append(_return(_ALLOW))
    return [_jump(_EQUAL, number, 0, len(body)), *body]


def _load(offset: int) -> bytes:
    return struct.pack("<HBBI", _LOAD, 0, 0, offset)


def _jump(comparison: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", comparison, if_true, if_false, value)


def _return(value: int) -> bytes:
    return struct.pack("<HBBI", _RETURN, 0, 0, value)


def _denied() -> bytes:
    return _return(_ERROR | errno.EACCES)
