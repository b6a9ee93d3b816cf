"""Real things fit their ports. What mypy proves here needs no running."""

import inspect

from bedplate.ports import Changes, KeyValue
from bedplate.storage.engine import Engine
from bedplate.storage.watch import WatchStream


def key_value(engine: Engine) -> KeyValue:
    return engine


def changes(stream: WatchStream) -> Changes:
    return stream


def test_the_engine_has_every_method_of_its_port() -> None:
    for port, real in ((KeyValue, Engine), (Changes, WatchStream)):
        for name, method in inspect.getmembers(port, inspect.isfunction):
            if name.startswith("_") and name not in ("__aiter__", "__anext__"):
                continue
            expected = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(real, name)).parameters) == expected
