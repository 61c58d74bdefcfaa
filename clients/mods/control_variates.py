"""SCAFFOLD on clients: a control variate that each keeps, beside the server's in the message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from hqde_fl.clients.control_variates import ControlVariate, control_variates
from hqde_fl.clients.message_fields import is_training
from hqde_fl.protocol.control_variates import CONTROL, without_control
from hqde_fl.protocol.members import (
    add_member_prefix,
    model_arrays,
    requested_members,
    uncopied_record,
)
from hqde_fl.protocol.records import from_record, to_record

OWN = "hqde.control-variate"
"""Name in the client's state of its control variates."""


@final
@dataclass(frozen=True)
class ControlVariatesMod:
    """A Flower mod that hands the control variates of a training message to the training.

    It acts if the message has control variates, and belongs outside of all mods that read the
    model's arrays. The client's own are kept in ``Context.state``, by member and weight; those of a
    training that fails stay as they were. Their change goes into the reply as full numbers: codecs
    pack the update alone.
    """

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Train with the message's control variates, and add the change of the client's own."""
        if not is_training(message):
            return call_next(message, context)
        message, record = without_control(message)
        if record is None:
            return call_next(message, context)
        members = requested_members(message)
        own = context.state.array_records.get(OWN, ArrayRecord())
        controls = {
            member or 0: ControlVariate(
                from_record(model_arrays(record, member)), from_record(model_arrays(own, member))
            )
            for member in (members if members is not None else (None,))
        }
        token = control_variates.set(controls)
        try:
            reply = call_next(message, context)
        finally:
            control_variates.reset(token)
        if reply.has_error():
            return reply
        kept, changes = dict[str, Array](own), dict[str, Array]()
        for member, control in controls.items():
            new, change = to_record(control.new), to_record(control.change)
            kept |= new if members is None else add_member_prefix(member, new)
            changes |= change if members is None else add_member_prefix(member, change)
        context.state[OWN] = uncopied_record(kept)
        content = RecordDict({**reply.content, CONTROL: uncopied_record(changes)})
        return Message(content, reply_to=message)
