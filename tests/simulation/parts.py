"""Which class stands for which part: the real ones, but where a test plants another."""

from collections.abc import Callable

from msgspec import Struct

from agent.worker import Worker
from manager.dispatcher.draining import Draining
from manager.dispatcher.service import Dispatcher
from manager.dispatcher.sessions import Sessions


class Parts(Struct, frozen=True, kw_only=True):
    """How managers and agents of a world are made."""

    worker: type[Worker] = Worker
    sessions: Callable[..., Sessions] = Sessions
    draining: Callable[..., Draining] = Draining
    dispatcher: Callable[..., Dispatcher] = Dispatcher


REAL = Parts()
