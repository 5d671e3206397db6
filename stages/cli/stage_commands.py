"""The commands that run one stage each."""

import argparse
import json
from collections.abc import Callable

from rlhf.errors import InputError
from stages.cli.options import labels_url_of, print_entry, proxy_of, say, settings_from, store_of


def run_pretrain(options: argparse.Namespace) -> None:
    from stages import pretrain

    print_entry(pretrain.run(settings_from(options), store_of(options), say))


def run_sft(options: argparse.Namespace) -> None:
    from stages import sft

    print_entry(sft.run(settings_from(options), store_of(options), say))


def run_sample(options: argparse.Namespace) -> None:
    from stages.labeling import sample

    print(sample.run(settings_from(options), store_of(options), labels_url_of(options), say))


def run_reward(options: argparse.Namespace) -> None:
    from stages import reward

    print_entry(reward.run(settings_from(options), store_of(options), labels_url_of(options), say))


def run_ppo(options: argparse.Namespace) -> None:
    from stages import ppo

    print_entry(ppo.run(settings_from(options), store_of(options), say))


def run_eval(options: argparse.Namespace) -> None:
    from stages.judging import evaluate
    from stages.report.report import report_lines, write_report

    settings, store = settings_from(options), store_of(options)
    results = evaluate.run(settings, store, labels_url_of(options), say)
    if settings.name:
        write_report(store.root / "reports" / settings.name, settings.name, results, say)
    if options.json:
        print(json.dumps(results, ensure_ascii=False), flush=True)
    elif not settings.name:
        print("\n".join(report_lines(results)), flush=True)


def run_best_of_n(options: argparse.Namespace) -> None:
    from stages.judging import best_of_n

    result = best_of_n.run(settings_from(options), store_of(options), say)
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:<14} {value}" for name, value in result.items()))


def run_chat(options: argparse.Namespace) -> None:
    settings = settings_from(options)
    if settings.web:
        from stages.talk import serve

        serve.run_page(settings, store_of(options), labels_url_of(options), say, **proxy_of(options))
        return
    if proxy := proxy_of(options):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in proxy)
        raise InputError(f"{flags}: nothing stands in front of the terminal; add --web")
    from stages.talk import terminal

    terminal.run(settings, store_of(options), labels_url_of(options))


def run_serve(options: argparse.Namespace) -> None:
    from stages.talk import serve

    serve.run(settings_from(options), store_of(options), labels_url_of(options), say)


RUNNERS: dict[str, Callable[[argparse.Namespace], None]] = {
    "pretrain": run_pretrain,
    "sft": run_sft,
    "sample": run_sample,
    "reward": run_reward,
    "ppo": run_ppo,
    "best-of-n": run_best_of_n,
    "eval": run_eval,
    "chat": run_chat,
    "serve": run_serve,
}
