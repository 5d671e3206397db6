"""kill -9 in the middle of a save: the store shows whole entries only."""

import random
import signal
import subprocess
import sys
import time

from rlhf.store import Store

WRITER = """
import sys
from rlhf.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
while True:
    with store.new("base", "a", parents={}, settings={}, data={}, seed=0) as writer:
        for part in range(4):  # and the model card
            (writer.path / f"part{part}.bin").write_bytes(bytes([part]) * 400_000)
"""


def test_a_killed_writer_leaves_no_half_entry(tmp_path):
    store, rng = Store(tmp_path), random.Random(0)
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.005, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert store.verify() == []
        assert all(len(entry.manifest["files"]) == 5 for entry in store.entries())
        assert not list(tmp_path.glob(".tmp-*"))
    assert store.entries(), "no save ever finished; the test would prove nothing"
