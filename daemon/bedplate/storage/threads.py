"""Bounded work in a thread that is waited for, whatever happens to whoever asked for it."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(step: Callable[[], T]) -> T:
    """Run a bounded step in a thread. Cancelled meanwhile, it still waits for the step's end."""
    running = asyncio.ensure_future(asyncio.to_thread(step))
    try:
        return await asyncio.shield(running)
    finally:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue  # once more; the first one is on its way up already
        running.exception()  # seen, when nobody else will
