"""Bad input and faults: what the user sees, and that traffic was not disturbed. With a real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.objects import PODS_METRIC, Json, Queue, endpoint_slice, model, oauth, remote, secret, service
from tests.support.backends import Backend, hold, http_backend, status
from tests.support.issuer import CLIENT_ID, CLIENT_SECRET, Issuer
from tests.support.stack import Stack, eventually, running

pytestmark = pytest.mark.integration


class Callers:
    """Somebody asks all the time; nobody may notice anything."""

    def __init__(self, stack: Stack, host: str = "llama") -> None:
        self.statuses: list[int] = []
        self._stack = stack
        self._host = host

    async def ask(self) -> None:
        while True:
            self.statuses.append((await self._stack.ask(self._host, method="POST", data=b"{}")).status)
            await asyncio.sleep(0.01)


@asynccontextmanager
async def undisturbed(stack: Stack, host: str = "llama") -> AsyncIterator[None]:
    """Requests go on while the block runs, and every one is answered with 200."""
    callers = Callers(stack, host)
    task = asyncio.create_task(callers.ask())
    try:
        yield
        before = len(callers.statuses)

        async def some_more() -> bool:
            assert not task.done(), task.exception()
            return len(callers.statuses) > before + 5

        await eventually(some_more)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert set(callers.statuses) == {200}


@asynccontextmanager
async def one_model(
    tmp_path: Path, offloading: Json | None = None, *more: Json, queue: Queue | None = None
) -> AsyncIterator[tuple[Stack, Backend, Backend]]:
    """A model that works, in model.yaml, with its objects in objects.yaml; and its local and remote servers."""
    behave = (queue or Queue()).behaviour()
    async with http_backend("local", behave) as local, http_backend("remote") as far:
        manifest = model(**{"remoteBackend": remote(far), "metrics": [PODS_METRIC], **(offloading or {})})
        if (auth := manifest["spec"]["offloadingConfig"].pop("auth", None)) is not None:
            manifest["spec"]["offloadingConfig"]["remoteBackend"]["authConfig"] = auth
        files = {"model.yaml": [manifest], "objects.yaml": [service(), endpoint_slice(local), *more]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            yield stack, local, far


def changed(stack: Stack, far: Backend, **offloading: Any) -> None:
    stack.write("model.yaml", model(**{"remoteBackend": remote(far), "metrics": [PODS_METRIC], **offloading}))


async def problem(stack: Stack, *words: str) -> None:
    """Waits until the status names a problem of a file with all these words."""
    seen: list[str] = []

    async def named() -> bool:
        seen[:] = [str(p) for p in (await stack.status())["problems"]]
        return any(all(word in text for word in words) for text in seen)

    try:
        await eventually(named)
    except AssertionError:
        raise AssertionError(f"no problem with {words}: {seen}") from None


# Manifests


async def test_a_file_that_turns_malformed_changes_nothing_and_is_named(tmp_path: Path) -> None:
    async with one_model(tmp_path) as (stack, _, _), undisturbed(stack):
        (stack.manifests / "model.yaml").write_text("apiVersion: [unclosed\n")
        await problem(stack, "model.yaml")
        assert (await stack.model())["state"] == "Standby"


async def test_tabs_are_named_with_their_line(tmp_path: Path) -> None:
    async with one_model(tmp_path) as (stack, _, _), undisturbed(stack):
        (stack.manifests / "model.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n")
        await problem(stack, "model.yaml", "tab", "line 4")


@pytest.mark.parametrize(
    ("offloading", "field", "reason"),
    [
        ({"behavior": {"percentage": 101}}, "spec.offloadingConfig.behavior.percentage", "101"),
        ({"remoteBackend": {"host": "http://x"}}, "spec.offloadingConfig.remoteBackend.host", "scheme"),
        ({"remoteBackend": {"host": "a b"}}, "spec.offloadingConfig.remoteBackend.host", "spaces"),
        ({"metrics": [{"type": "Magic"}]}, "spec.offloadingConfig.metrics[0].type", "Magic"),
    ],
)
async def test_a_bad_value_is_named_with_field_and_reason_and_the_last_good_one_stays(
    tmp_path: Path, offloading: Json, field: str, reason: str
) -> None:
    async with one_model(tmp_path) as (stack, _, far), undisturbed(stack):
        changed(stack, far, **offloading)
        await problem(stack, "model.yaml", field, reason)
        found = await stack.condition("Accepted")
        assert found["reason"] == "Invalid"
        assert field in found["message"]
        changed(stack, far)
        await stack.until(lambda m: m["conditions"][0]["status"] == "True")


async def test_an_unknown_kind_is_skipped_with_a_note(tmp_path: Path) -> None:
    async with one_model(tmp_path, None, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}) as (
        s,
        _,
        _,
    ):
        assert "ConfigMap" in s.log
        async with undisturbed(s):
            pass


async def test_defect_17_two_models_of_one_name_and_environment_conflict_in_words(tmp_path: Path) -> None:
    async with one_model(tmp_path) as (stack, _, far), undisturbed(stack):
        second = model("second", remoteBackend=remote(far))
        second["spec"]["model"] = "llama"
        stack.write("second.yaml", second)
        await stack.until(lambda m: m["conditions"][0]["reason"] == "Conflict", "default/second")


async def test_a_reference_to_a_service_that_does_not_exist_is_said(tmp_path: Path) -> None:
    async with one_model(tmp_path) as (stack, _, far), undisturbed(stack):
        stack.write("lost.yaml", model("lost", of="nowhere", remoteBackend=remote(far)))
        found = await stack.until(lambda m: m["conditions"][1]["reason"] == "RefNotFound", "default/lost")
        assert "default/nowhere" in found["conditions"][1]["message"]


async def test_defect_21_a_named_target_port_of_a_service_with_several_ports_is_followed(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        ports = [{"name": "metrics", "port": 9090, "targetPort": 1}, {"name": "web", "port": 80, "targetPort": "http"}]
        slice_ = endpoint_slice(local, port_name="web")
        slice_["ports"].append({"name": "metrics", "port": 1})
        files = {"a.yaml": [service(ports=ports), slice_, model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            assert (await stack.ask("llama")).destination == "local"


async def test_without_any_remote_everything_stays_local_and_the_status_says_so(tmp_path: Path) -> None:
    queue = Queue(50)
    async with one_model(tmp_path, {"remoteBackend": None}, queue=queue) as (stack, _, far), undisturbed(stack):
        found = await stack.until(lambda m: m["state"] == "Overflowing")
        assert found["share_ppm"] == 0
        assert "No remote" in found["message"]
        assert (await stack.condition("RemoteReady"))["reason"] == "NoRemote"
        assert far.hits == 0


def certificate_only_envoy_refuses() -> str:
    """It claims to be of version 1, which has no extensions, and has some. OpenSSL does not mind."""
    der = ssl.PEM_cert_to_DER_cert(trustme.CA().cert_pem.bytes().decode())
    return ssl.DER_cert_to_PEM_cert(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020100"), 1))


async def test_an_authority_that_only_envoy_finds_fault_with_is_refused_and_others_move_on(tmp_path: Path) -> None:
    """Envoy refuses the bad model's remote; the other model's share and endpoints keep moving."""
    queue, junk = Queue(), secret("junk", ca=certificate_only_envoy_refuses())
    async with one_model(tmp_path, None, junk, queue=queue) as (stack, _, far):
        async with undisturbed(stack):
            bad = {"host": "bad.example.com", "scheme": "https", "tls": {"caRef": {"name": "junk", "key": "ca"}}}
            stack.write("bad.yaml", model("bad", remoteBackend=bad))
            found = await stack.until(lambda m: "refused by" in m["conditions"][4]["message"], "default/bad")
            assert "certificate" in found["conditions"][4]["message"]
            queue.length = 20
            await stack.until(lambda m: m["state"] == "Overflowing")

            async def moved() -> bool:
                return (await stack.ask("llama")).destination == "remote-0"

            await eventually(moved)
            assert far.hits > 0
        assert (await stack.condition("Programmed"))["status"] == "True"


# Metrics


async def test_a_metric_that_falls_silent_holds_the_share_and_is_said(tmp_path: Path) -> None:
    queue = Queue(20)
    offloading = {"behavior": {"percentage": 50, "activationSeconds": 1, "staleSeconds": 3}}
    async with one_model(tmp_path, offloading, queue=queue) as (stack, _, _), undisturbed(stack):
        await stack.until(lambda m: m["state"] == "Overflowing")
        queue.length = None
        found = await stack.until(lambda m: m["reason"] == "MetricsUnavailable")
        assert (found["state"], found["share_ppm"]) == ("Overflowing", 500_000)
        assert (await stack.condition("MetricsAvailable"))["status"] == "False"


async def test_defect_13_a_metric_that_has_no_source_here_says_what_to_use_instead(tmp_path: Path) -> None:
    cpu = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
    }
    async with one_model(tmp_path, {"metrics": [cpu]}) as (stack, _, _), undisturbed(stack):
        found = await stack.condition("MetricsAvailable")
        assert (found["status"], found["reason"]) == ("False", "NoSource")
        assert "Prometheus" in found["message"]


# Credentials


async def test_a_remote_gets_traffic_with_a_token_and_callers_keep_theirs(tmp_path: Path) -> None:
    queue = Queue(20)
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as issuer:
        auth = oauth(issuer.token_url)
        more = secret("credentials", client_secret=CLIENT_SECRET)
        async with one_model(tmp_path, {"auth": auth}, more, queue=queue) as (stack, local, far), undisturbed(stack):
            await stack.until(lambda m: m["share_ppm"] == 500_000)

            async def both() -> bool:
                await stack.ask("llama", headers={"Authorization": "Bearer of-the-caller", "Cookie": "c=1"})
                return far.hits > 0 and local.hits > 0

            await eventually(both)
            for seen in far.seen:
                token = seen.headers["authorization"].removeprefix("Bearer ")
                assert issuer.valid(token)
                assert "cookie" not in seen.headers
            asked = [seen for seen in local.seen if "cookie" in seen.headers]
            assert {seen.headers["authorization"] for seen in asked} <= {"Bearer of-the-caller"}
            tokens = list(issuer.grants)
            shown = str(await stack.status()) + stack.log + str(stack.access_log)
            assert not any(token in shown for token in tokens)
            assert CLIENT_SECRET not in shown


async def test_a_wrong_client_secret_keeps_everything_local_and_says_so_without_it(tmp_path: Path) -> None:
    queue = Queue(20)
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as issuer:
        more = secret("credentials", client_secret="wr0ng-secret")
        async with one_model(tmp_path, {"auth": oauth(issuer.token_url)}, more, queue=queue) as (stack, _, far):
            async with undisturbed(stack):
                found = await stack.until(lambda m: m["state"] == "Overflowing")
                assert found["share_ppm"] == 0
                message = (await stack.condition("RemoteReady"))["message"]
                assert "invalid_client" in message
                assert "wr0ng-secret" not in message + stack.log
                assert far.hits == 0
            stack.write("objects2.yaml", secret("other", x="y"))


async def test_an_issuer_that_is_down_at_start_is_asked_again(tmp_path: Path) -> None:
    queue = Queue(20)
    with Issuer({CLIENT_ID: CLIENT_SECRET}) as issuer:
        issuer.down()
        more = secret("credentials", client_secret=CLIENT_SECRET)
        started = one_model(tmp_path, {"auth": oauth(issuer.token_url)}, more, queue=queue)
        async with started as (stack, _, _), undisturbed(stack):
            await stack.until(lambda m: m["state"] == "Overflowing" and m["share_ppm"] == 0)
            issuer.up()
            await stack.until(lambda m: m["share_ppm"] == 500_000)


async def test_an_issuer_that_goes_down_later_takes_nothing_before_the_token_expires(tmp_path: Path) -> None:
    queue = Queue(20)
    with Issuer({CLIENT_ID: CLIENT_SECRET}, lifetime_s=6) as issuer:
        more = secret("credentials", client_secret=CLIENT_SECRET)
        started = one_model(tmp_path, {"auth": oauth(issuer.token_url)}, more, queue=queue)
        async with started as (stack, _, _), undisturbed(stack):
            await stack.until(lambda m: m["share_ppm"] == 500_000)
            issuer.down()
            await stack.until(lambda m: m["share_ppm"] == 0)
            assert "expired" in (await stack.condition("RemoteReady"))["message"]
            issuer.up()
            await stack.until(lambda m: m["share_ppm"] == 500_000)


# Processes and destinations


async def test_defect_10_an_envoy_that_is_killed_comes_back_with_the_same_configuration(tmp_path: Path) -> None:
    queue = Queue(20)
    async with one_model(tmp_path, None, queue=queue) as (stack, _, _):
        await stack.until(lambda m: m["state"] == "Overflowing")
        pid = json.loads((tmp_path / "state" / "envoy.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)

        async def serves_both() -> bool:
            try:
                found = {(await stack.ask("llama")).destination for _ in range(20)}
            except OSError:
                return False
            return found == {"local", "remote-0"}

        await eventually(serves_both)
        assert "Envoy ended and is started again" in stack.log


@pytest.mark.parametrize("code", [400, 401, 404, 422, 500])
async def test_defect_5_an_error_of_the_application_passes_once_and_unchanged(tmp_path: Path, code: int) -> None:
    async with http_backend("local", status(code)) as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local), model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            reply = await stack.ask("llama", method="POST", data=b"{}")
            assert (reply.status, reply.body) == (code, f"local says {code}")
            assert (local.hits, far.hits) == (1, 0)


async def test_defect_4_with_local_refusing_every_post_is_served_elsewhere(tmp_path: Path) -> None:
    async with one_model(tmp_path, {"metrics": []}) as (stack, local, far):
        dead = endpoint_slice(local)
        dead["ports"][0]["port"] = 1
        stack.write("objects.yaml", service(), dead)
        await stack.until(lambda m: m["local"]["endpoints"] == [f"{local.host}:1"])

        async def away() -> bool:
            return (await stack.ask("llama", method="POST", data=b"{}")).destination == "remote-0"

        await eventually(away)
        replies = [await stack.ask("llama", method="POST", data=b"{}") for _ in range(100)]
        assert {(reply.status, reply.destination) for reply in replies} == {(200, "remote-0")}
        assert far.hits > 100


async def test_a_full_local_spills_and_the_access_log_says_why(tmp_path: Path) -> None:
    async with http_backend("local", hold) as local, http_backend("remote") as far:
        offloading: Json = {"localLimit": {"maxConcurrentRequestsPerReplica": 2}, "remoteBackend": remote(far)}
        files = {"a.yaml": [service(), endpoint_slice(local), model(**offloading)]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            held = [asyncio.create_task(stack.ask("llama")) for _ in range(2)]

            async def full() -> bool:
                return local.hits == 2

            await eventually(full)
            spilled = [await stack.ask("llama", method="POST", data=b"{}") for _ in range(5)]
            assert {(reply.status, reply.destination) for reply in spilled} == {(200, "remote-0")}
            local.gate.set()
            assert {(await each).destination for each in held} == {"local"}

            async def logged() -> bool:
                return len(stack.access_log) >= 7

            await eventually(logged)
            line = next(each for each in stack.access_log if each["destination"] == "remote-0")
            assert (line["model"], line["attempts"]) == ("default/llama", 2)
            assert "UO" in line["errors"]["local"]
