"""Two processes with one output_dir: the second is told, and the first one's state stays its own."""

import subprocess
import sys

import pytest

from rlhf.errors import StoreError
from tests.tiny_ppo import trainer

OTHER = """
import sys
from tests.tiny_ppo import trainer
trainer(output_dir=sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_does_not_train_in_the_same_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert any(line == "held\n" for line in other.stdout)
        with pytest.raises(StoreError, match=f"process {other.pid} is at the same run"):
            trainer(output_dir=tmp_path)
        other.stdin.close()
    trainer(output_dir=tmp_path)
    trainer(output_dir=tmp_path)  # a process may take its own again
