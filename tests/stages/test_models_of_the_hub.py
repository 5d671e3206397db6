"""A hub's model is fetched with a bar, each weight once, from a server of the hub's protocol on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.hub_server import SHA, serve
from tests.tiny_ppo import TOKENIZER, policy

ROOT = Path(__file__).parents[2]
AT_ONCE = "from rlhf.data import hub; hub.SHOWN_AFTER_S = 0; "
COMMAND = AT_ONCE + "import sys; from stages.cli.main import main; sys.exit(main(sys.argv[1:]))"
LOAD = AT_ONCE + "import sys; from rlhf.models.checkpoints import load_policy; load_policy(sys.argv[1])"


def repository(folder, parts):
    """A model that has its weights twice, as many of the hub do: as safetensors, in one file or in parts, and pickled."""
    model = policy()
    model.save_pretrained(folder, **({"max_shard_size": "40KB"} if parts else {}))
    TOKENIZER.save(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True])
def test_weights_are_fetched_once_with_a_bar(parts, tmp_path):
    repository(tmp_path / "hub/models/ann/small", parts)
    cache = tmp_path / "home"
    with serve(tmp_path / "hub") as url:
        where = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}  # fmt: skip

        def run(code, *arguments):
            done = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | where, capture_output=True, text=True, timeout=300)  # fmt: skip
            assert done.returncode == 0, done.stderr[-2000:]
            return done.stderr

        said = run(LOAD, "ann/small")
        fetched = sorted(
            path.name for path in (cache / f"hub/models--ann--small/snapshots/{SHA}").glob("*model*")
        )
        weights = [name for name in fetched if name.endswith(".safetensors")]
        assert len(weights) == 1 or (parts and len(weights) > 2)
        assert not any(name.endswith(".bin") for name in fetched)
        assert all(name[:20] in said for name in weights)
        assert "safetensors" not in run(LOAD, "ann/small")
        stored = tmp_path / "store"
        assert "safetensors" not in run(COMMAND, "--store", str(stored), "import", "ann/small", "--name", "s")
        assert not list((cache / f"hub/models--ann--small/snapshots/{SHA}").glob("*.bin"))
        assert (stored / "base/0001-s/model.safetensors").exists()
