"""The decoder's loops as compilers make them for processors with narrower registers than this one's."""

import sys
from pathlib import Path

import pytest

from rlhf.machine import kernels
from tests import forked

CPU = Path("/proc/cpuinfo")
SETS = {
    "SSE": ("-march=x86-64",),
    "AVX": ("-mavx",),
    "AVX2": ("-mavx2", "-mfma"),
    "AVX-512": ("-mavx512f", "-mfma"),
}
NEEDED = {"SSE": "sse2", "AVX": "avx", "AVX2": "fma", "AVX-512": "avx512f"}
LOGITS = """
import sys, torch
from rlhf.machine import kernels
kernels.FLAGS = ("-O2", *sys.argv[1:], *(flag for flag in kernels.FLAGS if flag not in ("-O3", "-march=native")))
from rlhf.models.gpt import GPT, GPT2Config
from rlhf.sampling.decoder import Decoder, describe
torch.manual_seed(0)
model = GPT(GPT2Config(n_layer=2, n_embd=80, n_head=5, vocab_size=53, n_positions=96)).eval()
texts = [torch.randint(0, 50, (length,)).tolist() for length in (70, 3, 41, 1, 22)]
for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 6e-2)):
    family = describe(model.to(dtype), dtype)
    alone = Decoder(family, 1)
    alone.read([0], [texts[0][:1]])
    for token in texts[0][1:]:
        one = alone.step([0], torch.tensor([token]))[0].clone()
    together = Decoder(family, 5).read([3, 0, 1, 2, 4], texts)
    assert torch.equal(one, together[0]), "in company"
    for text, found in zip(texts, together):
        wanted = model.float()(input_ids=torch.tensor([text])).logits[0, -1]
        assert (found - wanted).abs().max() < tolerance, (dtype, float((found - wanted).abs().max()))
assert kernels.library() is not None
"""


@pytest.mark.skipif(kernels.compiler() is None or not CPU.exists(), reason="needs a compiler and Linux")
@pytest.mark.parametrize("name", SETS)
def test_the_decoder_is_right_on_narrower_processors_too(tmp_path, name):
    if NEEDED[name] not in CPU.read_text():
        pytest.skip(f"this processor has no {name}")
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = forked.run([sys.executable, "-c", LOGITS, *SETS[name]], env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
