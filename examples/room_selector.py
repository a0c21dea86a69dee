"""Choose meeting rooms with tool calls against a real calendar: the agent of the "Writing Agents" tutorial.

The calendar is an SQLite database that this program makes: rooms with seats, equipment and step-free access, and
bookings. Each task asks for a room at a given time; exactly one room is best (the smallest that is free, has enough
seats and everything that is needed), and only that one is worth a reward of 1.0.

Without a server, the model is SIMULATED: a script that calls the tool as a model would and then follows the prompt to
the letter, so that a better prompt gets a higher reward. With --base-url (or OPENAI_BASE_URL) a real model answers.

    python examples/room_selector.py
    python examples/room_selector.py --base-url https://api.openai.com/v1 --model gpt-4.1-mini
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypedDict

import openai
import trio

import lightning_trio as agl
from lightning_trio.testing import Reply, ToolCall, open_scripted_llm

EQUIPMENT = ("whiteboard", "projector", "video conference", "phone")

PROMPTS = {
    "plain": "Book a meeting room.\n{request}\nAnswer with the room's id only.",
    "careful": (
        "Book a meeting room that is free, has enough seats and all that is needed. Of several, take the one with "
        "the fewest seats.\n{request}\nAnswer with the room's id only."
    ),
}


class RoomTask(TypedDict):
    """One request and the id of the room that is best for it."""

    calendar: str
    date: str
    time: str
    duration_minutes: int
    attendees: int
    needs: list[str]
    step_free: bool
    best_room: str


# The calendar.


def make_calendar(path: Path, rng: random.Random) -> None:
    """Write rooms and one week of bookings."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE rooms (id TEXT PRIMARY KEY, seats INTEGER, equipment TEXT, step_free INTEGER)")
        db.execute("CREATE TABLE bookings (room_id TEXT, date TEXT, start INTEGER, end INTEGER)")
        for number in range(24):
            equipment = rng.sample(EQUIPMENT, rng.randint(1, len(EQUIPMENT)))
            room = (f"R{number + 101}", rng.randint(2, 24), ",".join(sorted(equipment)), rng.random() < 0.7)
            db.execute("INSERT INTO rooms VALUES (?, ?, ?, ?)", room)
            for day in range(1, 6):
                for _ in range(rng.randint(1, 4)):
                    start = rng.randrange(8 * 60, 17 * 60, 30)
                    booking = (room[0], f"2026-06-0{day}", start, start + rng.choice((30, 60, 90)))
                    db.execute("INSERT INTO bookings VALUES (?, ?, ?, ?)", booking)
    db.close()


def minutes(time: str) -> int:
    """Return ``"14:30"`` as minutes since midnight."""
    hours, _, rest = time.partition(":")
    return int(hours) * 60 + int(rest)


def rooms_and_availability(calendar: str, date: str, time: str, duration_minutes: int) -> list[dict[str, Any]]:
    """Return all rooms and whether each is free for the whole time."""
    start = minutes(time)
    db = sqlite3.connect(calendar)
    try:
        rows = db.execute(
            "SELECT id, seats, equipment, step_free, NOT EXISTS (SELECT 1 FROM bookings WHERE room_id = id "
            "AND date = ? AND start < ? AND end > ?) FROM rooms ORDER BY id",
            (date, start + duration_minutes, start),
        ).fetchall()
    finally:
        db.close()
    return [
        {
            "id": room_id,
            "seats": seats,
            "equipment": equipment.split(","),
            "step_free": bool(step_free),
            "free": bool(free),
        }
        for room_id, seats, equipment, step_free, free in rows
    ]


def make_tasks(calendar: Path, rng: random.Random, number: int) -> list[RoomTask]:
    """Make requests for which exactly one room is best."""
    tasks: list[RoomTask] = []
    while len(tasks) < number:
        task: RoomTask = {
            "calendar": str(calendar),
            "date": f"2026-06-0{rng.randint(1, 5)}",
            "time": f"{rng.randint(8, 16):02}:{rng.choice(('00', '30'))}",
            "duration_minutes": rng.choice((30, 60, 90)),
            "attendees": rng.randint(2, 14),
            "needs": rng.sample(EQUIPMENT, rng.randint(0, 2)),
            "step_free": rng.random() < 0.3,
            "best_room": "",
        }
        rooms = rooms_and_availability(task["calendar"], task["date"], task["time"], task["duration_minutes"])
        fitting = sorted(
            (room["seats"], room["id"])
            for room in rooms
            if room["free"]
            and room["seats"] >= task["attendees"]
            and set(task["needs"]) <= set(room["equipment"])
            and (room["step_free"] or not task["step_free"])
        )
        if fitting and (len(fitting) == 1 or fitting[0][0] < fitting[1][0]):
            task["best_room"] = fitting[0][1]
            tasks.append(task)
    return tasks


# The agent.

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_rooms_and_availability",
        "description": "List all rooms with seats, equipment, step-free access, and whether they are free.",
        "parameters": {
            "type": "object",
            "properties": {
                "date": {"type": "string", "description": "YYYY-MM-DD"},
                "time": {"type": "string", "description": "HH:MM"},
                "duration_minutes": {"type": "integer"},
            },
            "required": ["date", "time", "duration_minutes"],
        },
    },
}


@agl.operation
def get_rooms_and_availability(calendar: str, date: str, time: str, duration_minutes: int) -> str:
    """Return the answer to the model's tool call; `operation` records it as a step."""
    return json.dumps(rooms_and_availability(calendar, date, time, duration_minutes))


def as_request(task: RoomTask) -> str:
    """Return a task as text."""
    needs = ", ".join(task["needs"]) or "nothing special"
    access = "step-free access" if task["step_free"] else "no step-free access needed"
    return (
        f"On {task['date']} at {task['time']} for {task['duration_minutes']} minutes, "
        f"{task['attendees']} people, needs: {needs}, {access}."
    )


@agl.rollout(config=agl.RolloutConfig(timeout_seconds=120))
def room_selector(task: RoomTask, prompt_template: agl.PromptTemplate, llm: agl.LLM) -> float:
    """Ask the model, answering its tool calls, until it names a room; return 1.0 for the best one.

    A plain function with a blocking client, which runs in a worker thread of its own.
    """
    messages: list[Any] = [{"role": "user", "content": prompt_template.format(request=as_request(task))}]
    with openai.OpenAI(base_url=llm.endpoint, api_key=llm.api_key or "none", max_retries=2) as client:
        for _ in range(4):
            answer = client.chat.completions.create(
                model=llm.model, messages=messages, tools=[TOOL], **llm.sampling_parameters
            )
            message = answer.choices[0].message
            if not message.tool_calls:
                return float((message.content or "").strip() == task["best_room"])
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                arguments = json.loads(call.function.arguments)
                result = get_rooms_and_availability(task["calendar"], **arguments)
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    agl.emit_message("the model called the tool four times and named no room")
    return 0.0


# The simulated model.

REQUEST = re.compile(r"On (\S+) at (\S+) for (\d+) minutes, (\d+) people, needs: (.+), (step-free|no step-free) access")


def simulated_model(body: Mapping[str, Any]) -> Reply:
    """Call the tool, then follow the prompt to the letter."""
    prompt = body["messages"][0]["content"]
    found = REQUEST.search(prompt)
    if found is None:
        return Reply("I do not understand the request.")
    date, time, duration, people, needs, access = found.groups()
    last = body["messages"][-1]
    if last["role"] != "tool":
        arguments = {"date": date, "time": time, "duration_minutes": int(duration)}
        return Reply(tool_calls=[ToolCall("get_rooms_and_availability", arguments)])
    wanted = set() if needs == "nothing special" else set(needs.split(", "))
    fitting = [
        room
        for room in json.loads(last["content"])
        if room["free"]
        and room["seats"] >= int(people)
        and wanted <= set(room["equipment"])
        and (room["step_free"] or access != "step-free")
    ]
    if "fewest seats" in prompt:
        fitting.sort(key=lambda room: room["seats"])
    return Reply(fitting[0]["id"] if fitting else "none")


async def main(arguments: argparse.Namespace) -> None:
    """Run every prompt over the same tasks and print its rewards."""
    rng = random.Random(arguments.seed)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        calendar = Path(folder) / "calendar.db"
        make_calendar(calendar, rng)
        tasks = make_tasks(calendar, rng, arguments.tasks)
        if arguments.base_url:
            llm = agl.LLM(endpoint=arguments.base_url, model=arguments.model, api_key_env="OPENAI_API_KEY")
        else:
            print("no --base-url: the model is simulated")
            server = await stack.enter_async_context(open_scripted_llm(simulated_model, latency=0.02))
            llm = agl.LLM(endpoint=server.base_url, model=server.model)
        store = agl.InMemoryLightningStore()
        rewarded = False
        for name, text in PROMPTS.items():
            prompt = agl.PromptTemplate(text, engine="f-string")
            runner = agl.Runner(
                room_selector,
                resources={"prompt_template": prompt, "llm": llm},
                store=store,
                max_concurrency=arguments.concurrency,
            )
            started = trio.current_time()
            result = await runner.fit(tasks)
            rate = len(tasks) / (trio.current_time() - started)
            mean = result.mean_reward["train"]
            rewarded = rewarded or mean is not None
            earned = "none" if mean is None else f"{mean:.2f}"
            print(f"{name:>8}: mean reward {earned}, {rate:.0f} rollouts/s, {dict(result.counts)}")
            [rollout] = await store.query_rollouts(run_id_in=[result.run_id], limit=1)
            print(f"\nOne of its traces:\n{agl.format_trace(await store.query_spans(rollout.rollout_id, 'latest'))}\n")
    if not rewarded:
        sys.exit("No rollout was rewarded; is the server there, and the key right?")


def positive(text: str) -> int:
    """Return a positive number from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Choose meeting rooms with tool calls against an SQLite calendar.")
    parser.add_argument("--base-url", default=os.environ.get("OPENAI_BASE_URL"), help="an OpenAI-compatible server")
    parser.add_argument("--model", default=os.environ.get("OPENAI_MODEL", "gpt-4.1-mini"))
    parser.add_argument("--tasks", type=positive, default=40, help="the number of requests (default 40)")
    parser.add_argument("--concurrency", type=positive, default=16, help="rollouts at a time (default 16)")
    parser.add_argument("--seed", type=int, default=7, help="the seed of the calendar and the tasks (default 7)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        trio.run(main, parse(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
