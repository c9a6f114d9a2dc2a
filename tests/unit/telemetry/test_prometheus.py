"""The client of Prometheus: what others may answer on its port, and how it is reached on this machine."""

from __future__ import annotations

import pytest

from tests.unit.release.small_rig import FakePrometheus, served
from v13.errors import ConfigError, DataError, V13Error
from v13.telemetry.prometheus import Prometheus

VECTOR = '{"status":"success","data":{"resultType":"vector","result":[%s]}}'


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ('{"status":"success"}', ConfigError),
        ('{"status":"success","data":null}', ConfigError),
        ('{"status":"success","data":[]}', ConfigError),
        (VECTOR % "{}", DataError),
        (VECTOR % "7", DataError),
        (VECTOR % '{"metric":{},"value":[1,"x"]}', DataError),
        (VECTOR % '{"metric":{},"value":[]}', DataError),
    ],
)
def test_an_answer_of_something_else_is_an_error_in_words(document: str, error: type[V13Error]) -> None:
    with served() as web, Prometheus(web.url) as prometheus:
        web.answer = lambda _path, _body: (200, document)
        with pytest.raises(error):
            prometheus.instant("up", 1.0)


def test_a_proxy_of_the_shell_is_not_asked_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with served(FakePrometheus()) as web, Prometheus(web.url) as prometheus:
        assert prometheus.instant("up", 1.0) == []
