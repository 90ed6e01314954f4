"""The pace of requests, on a clock of our own."""

from bisect import bisect_left
from collections import Counter
from math import inf

import pytest

from stages.core.pacing import CATCH_UP_S, MARGIN, Pacer, Rate, duration_s, retry_after_s


def drive(pacer: Pacer, seconds: float, latency=0.05, tokens=1.0, server=None, start=1000.0) -> list[float]:
    """Send as often as the pacer lets; returns the times. `server(now)` is None or the headers of a 429."""
    now, sent, flying = start, [], []
    while now < start + seconds:
        while flying and flying[0] <= now:
            flying.pop(0)
            refusal = server(now) if server else None
            pacer.over(tokens, refusal or {}, now)
            if refusal is None:
                pacer.answered()
            else:
                pacer.refused(retry_after_s(refusal), now)
        wait = pacer.wait_s(tokens, now)
        if wait <= 0:
            pacer.sent(tokens, now)
            sent.append(now)
            flying.append(now + latency)
        else:
            now = min(now + wait, flying[0] if flying else inf)
    return sent


def most_in(times: list[float], window: float) -> int:
    return max(bisect_left(times, start + window) - i for i, start in enumerate(times))


def test_it_starts_low_grows_by_half_a_round_and_ends_at_the_limit():
    pacer = Pacer(64)
    sent = drive(pacer, 0.5)
    rounds = Counter(int((t - 1000) / 0.05 + 1e-6) for t in sent)
    assert [rounds[r] for r in range(8)] == [8, 12, 18, 27, 40, 60, 64, 64]


def test_a_refusal_takes_a_quarter_at_most_once_a_second_and_ends_the_ramp():
    pacer = Pacer(64)
    pacer.limit = 40.0
    for _ in range(5):
        pacer.refused(None, 1000.0)
    assert pacer.limit == 30 and not pacer.ramping
    pacer.refused(None, 1001.0)
    assert pacer.limit == 22.5
    for _ in range(22):
        pacer.answered()
    assert pacer.limit == pytest.approx(23.5, abs=0.05)  # one a round
    for second in range(60):
        pacer.refused(None, 1002.0 + second)
    assert pacer.limit == 1


def test_random_refusals_do_not_stop_everybody_but_a_storm_does():
    pacer, count = Pacer(64), iter(range(10**9))
    sent = drive(pacer, 20, server=lambda now: {"retry-after": "1"} if next(count) % 10 < 3 else None)
    assert len(sent) > 20 * 83  # 5,000 a minute, with nothing known but that 30% are refused
    for _ in range(10):
        pacer.refused(5.0, 2000.0)
    pacer.in_flight = 0
    assert pacer.wait_s(1, 2000.0) == 5


@pytest.mark.parametrize("rpm", [60, 600, 5000])
def test_no_minute_holds_more_than_the_rate_and_nearly_all_of_it_is_used(rpm):
    sent = drive(Pacer(64, rpm=rpm), 150)
    assert most_in(sent, 60) <= rpm and len(sent) >= 0.98 * rpm * 150 / 60


def test_tokens_are_a_rate_too():
    sent = drive(Pacer(64, tpm=60_000), 130, tokens=500)
    assert most_in(sent, 60) * 500 <= 60_000 and len(sent) >= 0.98 * 260


def test_a_late_wake_up_is_made_good_but_no_long_sleep():
    rate = Rate(60 / MARGIN)
    for now in (0.0, 1.04, 2.04):
        assert rate.wait_s(now) == 0
        rate.take(now)
    assert rate.free_at == pytest.approx(3.04 - CATCH_UP_S + 0.01, abs=0.02)
    rate.take(100.0)
    assert rate.wait_s(100.0) == pytest.approx(1 - CATCH_UP_S)


def test_no_more_is_sent_than_the_server_says_is_left():
    pacer = Pacer(64)
    pacer.limit = 64.0
    for _ in range(10):
        pacer.sent(100, 1000.0)
    told = {"x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-requests": "6s"}
    pacer.over(100, told, 1000.0)
    allowed = 0
    while pacer.wait_s(100, 1000.0) == 0:
        pacer.sent(100, 1000.0)
        allowed += 1
    assert allowed == 12 - 9  # nine are under way, and may not have been counted
    assert pacer.wait_s(100, 1000.0) == inf
    while pacer.in_flight:
        pacer.over(100, {}, 1000.0)
    assert pacer.wait_s(100, 1000.0) == 6 and pacer.wait_s(100, 1006.0) == 0


def test_tokens_left_bound_what_is_sent():
    pacer = Pacer(64)
    pacer.sent(100, 0.0)
    pacer.over(100, {"x-ratelimit-remaining-tokens": "150", "x-ratelimit-reset-tokens": "1m30s"}, 0.0)
    assert pacer.wait_s(100, 0.0) == 0 and pacer.wait_s(200, 0.0) == 90


@pytest.mark.parametrize(
    "remaining, reset, wait",
    [
        ("-1", "0", 0),
        ("nan", "1s", 0),
        ("0", "1790000000", 1),
        ("0", "1e999", 1),
        ("0", None, 1),
        ("0", "2s", 2),
    ],
)
def test_odd_headers_hold_nobody_up_for_long(remaining, reset, wait):
    pacer = Pacer(64)
    pacer.sent(1, 0.0)
    told = {"x-ratelimit-remaining-requests": remaining, "x-ratelimit-reset-requests": reset}
    pacer.over(1, told, 0.0)
    assert pacer.wait_s(1, 0.0) == wait


def test_only_one_request_at_a_time_tries_a_server_that_fails():
    pacer = Pacer(64)
    for n in range(4):
        pacer.failed(sent_at=n, now=n)
    pause = pacer.wait_s(1, 3.0)
    assert 0 < pause <= 2
    pacer.sent(1, 3.0 + pause)
    assert pacer.wait_s(1, 100.0) == inf
    pacer.over(1, {}, 101.0)
    pacer.answered()
    assert pacer.wait_s(1, 101.0) == 0
    pacer.failed(sent_at=200.0, now=201.0)
    for _ in range(50):
        pacer.failed(sent_at=200.5, now=202.0)  # they were under way when it began
    assert pacer.failed_in_a_row == 1


@pytest.mark.parametrize(
    "text, seconds",
    [
        *(("6m0s", 360), ("1.5s", 1.5), ("120ms", 0.12), ("1h2m3s", 3723), ("17", 17), ("1e999", inf)),
        *(
            (odd, None)
            for odd in (None, "", " ", "soon", "1.2.3s", "..s", "s", "1s or so", "in 5s", "nan", "²s")
        ),
    ],
)
def test_durations(text, seconds):
    assert duration_s(text) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after-ms": "300", "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.3),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "1e999"}, inf),
        *(
            ({"retry-after": odd}, None)
            for odd in ("", " ", "nan", "²", "1.2.3", "soon", "1, 2", "32 Oct 2015")
        ),
        ({"retry-after": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
        ({"retry-after-ms": "nan"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_how_long_a_server_asks_to_wait(headers, seconds):
    assert retry_after_s(headers) == seconds
