"""The reward and the gold model of `rlhf align` on all rankings of a source that they have not learned from.

python benchmarks/unseen_rankings.py --store STORE --recipe smollm2 --data DATA --source oasst_en_kwise

The judgment asks for test and validation conversations only, of which a small source has few. The gold model's
conversations are unseen by the reward model too, and the other way round: a recipe divides them before anything is
trained, so nothing was chosen by them.
"""

import argparse
import json
from pathlib import Path

from rlhf.store import Store
from stages.align.data import Division, read_sources
from stages.cli.options import read_recipe
from stages.judging.reward_models import report_on_reward_model
from stages.settings import AlignDataSettings
from stages.steps import settings_of

UNSEEN = {"reward": ("gold", "validation", "test"), "gold": ("rest", "validation", "test")}


def main() -> None:
    parser = argparse.ArgumentParser(description="reward models on all rankings they have not learned from")
    for name in ("store", "recipe", "data", "source"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--name", default="smollm2-0", help="the run's name and seed")
    options = parser.parse_args()
    settings = settings_of(AlignDataSettings, read_recipe(options.recipe), "data")
    sources = read_sources(settings, Path(options.data), print)
    division = Division(settings, sources)
    for model, parts in UNSEEN.items():
        entry = Store(options.store).resolve(f"reward/{options.name}{'-gold' if model == 'gold' else ''}")
        rows = [row for part in parts for row in division.rows(sources.rankings[options.source], part)]
        longest = entry.manifest["settings"]["max_length"]
        found = report_on_reward_model(entry.path, {options.source: rows}, longest)
        print(f"{model}, {options.source}: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
