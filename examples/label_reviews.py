"""Label product reviews with a language model under several prompts, and find the prompt with the highest mean reward.

By default the model is a small one on this machine, with no key and no network (the extra ``local``); --base-url and
--model, or OPENAI_BASE_URL, OPENAI_MODEL and OPENAI_API_KEY, select any OpenAI-compatible server instead.

    python examples/label_reviews.py
    python examples/label_reviews.py --base-url https://api.openai.com/v1 --model gpt-4.1-mini

Everything is kept in runs/label_reviews.db. Stop it with Ctrl-C or by pulling the plug, and continue with

    python examples/label_reviews.py --resume
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict

import openai
import trio

import lightning_trio as agl

REVIEWS = Path(__file__).with_name("data") / "reviews.csv"

EXAMPLES = (
    "Review: Great, it died after an hour.\nAnswer: negative\n\n"
    "Review: Works perfectly, very happy with it.\nAnswer: positive\n\n"
    "Review: It broke on the first day.\nAnswer: negative\n\n"
    "Review: A wonderful book, I could not put it down.\nAnswer: positive\n\n"
    "Review: The food was cold and the waiter was rude.\nAnswer: negative\n\n"
)

PROMPTS = {
    "bare": "Is this review positive or negative? {review}",
    "one word": (
        "Classify the sentiment of the review as Positive or Negative. Answer with one word.\n\nReview: {review}"
    ),
    "examples": (
        "Classify the sentiment of the review as negative or positive. Answer with one word.\n\n"
        + EXAMPLES
        + "Review: {review}\nAnswer:"
    ),
}


class Review(TypedDict):
    """A text and whether it is ``"positive"`` or ``"negative"``."""

    text: str
    label: str


def read_reviews(split: str) -> list[Review]:
    """Read the reviews of a split, ``"train"`` or ``"val"``."""
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        return [{"text": row["text"], "label": row["label"]} for row in csv.DictReader(file) if row["split"] == split]


def as_label(answer: str) -> str:
    """Return the first word of an answer, in lower case and without punctuation."""
    words = answer.split()
    return words[0].strip(".,:;!\"'*").lower() if words else ""


def make_agent(client: openai.AsyncOpenAI) -> agl.LitAgent[Review]:
    """Make the agent, whose rollouts share one client and its connections."""

    @agl.rollout(config=agl.RolloutConfig(timeout_seconds=120, max_attempts=2, retry_condition=["timeout"]))
    async def label_review(task: Review, prompt_template: agl.PromptTemplate, llm: agl.LLM) -> float:
        """Ask for the label and return 1.0 if it is exactly right, else 0.0."""
        answer = await client.chat.completions.create(
            model=llm.model,
            messages=[{"role": "user", "content": prompt_template.format(review=task["text"])}],
            temperature=0,
            max_tokens=4,
        )
        label = as_label(answer.choices[0].message.content or "")
        agl.emit_message(f"label {label!r}, expected {task['label']!r}")
        return float(label == task["label"])

    return label_review


@asynccontextmanager
async def open_llm(arguments: argparse.Namespace) -> AsyncGenerator[agl.LLM]:
    """Open the model: a server's, or the one on this machine."""
    if arguments.base_url:
        yield agl.LLM(endpoint=arguments.base_url, model=arguments.model, api_key_env="OPENAI_API_KEY")
    else:
        print("no --base-url: using SmolLM2-135M on this machine")
        async with agl.open_local_llm() as llm:
            yield llm


async def main(arguments: argparse.Namespace) -> None:
    """Run every prompt over the reviews and print its rewards."""
    train, val = read_reviews("train")[: arguments.limit], read_reviews("val")[: arguments.limit]
    print(f"{len(train)} reviews to choose a prompt on, {len(val)} held out")
    async with (
        open_llm(arguments) as llm,
        openai.AsyncOpenAI(base_url=llm.endpoint, api_key=llm.api_key or "none") as client,
    ):
        agent = make_agent(client)
        best: tuple[float, str] | None = None
        arguments.store.parent.mkdir(parents=True, exist_ok=True)
        async with agl.SqliteLightningStore(arguments.store) as store:
            for name, text in PROMPTS.items():
                runner = agl.Runner(
                    agent,
                    resources={"prompt_template": agl.PromptTemplate(text, engine="f-string"), "llm": llm},
                    store=store,
                    max_concurrency=arguments.concurrency,
                    run_name=f"label_reviews, {name}",
                )
                result = await runner.fit(train, val, resume=arguments.resume)
                await show(name, result, store)
                score = result.mean_reward["train"]
                if score is not None and (best is None or score > best[0]):
                    best = (score, name)
    if best is None:
        sys.exit("No rollout was rewarded, so there is no best prompt; is the server there, and the key right?")
    print(f"\nBest on the reviews to choose on: {best[1]}, with a mean reward of {best[0]:.2f}.")


async def show(name: str, result: agl.FitResult, store: agl.LightningStore) -> None:
    """Print a prompt's mean rewards, the first error if rollouts failed, and one trace."""
    rate = sum(result.counts.values()) / result.duration
    rewards = {split: "none" if mean is None else f"{mean:.2f}" for split, mean in result.mean_reward.items()}
    print(
        f"{name:>10}: mean reward train {rewards['train']}, val {rewards['val']}; {rate:.1f} rollouts/s, "
        f"{result.usage.input_tokens} → {result.usage.output_tokens} tokens"
    )
    if failed := result.counts["failed"]:
        [first] = await store.query_rollouts(status_in=["failed"], run_id_in=[result.run_id], limit=1)
        attempt = await store.get_latest_attempt(first.rollout_id)
        error = attempt.error if attempt else None
        print(f"{'':>12}{failed} failed, the first with {f'{error.type}: {error.message}' if error else 'no error'}")
    shown = await store.query_rollouts(status_in=["succeeded"], run_id_in=[result.run_id], limit=1)
    for rollout in shown or await store.query_rollouts(run_id_in=[result.run_id], limit=1):
        trace = agl.format_trace(await store.query_spans(rollout.rollout_id, "latest"))
        print(f"\nOne of its traces ({result.run_id}, {rollout.rollout_id}):\n{trace}\n")


def positive(text: str) -> int:
    """Return a positive number from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Label product reviews under several prompts.")
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL"), help="an OpenAI-compatible server")
    parser.add_argument("--model", default=os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"))
    parser.add_argument("--concurrency", type=positive, default=8, help="rollouts at a time (default 8)")
    parser.add_argument("--store", type=Path, default=Path("runs/label_reviews.db"), help="where the runs are kept")
    parser.add_argument("--resume", action="store_true", help="resume interrupted runs")
    parser.add_argument("--limit", type=positive, default=None, help="the most reviews to use of each split")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        trio.run(main, parse(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
