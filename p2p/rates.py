"""How fast the transfers of one program may go together, each way."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from p2p.transfer_rate import TokenBucket


class RateLimit:
    """Of one direction; without ``bytes_per_s`` there is no limit."""

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self._bucket = TokenBucket(bytes_per_s) if bytes_per_s is not None else None

    async def wait(self, size: int) -> None:
        """Until ``size`` more bytes may move; first come, first served."""
        if self._bucket is None:
            return
        delay_s = self._bucket.take(size, trio.current_time())
        if delay_s <= 0:
            return
        try:
            await trio.sleep(delay_s)
        except trio.Cancelled:
            self._bucket.give_back(size)
            raise


@dataclass(frozen=True, slots=True)
class Rates:
    upload: RateLimit
    download: RateLimit

    @staticmethod
    def of(upload: int | None = None, download: int | None = None) -> Rates:
        """In bytes per second."""
        return Rates(RateLimit(upload), RateLimit(download))
