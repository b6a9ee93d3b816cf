"""One stream to one member, for as long as this process lives.

connect --> hello --> accepted: up --> frames out, answers in
   ^                                        |  broken, refused, silent: down
   +------ a jittered pause <---------------+  what waits is dropped; Raft sends it anew
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from bedplate.consensus.peer_channel import refusal
from bedplate.errors import BedplateError, Code

HELLO_S: Final = 3.0
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.02, 1.0

Q = TypeVar("Q")
R = TypeVar("R")
Open = Callable[[], "grpc.aio.StreamStreamCall[Any, Any]"]


class Lane(Generic[Q, R]):
    """`next_frame` waits for what is to be sent; `on_down` is told whether the lane was up."""

    def __init__(
        self,
        *,
        open_stream: Open,
        hello: Q,
        next_frame: Callable[[], Awaitable[Q]],
        on_answer: Callable[[R], None],
        on_up: Callable[[], None],
        on_down: Callable[[bool, BedplateError], None],
    ) -> None:
        self._open = open_stream
        self._hello = hello
        self._next_frame = next_frame
        self._on_answer = on_answer
        self._on_up = on_up
        self._on_down = on_down
        self._hurried = asyncio.Event()
        self.up = False

    def hurry(self) -> None:
        """There is no need to pause: the other side is there."""
        self._hurried.set()

    async def run(self) -> None:
        """Keep the stream up until cancelled."""
        pause = _PAUSE_MIN_S
        while True:
            error = await self._converse()
            was_up, self.up = self.up, False
            self._on_down(was_up, error)
            pause = _PAUSE_MIN_S if was_up else min(2 * pause, _PAUSE_MAX_S)
            self._hurried.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * (0.5 + random.random())):
                    await self._hurried.wait()

    async def _converse(self) -> BedplateError:
        """One stream, from hello to its end; why it ended."""
        call = self._open()
        try:
            async with asyncio.timeout(HELLO_S):
                await call.write(self._hello)
                first = await call.read()
            if first is grpc.aio.EOF:
                return lost("the stream was ended")
            self.up = True
            self._on_up()
            await until_one_ends(self._receive(call), self._send(call))
        except grpc.aio.AioRpcError as error:
            return refusal(error)
        except BedplateError as error:
            return error
        except TimeoutError:
            return lost("no answer")
        except asyncio.InvalidStateError:  # written to after its end
            return lost("the stream has ended")
        finally:
            call.cancel()
        return lost("the stream was ended")

    async def _receive(self, call: Any) -> None:
        while (answer := await call.read()) is not grpc.aio.EOF:
            self._on_answer(answer)

    async def _send(self, call: Any) -> None:
        while True:
            await call.write(await self._next_frame())


def lost(why: str) -> BedplateError:
    """A stream that broke without a status of its own."""
    return BedplateError(why, code=Code.UNAVAILABLE, reason="CONNECTION_LOST")


async def until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, cancel the others; raises what it, or one of them, raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
