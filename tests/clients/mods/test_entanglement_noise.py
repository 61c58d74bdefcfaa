import torch
from flwr.clientapp import ClientApp

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.mods.entanglement_noise import EntanglementNoiseMod
from hqde_fl.clients.training import Training
from hqde_fl.noise import EntanglementNoise
from hqde_fl.protocol.records import from_record
from hqde_fl.seeding import Seeds

NOISE = EntanglementNoise(scale=0.05, neighbours=2)


def replies(task, ask, node, number, *mods, count=5):
    state = initial_state(task, 1, Seeds(0))
    app: ClientApp = ensemble_app(task, training=Training(), mods=mods)
    answers = [app(ask(state, number), node(k, count)) for k in range(count)]
    return [from_record(answer.content.array_records["arrays"]) for answer in answers]


def test_the_noise_is_added_to_the_weights_and_cancels_in_the_mean(task, ask, node, weight_names):
    plain = replies(task, ask, node, 1)
    noisy = replies(task, ask, node, 1, EntanglementNoiseMod(NOISE, 7))
    again = replies(task, ask, node, 2, EntanglementNoiseMod(NOISE, 7))
    for name in plain[0]:
        clean = torch.stack([state[name].double() for state in plain])
        other = torch.stack([state[name].double() for state in noisy])
        if name not in weight_names:
            assert torch.equal(clean, other)
            continue
        added = other - clean
        assert 0.2 * NOISE.scale < float(added.std()) < 3 * NOISE.scale
        assert float((other.mean(0) - clean.mean(0)).abs().max()) < 1e-6
        assert not torch.equal(again[0][name], noisy[0][name])


def test_evaluation_is_passed_on(task, ask, node):
    state = initial_state(task, 1, Seeds(0))
    app = ensemble_app(task, mods=[EntanglementNoiseMod(NOISE)])
    plain = ensemble_app(task)
    question = ask(state, 1, "evaluate")
    one, other = (client(question, node()).content["metrics"] for client in (app, plain))
    assert one == other
