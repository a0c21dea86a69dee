"""A synchronous script that runs one rollout, then many at a time.

python examples/embed_blocking.py
python examples/embed_blocking.py --seconds 1 --limit 50
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import lightning_trio as agl
from lightning_trio import embed

REVIEWS = Path(__file__).with_name("data") / "reviews.csv"

BAD = {"not", "never", "bad", "broke", "worst", "poor", "refund", "disappointed"}


def main(seconds: float, limit: int | None) -> None:
    """Label one review, then all."""

    @agl.rollout
    def label_review(task: dict[str, str]) -> float:
        # Blocks a thread, like a model's blocking client.
        time.sleep(seconds)
        label = "negative" if BAD & set(task["text"].lower().strip(".!").split()) else "positive"
        agl.emit_message(label)
        return float(label == task["label"])

    with REVIEWS.open(encoding="utf-8", newline="") as file:
        reviews = list(csv.DictReader(file))[:limit]
    with embed.open_blocking(agl.Runner(label_review, max_concurrency=50)) as r:
        done = r.step(reviews[0])
        print(f"{done.rollout.rollout_id}: reward {done.final_reward} for {reviews[0]['text']!r}")
        started = time.monotonic()
        rewards = [done.final_reward or 0.0 for done in r.stream(reviews)]
        print(f"{sum(rewards):.0f} of {len(rewards)} are right, in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Label reviews from blocking code.")
    parser.add_argument("--seconds", type=float, default=0.05, help="how long the agent takes (default 0.05)")
    parser.add_argument("--limit", type=int, default=None, help="how many reviews at most (default all)")
    arguments = parser.parse_args()
    try:
        main(arguments.seconds, arguments.limit)
    except KeyboardInterrupt:
        sys.exit(130)
