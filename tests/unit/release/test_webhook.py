"""The guard's ear: who is let in, what is believed, what waits; over real sockets."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from v13.errors import ReleaseError
from v13.release import webhook
from v13.release.webhook import Alarm, Webhook, read_alarms

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SINCE = NOW - timedelta(minutes=10)
TOKEN = "5ec7e7" * 8


def alert(**more: Any) -> dict[str, Any]:
    labels = {"alertname": "SlowEvents", "instance": "127.0.0.1:8013", "slo": "event_latency", "action": "rollback"}
    made = {
        **{"status": "firing", "labels": labels, "annotations": {"summary": "P95 of 0.4 s"}},
        **{"startsAt": (NOW - timedelta(minutes=1)).isoformat(), "fingerprint": "a1b2c3"},
    }
    return made | more


def labelled(**labels: Any) -> dict[str, Any]:
    one = alert()
    return {**one, "labels": {**one["labels"], **labels}}


def notification(*alerts: Any, **more: Any) -> dict[str, Any]:
    return {"version": "4", "status": "firing", "receiver": "rollback", "alerts": list(alerts)} | more


class Ear:
    """A webhook and whoever calls it."""

    def __init__(self, ear: Webhook) -> None:
        self.ear = ear
        self.url = f"http://127.0.0.1:{ear.port}/alerts"

    def send(self, document: Any, token: str | None = TOKEN, **headers: str) -> httpx.Response:
        shown = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        with httpx.Client(trust_env=False) as client:
            return client.post(self.url, content=body, headers={"Content-Type": "application/json"} | shown | headers)

    def taken(self) -> list[Alarm]:
        found = []
        while not self.ear.alarms.empty():
            found.append(self.ear.alarms.get_nowait())
        return found


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Webhook("127.0.0.1", 0, TOKEN, since=lambda: SINCE, now=lambda: NOW) as one:
        yield Ear(one)


def test_a_firing_rollback_alert_goes_into_the_queue_as_it_was_sent(ear: Ear) -> None:
    assert ear.send(notification(alert())).status_code == 200
    started = NOW - timedelta(minutes=1)
    assert ear.taken() == [Alarm("SlowEvents", "127.0.0.1:8013", "event_latency", "P95 of 0.4 s", started, "a1b2c3")]


def test_it_says_that_it_listens_without_a_token(ear: Ear) -> None:
    answer = httpx.get(ear.url.replace("/alerts", "/-/healthy"), trust_env=False)
    assert (answer.status_code, answer.text) == (200, "the guard listens\n")


@pytest.mark.parametrize("token", [None, "wrong", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), f"{TOKEN} {TOKEN}"])
def test_without_the_token_nothing_is_taken(ear: Ear, token: str | None) -> None:
    answer = ear.send(notification(alert()), token)
    assert (answer.status_code, answer.text) == (401, "expected the guard's token\n")
    assert ear.taken() == []


def test_the_token_counts_as_a_bearer_only(ear: Ear) -> None:
    assert ear.send(notification(alert()), None, Authorization=f"Basic {TOKEN}").status_code == 401
    for shown in (TOKEN, "Bearer", "", f"Bearer  {TOKEN}"):
        assert ear.send(notification(alert()), None, Authorization=shown).status_code == 401
    assert ear.send(notification(alert()), None, Authorization=f"bearer {TOKEN}").status_code == 200


def test_a_token_of_strange_bytes_is_only_a_wrong_one(ear: Ear) -> None:
    with httpx.Client(trust_env=False) as client:
        headers = [(b"Content-Type", b"application/json"), (b"Authorization", b"Bearer \xff\xfe\xed\xa0\x80")]
        assert client.post(ear.url, content=b"{}", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/alerts", 405),
        ("PUT", "/alerts", 405),
        ("DELETE", "/alerts", 405),
        ("POST", "/-/healthy", 405),
        ("POST", "/", 404),
        ("POST", "/alerts/../secret", 404),
        ("GET", "/metrics", 404),
    ],
)
def test_nothing_else_is_answered(ear: Ear, method: str, path: str, status: int) -> None:
    with httpx.Client(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = client.request(method, ear.url.replace("/alerts", path), headers=headers, json=notification(alert()))
    assert answer.status_code == status
    assert ear.taken() == []


def test_another_type_than_json_is_refused_unread(ear: Ear) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ear.send(notification(alert()), **form).status_code == 415
    assert ear.taken() == []


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff\xfe", b"null", b"[]", b'"text"', b"1" * 5_000, DEEP),
        *(
            notification(version="3"),
            notification(version=4),
            {"alerts": []},
            notification(alerts={}),
            {"version": "4"},
        ),
        notification(*[alert(fingerprint=str(i)) for i in range(501)]),
        *(notification("alert"), notification(alert(labels=None)), notification(alert(startsAt="yesterday"))),
        *(notification(alert(startsAt=7)), notification(alert(startsAt="2026-03-01T11:59:00"))),
        notification(alert(startsAt="0001-01-01T00:00:00+14:00")),
        *(notification(alert(fingerprint=7)), notification(alert(annotations=[]))),
        *(notification(labelled(alertname=None)), notification(labelled(instance=["127.0.0.1:8013"]))),
    ],
    ids=lambda body: type(body).__name__,  # some are long
)
def test_what_alertmanager_does_not_send_is_refused(ear: Ear, body: Any) -> None:
    assert ear.send(body).status_code == 400
    assert ear.taken() == []


@pytest.mark.parametrize(
    "text", ['x"} or vector(1) #', "a\nb", "a b", "a{b}", "a\\", "ä", "x" * 257, 'SlowEvents",instance=~".*']
)
@pytest.mark.parametrize("label", ["alertname", "instance", "slo"])
def test_a_label_that_could_change_a_query_is_refused(ear: Ear, label: str, text: str) -> None:
    assert ear.send(notification(labelled(**{label: text}))).status_code == 400
    assert ear.taken() == []


def test_one_bad_alert_refuses_all_beside_it(ear: Ear) -> None:
    assert ear.send(notification(alert(), labelled(alertname='"'))).status_code == 400
    assert ear.taken() == []


def test_a_body_may_have_256_kib_and_not_a_byte_more(ear: Ear) -> None:
    body = json.dumps(notification(alert())).encode()
    assert ear.send(body + b" " * (262_144 - len(body))).status_code == 200
    assert ear.send(body + b" " * (262_145 - len(body))).status_code == 413
    assert len(ear.taken()) == 1


def test_a_body_too_large_is_not_read_to_its_end(ear: Ear) -> None:
    """Sent in pieces, without a length that would give it away."""

    def pieces() -> Iterator[bytes]:
        for _ in range(400):
            yield b" " * 1_000

    with httpx.Client(trust_env=False) as client:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        assert client.post(ear.url, content=pieces(), headers=headers).status_code == 413


def test_500_alerts_are_taken(ear: Ear) -> None:
    body = notification(*[{**alert(), "annotations": {}, "fingerprint": f"{i:x}"} for i in range(500)])
    assert ear.send(body).status_code == 200
    assert len(ear.taken()) == 500


@pytest.mark.parametrize("seconds", [-601, -86_400, 61, 86_400])
def test_an_alert_that_is_not_about_what_runs_now_is_refused(ear: Ear, seconds: int) -> None:
    answer = ear.send(notification(alert(startsAt=(NOW + timedelta(seconds=seconds)).isoformat())))
    assert (answer.status_code, ear.taken()) == (409, [])


@pytest.mark.parametrize("seconds", [-600, 60])
def test_at_the_very_bound_it_is_taken(ear: Ear, seconds: int) -> None:
    assert ear.send(notification(alert(startsAt=(NOW + timedelta(seconds=seconds)).isoformat()))).status_code == 200
    assert len(ear.taken()) == 1


def test_a_stale_alert_beside_a_young_one_is_left_out(ear: Ear) -> None:
    stale = alert(startsAt=(SINCE - timedelta(seconds=1)).isoformat(), fingerprint="old")
    answer = ear.send(notification(stale, alert()))
    assert (answer.status_code, answer.text) == (200, "1 taken\n")
    assert [one.fingerprint for one in ear.taken()] == ["a1b2c3"]


def test_the_same_occurrence_is_taken_once_and_the_next_one_again(ear: Ear) -> None:
    for _ in range(3):
        assert ear.send(notification(alert(), alert())).status_code == 200
    # Nanoseconds and Z as Go writes them: still the same time.
    same = alert(startsAt="2026-03-01T11:59:00.000000000Z")
    assert ear.send(notification(same)).status_code == 200
    assert len(ear.taken()) == 1
    assert ear.send(notification(alert(startsAt="2026-03-01T11:59:30Z"))).status_code == 200
    assert ear.send(notification(alert(fingerprint="other"))).status_code == 200
    assert len(ear.taken()) == 2


def test_resolved_alerts_and_those_to_be_looked_at_are_heard_and_ignored(ear: Ear) -> None:
    ignored = [alert(status="resolved"), labelled(action="watch"), labelled(action="ROLLBACK")]
    without = alert(labels={"alertname": "Watchdog"})
    assert ear.send(notification(*ignored, without)).status_code == 200
    assert ear.send(notification()).status_code == 200
    assert ear.taken() == []


def test_a_summary_is_cut_not_trusted(ear: Ear) -> None:
    assert ear.send(notification(alert(annotations={"summary": "x" * 9_000}))).status_code == 200
    (one,) = ear.taken()
    assert len(one.summary) == 500


def test_a_body_that_never_comes_is_waited_for_so_long_and_no_longer(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "BODY_S", 0.05)
    head = f"POST /alerts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", ear.ear.port), timeout=20) as peer:
        peer.sendall((head + "Content-Length: 1000\r\n\r\n{").encode())
        assert peer.recv(4_096).startswith(b"HTTP/1.1 408 ")
    assert ear.send(notification(alert())).status_code == 200  # it goes on


def test_one_who_only_connects_keeps_nobody_else_out(ear: Ear) -> None:
    with socket.create_connection(("127.0.0.1", ear.ear.port)):
        assert ear.send(notification(alert())).status_code == 200


def test_a_full_queue_says_so_and_takes_the_alert_when_there_is_room(ear: Ear) -> None:
    for first in (0, 500):
        full = notification(*[alert(annotations={}, fingerprint=f"{first + i:x}") for i in range(500)])
        assert ear.send(full).status_code == 200
    one_more = notification(alert(fingerprint="last"))
    assert ear.send(one_more).status_code == 503
    assert len(ear.taken()) == 1_000
    assert ear.send(one_more).status_code == 200
    assert [one.fingerprint for one in ear.taken()] == ["last"]


def test_a_port_that_is_taken_is_named(ear: Ear) -> None:
    port = ear.ear.port
    with pytest.raises(ReleaseError, match=rf"cannot listen on 127.0.0.1 port {port}: .*deploy.guard_port"):
        Webhook("127.0.0.1", port, TOKEN, since=lambda: SINCE, now=lambda: NOW).__enter__()
    assert ear.send(notification(alert())).status_code == 200


def test_an_empty_token_lets_nobody_in() -> None:
    with pytest.raises(ReleaseError, match="the guard's token is empty"):
        Webhook("127.0.0.1", 0, "", since=lambda: SINCE, now=lambda: NOW)


def test_the_port_is_free_again_afterwards() -> None:
    with Webhook("127.0.0.1", 0, TOKEN, since=lambda: SINCE, now=lambda: NOW) as one:
        port = one.port
    with Webhook("127.0.0.1", port, TOKEN, since=lambda: SINCE, now=lambda: NOW) as again:
        assert Ear(again).send(notification(alert())).status_code == 200


def test_the_token_is_in_no_answer_and_in_no_log(
    ear: Ear, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    attempts: list[Any] = [notification(alert()), b"{", b"\xff", notification(version=TOKEN[:3]), notification("x")]
    texts = [ear.send(one).text for one in attempts] + [ear.send(one, TOKEN + "0").text for one in attempts]
    assert not [text for text in texts if TOKEN in text]
    out, err = capfd.readouterr()
    assert TOKEN not in caplog.text + out + err


def test_reading_alone_knows_no_time() -> None:
    (one,) = read_alarms(notification(alert(startsAt="1999-01-01T00:00:00+02:00")))
    assert one.starts == datetime(1998, 12, 31, 22, tzinfo=UTC)
