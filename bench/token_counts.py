"""``python -m bench.token_counts URL``: how near the tokenizer's counts come to a real model's own.

URL is the base of an OpenAI-compatible API that reports usage (README, "Put a real model behind it"). Each recorded
prompt is sent, chats and texts to go on with, and what the model says it used is held against what would have been
counted had it said nothing. ``--record`` keeps prompts, answers and true counts for the test of the same.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import django
import requests

RECORDED = Path("tests/consumption/real_usage.jsonl")
#: Tokens of an answer: enough to tell, few enough for two hundred calls on two cores.
MOST_TOKENS = 64


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url")
    arguments.add_argument("--model", default="model")
    arguments.add_argument("--rule", default="split", choices=("o200k", "split"))
    arguments.add_argument("--record", action="store_true")
    options = arguments.parse_args()
    asked = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    calls = []
    for number, call in enumerate(asked, 1):
        sys.stderr.write(f"\r{number} of {len(asked)}")
        calls.append(_answered(options, call))
    sys.stderr.write("\n")
    if options.record:
        RECORDED.write_text("".join(json.dumps(call, ensure_ascii=False) + "\n" for call in calls))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    _report(calls, options.rule)


def _answered(options: Any, call: dict[str, Any]) -> dict[str, Any]:
    """The call with the model's answer and counts."""
    given = {name: call[name] for name in ("messages", "prompt") if name in call}
    path = "chat/completions" if "messages" in call else "completions"
    body = {"model": options.model, "max_tokens": MOST_TOKENS, "temperature": 0.7, "seed": 7, **given}
    answer = requests.post(f"{options.url}/{path}", json=body, timeout=300)
    answer.raise_for_status()
    told = answer.json()
    choice = told["choices"][0]
    return {
        "kind": call["kind"],
        **given,
        "answer": choice["message"]["content"] if "messages" in call else choice["text"],
        "prompt_tokens": told["usage"]["prompt_tokens"],
        "completion_tokens": told["usage"]["completion_tokens"],
    }


def _report(calls: list[dict[str, Any]], rule: str) -> None:
    from consumption.counting import RULES
    from consumption.estimates import TEMPLATES
    from consumption.prompts import prompt_of_input, prompt_of_messages

    count, (each, once) = RULES[rule], TEMPLATES[rule]
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    errors: list[float] = []
    for call in calls:
        chat = "messages" in call
        prompt = prompt_of_messages(call["messages"]) if chat else prompt_of_input(call["prompt"])
        asked = count(prompt.texts) + (prompt.messages * each + once if chat else 0)
        figures = (call["prompt_tokens"], asked, call["completion_tokens"], count([call["answer"]]))
        errors.append((asked + figures[3]) / max(1, figures[0] + figures[2]) - 1)
        for kind in (call["kind"], "chats" if chat else "texts", "in total"):
            sums[kind] = [total + figure for total, figure in zip(sums[kind], figures, strict=True)]
    _print(sums, errors)


def _print(sums: dict[str, list[int]], errors: list[float]) -> None:
    out = sys.stdout
    out.write(f"{'kind':16}{'prompt':>8}{'counted':>9}{'':8}{'completion':>12}{'counted':>9}\n")
    for kind, (prompt, asked, completion, written) in sorted(sums.items()):
        out.write(
            f"{kind:16}{prompt:8}{asked:9}{asked / max(1, prompt) - 1:+8.1%}"
            f"{completion:12}{written:9}{written / max(1, completion) - 1:+8.1%}\n"
        )
    cuts = quantiles(errors, n=20)
    out.write(
        f"one call: 5 % of them below {cuts[0]:+.1%}, median {cuts[9]:+.1%}, 5 % above {cuts[18]:+.1%}\n"
    )


if __name__ == "__main__":
    main()
