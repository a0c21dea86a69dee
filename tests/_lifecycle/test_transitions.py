"""The state machine of rollouts and attempts: pure functions from a position to a move."""

from __future__ import annotations

from typing import Any, get_args

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightning_trio import AttemptStatus, RolloutConfig, RolloutStatus, StaleAttempt
from lightning_trio._lifecycle import TERMINAL_ATTEMPT, TERMINAL_ROLLOUT
from lightning_trio._records import FINAL, GIVE_BACK, REPORTER_RETRIES, RETRY_NOW, GiveBack, Next, RetryIn
from lightning_trio.store import (
    Move,
    RolloutPosition,
    begin_attempt,
    change_attempt,
    change_rollout,
    check_removal,
    end_attempt,
    lose_attempt,
    note_heartbeat,
    worker_status,
)

RUNNING: tuple[AttemptStatus, ...] = ("preparing", "running")
ENDS: list[AttemptStatus] = [status for status in get_args(AttemptStatus) if status in TERMINAL_ATTEMPT]
RETRYABLE: list[AttemptStatus] = ["failed", "timeout", "unresponsive"]

configs = st.none() | st.builds(
    RolloutConfig,
    max_attempts=st.integers(1, 4),
    max_lost_attempts=st.integers(1, 4),
    retry_condition=st.lists(st.sampled_from(RETRYABLE), unique=True),
    retry_exceptions=st.sampled_from([(), ("builtins.OSError",)]),
)
followings: st.SearchStrategy[Next] = st.sampled_from(
    [GIVE_BACK, GiveBack(queued=False), RETRY_NOW, RetryIn(5.0), REPORTER_RETRIES, FINAL]
)


def begun(position: RolloutPosition) -> RolloutPosition:
    """Return the position of a rollout whose next attempt begins."""
    attempt_id = f"at-{int((position.attempt_id or 'at-0')[3:]) + 1}"
    after = position.after(begin_attempt(position))
    return attrs.evolve(after, attempt_id=attempt_id, attempt_status="preparing", counted=after.counted + 1)


@st.composite
def positions(draw: st.DrawFn) -> RolloutPosition:
    """Return any position that a rollout can be in."""
    status: RolloutStatus = draw(st.sampled_from(get_args(RolloutStatus)))
    over = status in TERMINAL_ROLLOUT
    attempt_status = draw(st.sampled_from([None, *ENDS] if over else [None, *get_args(AttemptStatus)]))
    return RolloutPosition(
        "ro-1",
        status,
        draw(st.booleans()) if status in ("queuing", "requeuing") else False,
        None if attempt_status is None else "at-2",
        attempt_status,
        0 if attempt_status is None else draw(st.integers(1, 4)),
        draw(st.integers(0, 3)),
        draw(configs),
    )


def runs(position: RolloutPosition) -> bool:
    return position.attempt_status in RUNNING


# What each event may do, from any position.


@settings(deadline=None)
@given(positions())
def test_an_ended_rollout_never_changes(position: RolloutPosition) -> None:
    ended = attrs.evolve(position, status="succeeded", queued=False, attempt_id="at-2", attempt_status="succeeded")

    for status in get_args(RolloutStatus):
        if status == "succeeded":
            assert change_rollout(ended, status) is None
        else:
            with pytest.raises(StaleAttempt, match="ro-1 is succeeded, which is final; it cannot become"):
                change_rollout(ended, status)
    for attempt_status in ("running", "failed"):
        with pytest.raises(StaleAttempt, match="it can no longer become"):
            change_attempt(ended, "at-2", "succeeded", attempt_status)
    with pytest.raises(StaleAttempt, match="enqueue its task again instead"):
        begin_attempt(ended)
    assert end_attempt(ended, "at-2", "failed") is None
    assert note_heartbeat(ended, "at-2") is None
    assert lose_attempt(ended, "at-2") is None


@settings(deadline=None)
@given(positions(), st.sampled_from(ENDS), followings)
def test_a_report_counts_for_the_running_attempt_only(
    position: RolloutPosition, status: AttemptStatus, following: Next
) -> None:
    assert end_attempt(position, "at-1", status, following) is None
    move = end_attempt(position, "at-2", status, following)

    assert (move is not None) == runs(position)
    if move is not None:
        assert move.attempt_status == status
        assert move.status in TERMINAL_ROLLOUT or move.status == "requeuing"


@settings(deadline=None)
@given(positions())
def test_a_superseded_attempt_ends_as_unresponsive(position: RolloutPosition) -> None:
    if position.status not in TERMINAL_ROLLOUT:
        assert begin_attempt(position) == Move("preparing", "unresponsive" if runs(position) else None)


@settings(deadline=None)
@given(positions())
def test_a_heartbeat_makes_the_running_attempt_and_its_rollout_running(position: RolloutPosition) -> None:
    assert note_heartbeat(position, "at-1") is None
    assert note_heartbeat(position, "at-2") == (Move("running", "running") if runs(position) else None)


@settings(deadline=None)
@given(positions())
def test_a_lost_attempt_does_not_count_and_is_followed_by_another_until_too_many_are(
    position: RolloutPosition,
) -> None:
    move = lose_attempt(position, "at-2")

    assert lose_attempt(position, "at-1") is None
    assert (move is not None) == runs(position)
    if move is not None:
        assert (move.attempt_status, move.counts, move.lost) == ("unresponsive", False, True)
        most = (position.config or RolloutConfig()).max_lost_attempts
        assert move.status == ("requeuing" if position.lost + 1 < most else "failed")
        assert move.queue_in == (0.0 if move.status == "requeuing" else None)


@settings(deadline=None)
@given(positions(), st.sampled_from(ENDS))
def test_an_attempt_given_back_is_queued_at_once_and_does_not_count(
    position: RolloutPosition, status: AttemptStatus
) -> None:
    if runs(position):
        assert end_attempt(position, "at-2", status, GIVE_BACK) == Move("requeuing", status, 0.0, counts=False)
        repeated = Move("requeuing", status, None, counts=False)
        assert end_attempt(position, "at-2", status, GiveBack(queued=False)) == repeated


@settings(deadline=None)
@given(positions(), st.sampled_from(RETRYABLE))
def test_what_follows_a_failed_attempt(position: RolloutPosition, status: AttemptStatus) -> None:
    if not runs(position):
        return
    config = position.config or RolloutConfig()
    named = status in config.retry_condition or (status == "failed" and bool(config.retry_exceptions))
    granted = named and position.counted < config.max_attempts
    failed = Move("failed", status)

    assert end_attempt(position, "at-2", status, FINAL) == failed
    for following, queue_in in ((RetryIn(5.0), 5.0), (RETRY_NOW, 0.0), (REPORTER_RETRIES, None)):
        wanted = Move("requeuing", status, queue_in) if granted else failed
        assert end_attempt(position, "at-2", status, following) == wanted


@settings(deadline=None)
@given(positions(), st.sampled_from(get_args(RolloutStatus)))
def test_a_rollout_changed_by_hand_has_the_status_and_no_running_attempt_once_it_has_ended(
    position: RolloutPosition, status: RolloutStatus
) -> None:
    if position.status in TERMINAL_ROLLOUT:
        return
    move = change_rollout(position, status)

    after = position if move is None else position.after(move)
    assert after.status == status
    assert not (runs(after) and status in TERMINAL_ROLLOUT)
    assert after.queued == (status in ("queuing", "requeuing"))
    assert change_rollout(after, status) is None


@settings(deadline=None)
@given(positions(), st.sampled_from(get_args(AttemptStatus)))
def test_an_attempt_changed_by_hand_moves_its_rollout_as_a_report_does(
    position: RolloutPosition, status: AttemptStatus
) -> None:
    before = position.attempt_status
    if before is None or not runs(position) or status == before:
        return

    assert change_attempt(position, "at-2", before, status) == end_attempt(position, "at-2", status, RETRY_NOW)
    assert change_attempt(position, "at-2", before, before) is None
    with pytest.raises(StaleAttempt, match="attempt at-1 of rollout ro-1 is failed"):
        change_attempt(position, "at-1", "failed", "succeeded")


@settings(deadline=None)
@given(positions())
def test_statuses_that_there_are_not_are_refused(position: RolloutPosition) -> None:
    unknown: Any = "queueing"

    with pytest.raises(ValueError, match="status='queueing' is not a rollout status; write one of"):
        change_rollout(position, unknown)
    with pytest.raises(ValueError, match="status='queueing' is not an attempt status; write one of"):
        change_attempt(position, "at-2", "running", unknown)


@settings(deadline=None)
@given(positions())
def test_only_a_rollout_that_has_ended_can_be_removed(position: RolloutPosition) -> None:
    if position.status in TERMINAL_ROLLOUT:
        check_removal(position)
    else:
        with pytest.raises(ValueError, match=f"ro-1 is {position.status}; only finished rollouts can be removed"):
            check_removal(position)


def test_what_a_worker_is_noted_as() -> None:
    noted = {status: worker_status(status) for status in get_args(AttemptStatus)}

    assert noted == {
        "preparing": "busy",
        "running": "busy",
        "failed": "idle",
        "succeeded": "idle",
        "cancelled": "idle",
        "unresponsive": "unknown",
        "timeout": "unknown",
    }


# Where events lead, one after the other.


class Rollouts(RuleBasedStateMachine):
    """The life of one rollout: events in any order, including late ones."""

    by_hand = True

    def __init__(self) -> None:
        super().__init__()
        self.position = RolloutPosition("ro-1", "queuing", queued=True)
        self.history: dict[str, AttemptStatus] = {}
        self.reporter_retries = False

    def follow(self, move: Move | None) -> None:
        if move is not None:
            self.position = self.position.after(move)
            self.reporter_retries = False
        self.note()

    def note(self) -> None:
        if self.position.attempt_id is not None and self.position.attempt_status is not None:
            before = self.history.get(self.position.attempt_id)
            assert before not in TERMINAL_ATTEMPT or self.position.attempt_status == before
            self.history[self.position.attempt_id] = self.position.attempt_status

    @precondition(lambda self: not self.history)
    @rule(config=configs)
    def configure(self, config: RolloutConfig | None) -> None:
        self.position = attrs.evolve(self.position, config=config)

    @precondition(lambda self: self.position.queued or self.reporter_retries)
    @rule()
    def begin(self) -> None:
        if runs(self.position):
            self.history[str(self.position.attempt_id)] = "unresponsive"
        self.position = begun(self.position)
        self.reporter_retries = False
        self.note()

    @rule(number=st.integers(1, 6), status=st.sampled_from(ENDS), following=followings)
    def end(self, number: int, status: AttemptStatus, following: Next) -> None:
        move = end_attempt(self.position, f"at-{number}", status, following)
        self.follow(move)
        if move is not None:
            self.reporter_retries = move.status == "requeuing" and move.queue_in is None

    @rule(number=st.integers(1, 6))
    def hear(self, number: int) -> None:
        self.follow(note_heartbeat(self.position, f"at-{number}"))

    @rule(number=st.integers(1, 6))
    def lose(self, number: int) -> None:
        self.follow(lose_attempt(self.position, f"at-{number}"))

    @invariant()
    def an_ended_rollout_has_no_running_attempt_and_no_place(self) -> None:
        if self.position.status in TERMINAL_ROLLOUT:
            assert not runs(self.position)
            assert not self.position.queued

    @invariant()
    def at_most_one_attempt_runs(self) -> None:
        running = [attempt_id for attempt_id, status in self.history.items() if status in RUNNING]
        assert running in ([], [self.position.attempt_id])

    @invariant()
    def the_bounds_hold(self) -> None:
        config = self.position.config or RolloutConfig()
        assert 0 <= self.position.counted <= config.max_attempts
        assert self.position.lost <= config.max_lost_attempts

    @invariant()
    def it_comes_to_an_end_if_every_attempt_fails(self) -> None:
        config = self.position.config or RolloutConfig()
        position = self.position
        for _ in range(config.max_attempts + 1):
            if position.status in TERMINAL_ROLLOUT:
                return
            position = position if runs(position) else begun(position)
            move = end_attempt(position, str(position.attempt_id), "failed", RETRY_NOW)
            assert move is not None
            position = position.after(move)
        raise AssertionError(f"{position} has not come to an end")

    @invariant()
    def it_comes_to_an_end_if_every_attempt_is_lost(self) -> None:
        position = self.position
        for _ in range((position.config or RolloutConfig()).max_lost_attempts + 1):
            if position.status in TERMINAL_ROLLOUT:
                return
            position = position if runs(position) else begun(position)
            move = lose_attempt(position, str(position.attempt_id))
            assert move is not None
            position = position.after(move)
        raise AssertionError(f"{position} has not come to an end")


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(deadline=None, max_examples=100, stateful_step_count=30)


class RolloutsChangedByHand(Rollouts):
    """The same with explicit status changes, which may lead to more attempts than the configuration grants."""

    @rule(status=st.sampled_from(get_args(RolloutStatus)))
    def change_rollout(self, status: RolloutStatus) -> None:
        if self.position.status in TERMINAL_ROLLOUT and status != self.position.status:
            with pytest.raises(StaleAttempt):
                change_rollout(self.position, status)
        else:
            self.follow(change_rollout(self.position, status))

    @rule(number=st.integers(1, 6), status=st.sampled_from(get_args(AttemptStatus)))
    def change_attempt(self, number: int, status: AttemptStatus) -> None:
        attempt_id = f"at-{number}"
        before = self.history.get(attempt_id)
        if before is None or before == status:
            return
        if runs(self.position) and attempt_id == self.position.attempt_id:
            self.follow(change_attempt(self.position, attempt_id, before, status))
        else:
            with pytest.raises(StaleAttempt):
                change_attempt(self.position, attempt_id, before, status)

    @invariant()
    def the_bounds_hold(self) -> None:
        assert 0 <= self.position.counted <= len(self.history)


TestRolloutsChangedByHand = RolloutsChangedByHand.TestCase
TestRolloutsChangedByHand.settings = settings(deadline=None, max_examples=100, stateful_step_count=30)
