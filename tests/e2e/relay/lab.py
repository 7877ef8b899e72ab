"""A small internet in network namespaces: public machines on one wire, and others behind NAT.

Linux' own NAT, as in most home routers: outgoing connections are masqueraded, incoming ones that
nobody asked for are dropped. Needs root and namespaces; ``why_not`` says what is missing.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

_numbers = itertools.count(1)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def why_not() -> str | None:
    """What this machine forbids or lacks; None where a lab can be built."""
    missing = [tool for tool in ("ip", "iptables") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install iproute2 iptables)"
    if os.geteuid() != 0:
        return "network namespaces with NAT rules need root"
    try:
        with open_lab() as lab:
            lab.public("probe")
            lab.behind_nat("inner")
    except RuntimeError as error:
        return f"this machine forbids network namespaces or NAT rules: {error}"
    return None


class Lab:
    """Made by ``open_lab``. Machines are namespaces, known by short names."""

    def __init__(self) -> None:
        self._prefix = f"cyx{os.getpid() % 100_000}n{next(_numbers)}"
        self._namespaces: list[str] = []
        self._hosts = itertools.count(2)
        self._networks = itertools.count(1)
        self._wire = self._new("wire")
        self._ip(self._wire, "link", "add", "br0", "type", "bridge")
        self._ip(self._wire, "link", "set", "br0", "up")

    def public(self, name: str) -> str:
        """A machine on the wire; its address."""
        address = f"203.0.113.{next(self._hosts)}"
        namespace = self._new(name)
        self._cable(namespace, "wan0", f"{address}/24", self._wire, None)
        self._ip(namespace, "route", "add", "default", "dev", "wan0")
        return address

    def behind_nat(self, name: str) -> str:
        """A machine behind a router of its own; the router's address on the wire."""
        outside = self.public(f"{name}-nat")
        router, inner = self.namespace(f"{name}-nat"), self._new(name)
        network = f"10.{next(self._networks)}.0"
        self._cable(inner, "lan0", f"{network}.2/24", router, f"{network}.1/24")
        self._ip(inner, "route", "add", "default", "via", f"{network}.1")
        self.run(f"{name}-nat", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for rule in (
            "-t nat -A POSTROUTING -o wan0 -j MASQUERADE",
            "-A INPUT -i wan0 -m conntrack --ctstate NEW,INVALID -j DROP",
            "-A FORWARD -i wan0 -m conntrack --ctstate NEW,INVALID -j DROP",
        ):
            self.run(f"{name}-nat", "iptables", "-w", "10", *rule.split())
        return outside

    def namespace(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def command(self, name: str, *command: str) -> list[str]:
        """What runs ``command`` on the machine."""
        return ["ip", "netns", "exec", self.namespace(name), *command]

    def run(self, name: str, *command: str) -> str:
        return run(*self.command(name, *command))

    def cut(self, name: str) -> None:
        """Every packet of the machine is lost, silently, until ``heal``."""
        for chain in ("INPUT", "OUTPUT"):
            self.run(name, "iptables", "-w", "10", "-I", chain, "!", "-i" if chain == "INPUT" else "-o",
                     "lo", "-j", "DROP")  # fmt: skip

    def heal(self, name: str) -> None:
        for chain in ("INPUT", "OUTPUT"):
            self.run(name, "iptables", "-w", "10", "-D", chain, "1")

    def close(self) -> None:
        for namespace in reversed(self._namespaces):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=60)

    def _new(self, name: str) -> str:
        namespace = self.namespace(name)
        run("ip", "netns", "add", namespace)
        self._namespaces.append(namespace)
        self._ip(namespace, "link", "set", "lo", "up")
        return namespace

    def _cable(self, inner: str, device: str, address: str, outer: str, outer_address: str | None) -> None:
        """Between ``inner`` and ``outer``; without an address there, into its bridge."""
        far = f"p{next(_numbers)}"
        self._ip(inner, "link", "add", device, "type", "veth", "peer", "name", far, "netns", outer)
        self._ip(inner, "addr", "add", address, "dev", device)
        self._ip(inner, "link", "set", device, "up")
        if outer_address is None:
            self._ip(outer, "link", "set", far, "master", "br0")
        else:
            self._ip(outer, "addr", "add", outer_address, "dev", far)
        self._ip(outer, "link", "set", far, "up")

    def _ip(self, namespace: str, *arguments: str) -> None:
        run("ip", "-n", namespace, *arguments)


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Raises RuntimeError where the machine forbids it."""
    lab = Lab.__new__(Lab)
    lab._namespaces = []
    try:
        lab.__init__()  # type: ignore[misc]
        yield lab
    finally:
        lab.close()
