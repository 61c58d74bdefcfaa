"""HQDEStrategy with an ensemble whose members are trained by some of the clients each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict

from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.downlink import DownlinkMod
from hqde_fl.codec import ErrorFeedback, Identity, Quantized
from hqde_fl.errors import BoundError, ConfigError
from hqde_fl.protocol.members import TAGS, member_name, select_member
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import ByzantineFilter, CenteredClipping, Krum, Mean, Median, TrimmedMean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Uniform
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD
from hqde_fl.strategies.state import ServerState
from tests.strategies.ensembles import Clients, D, run, start, step
from tests.strategies.federation import HOSTILE, MODEL, Recorder, federation, strategy_with

DEALT = Ensemble(3, "round-robin", 2)
SEED = 0


def dealt(partition: int, number: int = 1, ensemble: Ensemble = DEALT) -> tuple[int, ...]:
    return ensemble.assigned_members(partition, number, Seeds(SEED))


def test_each_member_is_the_mean_over_the_clients_that_trained_it() -> None:
    recorder, clients = Recorder(), Clients(7)
    models = run(strategy_with(recorder, ensemble=DEALT), clients, rounds=2)
    for member, model in enumerate(models):
        expected = start(3)[f"member-{member}/w"]
        for number in (1, 2):
            clients_of_member = [p for p in range(7) if member in dealt(p, number)]
            expected = expected + torch.stack([step(p, member) for p in clients_of_member]).mean(
                dim=0
            )
        torch.testing.assert_close(model["w"], expected)
        assert int(model["steps"]) == 2
    for number, partition, record in clients.seen:
        named = {member_name(member) for member in dealt(partition, number)}
        assert {name.split("/")[0] for name in record} == named
    for number, record in enumerate(recorder.rounds[1:], start=1):
        assert record.note is None
        assert (record.asked, record.kept) == (7, 7)
        assert sum(client.influence for client in record.clients) == pytest.approx(1)
        assert all(c.members == dealt(c.partition or 0, number) for c in record.clients)


def test_one_model_is_sent_as_ever() -> None:
    sent = []

    def spy(message: Any, context: Any, call_next: Any) -> Any:
        sent.append(message.content)
        return call_next(message, context)

    strategy = strategy_with(Recorder(), ensemble=Ensemble())
    strategy.start(federation(None, mods=[spy]), to_record(MODEL), 1)
    told = {"server-round": 1, "roles": "ttc", "leave-out-unchanged": True}
    told |= {"roles-unsettled": True}
    assert all(dict(content["config"]) == told for content in sent)
    assert all(list(content["arrays"]) == list(MODEL) for content in sent)


# --- what comes back ------------------------------------------------------------------------------


def arrays(change: Callable[[dict[str, Array]], Any]) -> Callable[[RecordDict], RecordDict]:
    """Return a tampering that changes the arrays of a reply."""

    def tamper(content: RecordDict) -> RecordDict:
        sent = dict(content.array_records["arrays"])
        record = ArrayRecord()
        for name, array in (change(sent) or sent).items():
            record[name] = array
        content["arrays"] = record
        return content

    return tamper


def config(change: Callable[[dict[str, Any]], Any]) -> Callable[[RecordDict], RecordDict]:
    """Return a tampering that changes the tags of a reply."""

    def tamper(content: RecordDict) -> RecordDict:
        change(content.config_records[TAGS])  # type: ignore[arg-type]
        return content

    return tamper


HELD = dealt(HOSTILE)
FIRST, SECOND = (member_name(member) for member in HELD)
OTHER = member_name(({0, 1, 2} - set(HELD)).pop())


def exchanged(arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the members' arrays under each other's names."""
    other = {FIRST: SECOND, SECOND: FIRST}
    return {f"{other[k.split('/')[0]]}/{k.split('/')[1]}": array for k, array in arrays.items()}


def swap_tags(tags: dict[str, Any]) -> None:
    tags[f"{FIRST}/tag"], tags[f"{SECOND}/tag"] = tags[f"{SECOND}/tag"], tags[f"{FIRST}/tag"]


HOSTILE_REPLIES: dict[str, tuple[Callable[[RecordDict], RecordDict], str]] = {
    "one more": (
        arrays(lambda a: a.update({f"{OTHER}/w": a[f"{FIRST}/w"]})),
        f"returned a member it was not given: {OTHER}",
    ),
    "one that nobody has": (
        arrays(lambda a: a.update({"member-17/w": a[f"{FIRST}/w"]})),
        "returned a member it was not given: member-17",
    ),
    "another's name": (
        arrays(lambda a: {k.replace(FIRST, OTHER): v for k, v in a.items()}),
        f"returned a member it was not given: {OTHER}",
    ),
    "one less": (
        arrays(lambda a: {k: v for k, v in a.items() if k.startswith(FIRST)}),
        f"returned nothing of {SECOND}",
    ),
    "none": (arrays(lambda a: {"": a[f"{FIRST}/w"]}), "unknown array ''"),
    "no name": (arrays(lambda a: a.update(w=a[f"{FIRST}/w"])), "unknown array 'w'"),
    "a name with zeros": (
        arrays(lambda a: a.update({"member-00/w": a[f"{FIRST}/w"]})),
        "unknown array 'member-00/w'",
    ),
    "swapped with their tags": (
        lambda content: config(swap_tags)(arrays(exchanged)(content)),
        f"{FIRST} came back under the tag of {SECOND}",
    ),
    "swapped tags": (config(swap_tags), f"{FIRST} came back under the tag of {SECOND}"),
    "swapped under the right tags": (
        arrays(exchanged),
        f"{FIRST} and {SECOND} came back in each other's place",
    ),
    "another tag": (
        config(lambda tags: tags.update({f"{FIRST}/tag": 7})),
        f"{FIRST} came back without its tag",
    ),
    "a tag of another kind": (
        config(lambda tags: tags.update({f"{SECOND}/tag": True})),
        f"{SECOND} came back without its tag",
    ),
    "no tags": (
        lambda content: RecordDict({k: v for k, v in content.items() if k != TAGS}),
        f"{FIRST} came back without its tag",
    ),
    "a member that is not finite": (
        arrays(lambda a: a.update({f"{SECOND}/w": Array(np.full(D, np.nan, np.float32))})),
        f"{SECOND}: non-finite update",
    ),
    "a missing array": (
        arrays(lambda a: a.pop(f"{SECOND}/steps") and None),
        f"{SECOND}: missing array 'steps'",
    ),
    "one more array": (
        arrays(lambda a: a.update({f"{FIRST}/more": a[f"{FIRST}/w"]})),
        f"{FIRST}: unknown array 'more'",
    ),
    "no arrays": (
        lambda content: RecordDict({k: v for k, v in content.items() if k != "arrays"}),
        "expected one ArrayRecord 'arrays', found 0",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_REPLIES)
def test_a_reply_about_other_members_is_rejected_whole(name: str) -> None:
    tamper, reason = HOSTILE_REPLIES[name]
    recorder = Recorder()
    models = run(strategy_with(recorder, ensemble=DEALT), Clients(7, tamper))
    culprit = recorder.client(HOSTILE)
    assert (culprit.reason or "").startswith(f"rejected: {reason}")
    assert (culprit.kept, culprit.influence) == (False, 0)
    assert (recorder.rounds[1].kept, recorder.rounds[1].rejected) == (6, 1)
    for member, model in enumerate(models):
        clients_of_member = [p for p in range(7) if member in dealt(p) and p != HOSTILE]
        expected = start(3)[f"member-{member}/w"]
        expected = expected + torch.stack([step(p, member) for p in clients_of_member]).mean(dim=0)
        torch.testing.assert_close(model["w"], expected)


@pytest.mark.parametrize(("towards", "taken"), [(0.55, True), (0.64, True), (0.7, False)])
def test_members_count_as_exchanged_only_where_each_is_much_nearer_to_the_other(
    towards: float, taken: bool
) -> None:
    """Two thirds of the way to the other member, the squared distances are as one to four."""
    sent = start(3)
    first, second = sent[f"{FIRST}/w"], sent[f"{SECOND}/w"]

    def lean(content: RecordDict) -> RecordDict:
        record = content.array_records["arrays"]
        record[f"{FIRST}/w"] = Array((first + towards * (second - first)).numpy())
        record[f"{SECOND}/w"] = Array((second + towards * (first - second)).numpy())
        return content

    recorder = Recorder()
    run(strategy_with(recorder, ensemble=DEALT), Clients(7, lean))
    reason = recorder.client(HOSTILE).reason
    assert reason is None if taken else "in each other's place" in (reason or "")


def test_a_swap_of_packed_contents_is_an_update_like_any_other() -> None:
    """Screening cannot tell two packed updates apart; a robust rule can."""

    def exchange(message: Any, context: Any, call_next: Any) -> Any:
        reply = call_next(message, context)
        if context.node_config["partition-id"] == HOSTILE:
            return Message(arrays(exchanged)(reply.content), reply_to=message)
        return reply

    recorder = Recorder()
    clients = Clients(7, mods=[exchange, CodecMod(Identity())])
    models = run(strategy_with(recorder, ensemble=DEALT, rule=Median()), clients)
    assert recorder.rounds[1].kept == 7
    for member, model in enumerate(models):
        update = model["w"] - start(3)[f"member-{member}/w"]
        assert float((update - 1).abs().mean()) < 0.1


def test_members_that_catch_up_are_not_taken_for_exchanged() -> None:
    """An update that takes a member to another member's place is no swap."""

    def learn(content: RecordDict) -> RecordDict:
        record = content.array_records["arrays"]
        record[f"{FIRST}/w"] = record[f"{SECOND}/w"]
        return content

    recorder = Recorder()
    run(strategy_with(recorder, ensemble=DEALT), Clients(7, learn))
    assert recorder.client(HOSTILE).reason is None


# --- what happens to a member ---------------------------------------------------------------------


def test_a_member_that_no_client_was_given_is_kept_and_noted() -> None:
    recorder = Recorder()
    strategy = strategy_with(recorder, ensemble=Ensemble(4, "round-robin"))
    models = run(strategy, Clients(3))
    note = recorder.rounds[1].note
    assert note == "member-3: no client was given it"
    assert torch.equal(models[3]["w"], start(4)["member-3/w"])
    assert not torch.equal(models[0]["w"], start(4)["member-0/w"])
    assert recorder.rounds[1].kept == 3
    assert sum(client.influence for client in recorder.rounds[1].clients) == pytest.approx(1)


def test_a_member_whose_clients_failed_is_kept_and_noted() -> None:
    def crash(content: RecordDict) -> RecordDict:
        raise ValueError("out of luck")

    recorder = Recorder()
    models = run(strategy_with(recorder, ensemble=Ensemble(5, "round-robin")), Clients(5, crash))
    assert recorder.rounds[1].note == (
        "member-4: Mean(weighted=False, cap=10.0, efficiency=0.0) needs at least 1 updates, "
        "found 0 (1 asked, 1 rejected or failed)"
    )
    assert torch.equal(models[4]["w"], start(5)["member-4/w"])
    assert recorder.client(HOSTILE).reason == "failed: ValueError: out of luck"


def test_quorum_and_the_rules_bound_hold_for_each_member() -> None:
    recorder = Recorder()
    ensemble = Ensemble(2, "round-robin")
    run(strategy_with(recorder, ensemble=ensemble, quorum=3), Clients(5))
    assert recorder.rounds[1].note == "member-1: quorum needs at least 3 updates, found 2"
    run(strategy_with(recorder, ensemble=ensemble, rule=TrimmedMean(f=1)), Clients(5))
    assert (
        recorder.rounds[-1].note == "member-1: TrimmedMean(f=1) needs at least 3 updates, found 2"
    )
    with pytest.raises(BoundError, match=r"TrimmedMean\(f=1\) needs at least 3 updates, found 2"):
        run(strategy_with(recorder, ensemble=ensemble, rule=TrimmedMean(f=1), quorum=2), Clients(5))


def test_excluded_clients_count_towards_f_where_they_were_asked() -> None:
    """A malformed reply leaves four of a member's five clients, and the rule works with f - 1."""
    recorder = Recorder()
    tamper = HOSTILE_REPLIES["no tags"][0]
    run(strategy_with(recorder, ensemble=DEALT, rule=TrimmedMean(f=2)), Clients(7, tamper))
    assert recorder.rounds[1].note is None
    assert recorder.rounds[1].kept == 6


def test_rules_and_optimisers_remember_each_member_by_itself() -> None:
    options: dict[str, Any] = {"rule": CenteredClipping(), "server_optimizer": SGD(momentum=0.5)}
    strategy = strategy_with(Recorder(), ensemble=DEALT, **options)
    run(strategy, Clients(6), rounds=3)
    assert strategy.state is not None
    velocities = [model.moments["velocity"] for model in strategy.state.models]
    centres = [model.rule["0"] for model in strategy.state.models]
    assert not torch.equal(velocities[0], velocities[1])
    assert all(centres)


def test_who_is_filtered_from_some_members_is_kept_for_the_others() -> None:
    def attack(content: RecordDict) -> RecordDict:
        content.array_records["arrays"][f"{SECOND}/w"] = Array(np.full(D, -500, np.float32))
        return content

    recorder = Recorder()
    run(strategy_with(recorder, ensemble=DEALT, rule=ByzantineFilter()), Clients(9, attack))
    culprit = recorder.client(HOSTILE)
    assert (culprit.reason, culprit.filtered_from) == (None, (HELD[1],))
    assert culprit.kept
    assert 0 < culprit.influence < recorder.client(0).influence
    dropped = recorder.rounds[1].diagnostics[f"{SECOND}/filter-dropped"]
    assert dropped == [HOSTILE]
    assert f"{FIRST}/density-purity" in recorder.rounds[1].diagnostics


def test_fedavg_mode_makes_the_members_one() -> None:
    clients = Clients(6)
    strategy = strategy_with(Recorder(), ensemble=replace(DEALT, mode="fedavg"))
    models = run(strategy, clients, rounds=2)
    assert all(torch.equal(model["w"], models[0]["w"]) for model in models)
    started = [record for number, _, record in clients.seen if number == 1]
    weights = [t for record in started for name, t in from_record(record).items() if "/w" in name]
    assert all(torch.equal(weight, start(3)["member-0/w"]) for weight in weights)
    means = [torch.stack([step(p, m) for p in range(6) if m in dealt(p)]).mean(0) for m in range(3)]
    expected = start(3)["member-0/w"] + torch.stack(means).mean(dim=0)
    second = next(record for number, _, record in clients.seen if number == 2)
    received = from_record(second)[f"{member_name(dealt(0, 2)[0])}/w"]
    torch.testing.assert_close(received, expected)


def test_a_run_goes_on_where_it_was() -> None:
    states: list[ServerState] = []

    class Keeper(Recorder):
        def on_state(self, state: ServerState, record: Any) -> None:
            states.append(state)

    def strategy(recorder: Recorder) -> HQDEStrategy:
        return strategy_with(
            recorder,
            ensemble=Ensemble(3, "random", 2),
            rule=ByzantineFilter(),
            server_optimizer=SGD(momentum=0.5),
            selector=Uniform(0.9),
        )

    whole = run(strategy(Keeper()), Clients(9), rounds=4)
    rest = strategy(Recorder())
    arrays_ = rest.start(Clients(9), to_record(start(3)), 4, resume=states[2]).arrays
    for member, model in enumerate(whole):
        assert torch.equal(select_member(member, from_record(arrays_))["w"], model["w"])


# --- codecs ---------------------------------------------------------------------------------------


def test_packed_both_ways_everybody_trains_from_the_same_bits() -> None:
    codec = Quantized(8, unbiased=False)
    ensemble = Ensemble(3, "random", 2)
    options = {"ensemble": ensemble, "codec": ErrorFeedback(codec), "downlink": codec}
    recorder, clients = Recorder(), Clients(8, mods=[DownlinkMod(), CodecMod()])
    models = run(strategy_with(recorder, **options), clients, rounds=6)
    trained: dict[tuple[int, str], torch.Tensor] = {}
    for number, _, record in clients.seen:
        for name, tensor in from_record(record).items():
            assert torch.equal(trained.setdefault((number, name), tensor), tensor)
    plain = run(strategy_with(Recorder(), ensemble=ensemble), Clients(8), rounds=6)
    for exact, model in zip(plain, models, strict=True):
        torch.testing.assert_close(model["w"], exact["w"], atol=0.1, rtol=0)
        assert int(model["steps"]) == int(exact["steps"])
    down = [record.bytes_down for record in recorder.rounds[1:]]
    assert down[-1] < 0.7 * down[0]  # of each pair of members one may be new to a client
    assert all((record.kept, record.late) == (8, 0) for record in recorder.rounds[1:])


def test_arrays_of_another_number_of_members_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 members needs arrays named member-0/\.\.\. to membe"):
        strategy_with(Recorder(), ensemble=DEALT).start(Clients(), to_record(start(2)), 1)


@pytest.mark.parametrize("rule", [Mean(), Median(), Krum(f=1), ByzantineFilter()])
def test_any_rule_merges_members(rule: Any) -> None:
    recorder = Recorder()
    ensemble = Ensemble(2, "round-robin")
    models = run(strategy_with(recorder, ensemble=ensemble, rule=rule), Clients(10), rounds=2)
    assert recorder.rounds[-1].note is None
    for member, model in enumerate(models):
        update = model["w"] - start(2)[f"member-{member}/w"]
        assert float((update - 2).abs().mean()) < 0.3
