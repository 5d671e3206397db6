#!/usr/bin/env bash
# Every stage on real text at a small size, on a CPU: base on plays and on instructions, SFT on Dolly, reward on HH,
# PPO on HH prompts. Usage: benchmarks/real_data.sh DATA_FOLDER STORE
set -euo pipefail
data=$1
export RLHF_STORE=$2
mkdir -p "$RLHF_STORE"
prompts=$RLHF_STORE/prompts.jsonl
# Opening questions that leave room for an answer in a small context.
python - "$data/hh_helpful_test.jsonl.gz" "$prompts" << 'PYTHON'
import json, sys
from rlhf.data import read_prompts
short = [prompt for prompt in read_prompts(sys.argv[1]) if len(prompt) == 1 and len(prompt[0]["content"].split()) < 60]
open(sys.argv[2], "w").writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in short)
PYTHON
size="--layers 4 --width 128 --heads 4 --vocab-size 2048 --context 320 --sequence-length 256"

rlhf pretrain --data "$data/tinyshakespeare.txt" --name plays --tokens 600000 $size
rlhf pretrain --data "$data/sft_dolly.jsonl.gz" --name dolly --tokens 1500000 $size
rlhf sft --base base/dolly --data "$data/sft_dolly.jsonl.gz" --name dolly --epochs 1 --max-length 320
rlhf reward --init sft/dolly --data "$data/hh_helpful_train.jsonl.gz" --name hh --prompts-per-batch 16 --lr 3e-4 \
    --max-length 320 --validation-fraction 0.15 --skip-bad-rows
rlhf ppo --policy sft/dolly --reward reward/hh --prompts "$prompts" --name hh --episodes 512 \
    --batch-size 64 --minibatch-size 16 --max-new-tokens 48 --lr 1e-4 --kl-coef 0.1
rlhf eval --policy ppo/hh --against sft/dolly --prompts "$prompts" --reward reward/hh --json
rlhf store show reward/hh
