"""How fast an endpoint is asked: so many requests and tokens a minute, and not before it wants to be asked again."""

import asyncio

from aiolimiter import AsyncLimiter

BURST_SECONDS = 1.0
"""What may come at once after a pause: as much as the rate gives in this time."""


class Pace:
    """Lets requests pass at a rate. In any minute at most the given number passes."""

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._requests = _limiter(requests_per_minute)
        self._tokens = _limiter(tokens_per_minute)
        self._not_before = 0.0

    async def take(self, tokens: int) -> None:
        """Wait until a request of so many tokens may start."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            # A limiter gives at most its burst at once; what is larger is taken in pieces.
            whole, rest = divmod(tokens, int(self._tokens.max_rate))
            for piece in [int(self._tokens.max_rate)] * whole + [rest]:
                await self._tokens.acquire(piece)
        # The end of a pause can be put off while it lasts, so it is looked at again.
        while (pause := self._not_before - asyncio.get_running_loop().time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(pause)

    def hold(self, seconds: float) -> None:
        """Start no request for a while: an endpoint that asks one client to wait means all its requests."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)


def _limiter(per_minute: int | None) -> AsyncLimiter | None:
    """A leaky bucket that never lets more than `per_minute` through in a minute: burst and leak share the minute."""
    if per_minute is None:
        return None
    burst = max(1, int(per_minute * BURST_SECONDS / 60))
    leak = max(per_minute - burst, per_minute / 2)
    return AsyncLimiter(burst, 60 * burst / leak)
