"""One message from the root to an edge, and the Flower mods between both.

Mods call the edge like a function, and wait for its reply. All edges run in lockstep in one thread,
so the mods run twice: once, with a copy of the context, to learn which message reaches the edge,
and again, once the edge has its reply. Mods are functions of message, context and reply.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, final

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from hqde_fl.strategies.edges.edge import failed
from hqde_fl.terminal_text import describe_error


class _Reached(BaseException):
    """Raised in place of the edge's reply; no handler of a mod catches it."""

    def __init__(self, message: Message) -> None:
        super().__init__()
        self.message = message


@final
@dataclass(eq=False)
class EdgeCall:
    """A message from the root to an edge.

    Parameters
    ----------
    edge : int
        The edge.
    message : Message
        The message, as the root sent it.
    context : Context
        The edge's context.
    mods : Sequence[Mod]
        The mods, the outermost first.
    inner : Message
        The message that reaches the edge.
    reply : Message or None
        The edge's reply to it; None until it is known.
    is_final : bool
        True if the reply has come from a mod, and the edge was not called.
    seconds : float
        Virtual seconds of the edge's rounds.
    """

    edge: int
    message: Message
    context: Context
    mods: Sequence[Mod]
    inner: Message
    reply: Message | None = None
    is_final: bool = False
    seconds: float = 0.0

    @classmethod
    def begin(cls, edge: int, message: Message, context: Context, mods: Sequence[Mod]) -> Self:
        """Return the call with the message that reaches the edge, or with a mod's own reply."""
        trial = copy.copy(context)
        trial.state = RecordDict(dict(context.state))
        call = cls(edge, message, context, mods, message)
        try:
            call.reply = call._reply(trial, _reach)
            call.is_final = True
            context.state = trial.state
        except _Reached as reached:
            call.inner = reached.message
        return call

    def finish(self) -> Message:
        """Return the reply to the root, which has passed the mods on its way out."""
        assert self.reply is not None
        if self.is_final or not self.mods:
            return self.reply
        return self._reply(self.context, self._answer)

    def _answer(self, message: Message, context: Context) -> Message:
        assert self.reply is not None
        return self.reply

    def _reply(self, context: Context, edge: ClientAppCallable) -> Message:
        """Return what the mods make of an edge's reply; an error if one of them raises one."""
        for mod in reversed(self.mods):
            edge = partial(_through, mod, edge)
        try:
            return edge(self.message, context)
        except Exception as error:
            return failed(self.message, f"edge {self.edge}: {describe_error(error)}")


def _reach(message: Message, context: Context) -> Message:
    raise _Reached(message)


def _through(mod: Mod, call_next: ClientAppCallable, message: Message, context: Context) -> Message:
    return mod(message, context, call_next)
