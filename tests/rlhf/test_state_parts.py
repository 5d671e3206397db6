"""State of sharded models: parts written in the background are those of the moment, and a failed save leaves the one before."""

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rlhf.learning.training import load_state
from rlhf.sharding import placed_as
from rlhf.state_parts import StateFile


@pytest.fixture
def divided():
    """A function that divides a tensor between the processes of a group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    yield lambda x: distribute_tensor(x, mesh, [Shard(0)])
    distributed.destroy_process_group()


def folders(path):
    return sorted(found.name for found in path.iterdir() if found.is_dir())


def test_what_is_written_in_the_background_is_the_state_of_the_moment(divided, tmp_path):
    weights, history = divided(torch.arange(12.0).view(4, 3)), [1]
    file = StateFile(tmp_path / "state.pt")
    file.save({"a": {"w": weights}, "moments": [weights * 2, 7], "history": history}, 1)
    weights.to_local().zero_()
    history.append(2)
    file.wait()
    state = load_state(tmp_path / "state.pt")
    assert state["history"] == [1] and state["moments"][1] == 7
    wanted = torch.arange(12.0).view(4, 3)
    assert torch.equal(placed_as(torch.zeros(4, 3), state["a"]["w"]), wanted)
    again = placed_as(weights, state["moments"][0])
    assert torch.equal(again.full_tensor(), 2 * wanted) and again.placements == weights.placements


def test_of_many_saves_the_last_is_kept_and_a_failed_one_leaves_that_before(divided, tmp_path):
    (tmp_path / "state-of-the-art").mkdir()  # somebody else's
    file = StateFile(tmp_path / "state.pt")
    for number in (1, 2):
        file.save({"w": divided(torch.full((2, 2), float(number)))}, number)
    file.wait()
    assert folders(tmp_path) == ["state-of-the-art", "state.pt.parts-2"]
    (tmp_path / "state.pt.parts-3").write_text("in the way")
    with pytest.raises(OSError, match=r"state\.pt: .*state\.pt\.parts-3"):
        file.save({"w": divided(torch.zeros(2, 2))}, 3)
        file.wait()
    state = load_state(tmp_path / "state.pt")
    assert torch.equal(placed_as(torch.zeros(2, 2), state["w"]), torch.full((2, 2), 2.0))


def test_a_state_without_parts_takes_the_place_of_one_with_them(divided, tmp_path):
    file = StateFile(tmp_path / "state.pt")
    file.save({"w": divided(torch.ones(2, 2))}, 1)
    file.save({"w": torch.zeros(2)}, 2)
    assert not folders(tmp_path) and torch.equal(load_state(tmp_path / "state.pt")["w"], torch.zeros(2))
