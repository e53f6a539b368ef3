"""`spillway run` as a user runs it: a directory, a real Envoy, requests through it."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.objects import PODS_METRIC, Queue, endpoint_slice, model, remote, service
from tests.support.backends import hold, http_backend
from tests.support.stack import eventually, running

pytestmark = pytest.mark.integration


async def test_callers_may_use_every_name_in_any_case_and_with_a_port(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local), model("my-model", remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed("default/my-model")
            for host in (
                "llama",
                "llama.default",
                "LLAMA.default.svc",
                "llama.default.svc.cluster.local:8080",
                "my-model",
            ):
                reply = await stack.ask(host, "/v1/models")
                assert (reply.status, reply.destination) == (200, "local"), host
            assert far.hits == 0


async def test_defect_6_an_unknown_host_is_a_404_that_names_it(tmp_path: Path) -> None:
    async with running(tmp_path, {}) as stack:
        reply = await stack.ask("nobody.example.com")
        assert reply.status == 404
        assert "nobody.example.com" in reply.body
        assert reply.headers["content-type"] == "application/json"


async def test_an_overflow_goes_out_and_comes_back_and_out_again(tmp_path: Path) -> None:
    queue = Queue()
    async with http_backend("local", queue.behaviour()) as local, http_backend("remote") as far:
        offloading = model(remoteBackend=remote(far), metrics=[PODS_METRIC])
        async with running(tmp_path, {"a.yaml": [service(), endpoint_slice(local), offloading]}) as stack:
            for _ in range(2):
                queue.length = 20
                await stack.until(lambda m: m["state"] == "Overflowing")
                await _until_some_go(stack, "remote-0")
                queue.length = 0
                await stack.until(lambda m: m["state"] == "Standby")
                await _until_none_go(stack, "remote-0")


async def _until_some_go(stack, destination: str) -> None:  # type: ignore[no-untyped-def]
    async def seen() -> bool:
        return destination in [(await stack.ask("llama")).destination for _ in range(20)]

    await eventually(seen, f"some requests go to {destination}")


async def _until_none_go(stack, destination: str) -> None:  # type: ignore[no-untyped-def]
    async def none() -> bool:
        return destination not in [(await stack.ask("llama")).destination for _ in range(20)]

    await eventually(none, f"no request goes to {destination}")


async def test_a_changed_file_takes_effect_and_a_removed_one_too(tmp_path: Path) -> None:
    async with http_backend("one") as one, http_backend("two") as two, http_backend("far") as far:
        files = {
            "model.yaml": [service(), model(remoteBackend=remote(far))],
            "slice.yaml": [endpoint_slice(one)],
        }
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            assert (await stack.ask("llama")).headers["x-backend"] == "one"
            stack.write("slice.yaml", endpoint_slice(two))

            async def moved() -> bool:
                return (await stack.ask("llama")).headers.get("x-backend") == "two"

            await eventually(moved)
            (stack.manifests / "model.yaml").unlink()

            async def gone() -> bool:
                return (await stack.ask("llama")).status == 404

            await eventually(gone)


async def test_local_down_is_failover_and_local_back_is_local(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = {"m.yaml": [service(), model(remoteBackend=remote(far))], "s.yaml": [endpoint_slice(local)]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            stack.write("s.yaml", endpoint_slice(local, ready=False))
            await stack.until(lambda m: m["state"] == "Failover")
            for _ in range(10):
                reply = await stack.ask("llama", method="POST", data=b"{}")
                assert (reply.status, reply.destination) == (200, "remote-0")
            stack.write("s.yaml", endpoint_slice(local))
            await stack.until(lambda m: m["state"] == "Standby")
            await _until_none_go(stack, "remote-0")


async def test_stopping_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    async with http_backend("local", hold) as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local), model(remoteBackend=remote(far))]}
        async with running(tmp_path, files, arguments=["--drain-seconds", "30"]) as stack:
            await stack.until_programmed()
            request = asyncio.create_task(stack.ask("llama"))

            async def arrived() -> bool:
                return local.hits == 1

            await eventually(arrived)
            stopping = asyncio.create_task(stack.stop())
            await asyncio.sleep(0.2)
            local.gate.set()
            assert (await request).status == 200
            assert await stopping == 0


async def test_defect_20_a_restart_in_the_middle_of_an_overflow_moves_no_traffic(tmp_path: Path) -> None:
    queue = Queue(20)
    async with http_backend("local", queue.behaviour()) as local, http_backend("remote") as far:
        offloading = model(remoteBackend=remote(far), metrics=[PODS_METRIC])
        async with running(tmp_path, {"a.yaml": [service(), endpoint_slice(local), offloading]}) as stack:
            before = await stack.until(lambda m: m["state"] == "Overflowing")
            queue.length = None
            assert await stack.stop() == 0
            stack.start()
            await stack.ready()
            after = await stack.model()
            assert (after["state"], after["share_ppm"], after["since_s"]) == ("Overflowing", 500_000, before["since_s"])
            await _until_some_go(stack, "remote-0")


async def test_a_controller_that_is_killed_disturbs_nobody_and_the_next_adopts_its_envoy(tmp_path: Path) -> None:
    queue = Queue(20)
    async with http_backend("local", queue.behaviour()) as local, http_backend("remote") as far:
        offloading = model(remoteBackend=remote(far), metrics=[PODS_METRIC])
        async with running(tmp_path, {"a.yaml": [service(), endpoint_slice(local), offloading]}) as stack:
            await stack.until(lambda m: m["state"] == "Overflowing")
            await _until_some_go(stack, "remote-0")
            await stack.stop(signal.SIGKILL)
            replies = [await stack.ask("llama", method="POST", data=b"{}") for _ in range(40)]
            assert {reply.status for reply in replies} == {200}
            assert {reply.destination for reply in replies} == {"local", "remote-0"}
            stack.start()
            await stack.ready()
            assert "adopted the Envoy" in stack.log
            await stack.until_programmed()
            assert (await stack.model())["state"] == "Overflowing"
            assert {(await stack.ask("llama")).status for _ in range(20)} == {200}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_while_a_manifest_is_bad_takes_no_model_down(tmp_path: Path, number: signal.Signals) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local)], "model.yaml": [model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            stack.write("model.yaml", model(remoteBackend=remote(far), behavior={"percentage": 101}))
            await stack.until(lambda m: m["conditions"][0]["reason"] == "Invalid")
            await stack.stop(number)
            stack.start()
            await stack.ready()
            await stack.until(lambda m: m["conditions"][0]["reason"] == "Invalid")
            await stack.until_programmed()
            assert (await stack.ask("llama")).status == 200


async def test_defect_15_a_model_deleted_while_the_controller_was_down_is_gone_when_it_returns(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local)], "model.yaml": [model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            await stack.stop(signal.SIGKILL)
            (stack.manifests / "model.yaml").unlink()
            assert (await stack.ask("llama")).status == 200
            stack.start()
            await stack.ready()

            async def gone() -> bool:
                return (await stack.ask("llama")).status == 404

            await eventually(gone)
            assert "default/llama" not in (tmp_path / "state" / "state.json").read_text()


async def test_defect_12_an_edit_changes_only_what_differs(tmp_path: Path) -> None:
    """A request that is on its way stays, its connection too, and Envoy's clusters are not replaced."""
    async with http_backend("local", hold) as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local)], "model.yaml": [model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            request = asyncio.create_task(stack.ask("llama"))

            async def arrived() -> bool:
                return local.hits == 1

            await eventually(arrived)
            before = await stack.statistic("cluster_manager.cluster_updated")
            changed = {"percentage": 100, "mode": "Force"}
            stack.write("model.yaml", model(remoteBackend=remote(far), behavior=changed))
            await stack.until(lambda m: m["share_ppm"] == 1_000_000)
            await stack.until_programmed()
            assert (await stack.ask("llama")).destination == "remote-0"
            assert await stack.statistic("cluster_manager.cluster_updated") == before
            local.gate.set()
            assert (await request).destination == "local"


async def test_two_controllers_on_one_directory_are_one_too_many(tmp_path: Path) -> None:
    async with running(tmp_path, {}) as stack:
        second = _spillway("run", str(stack.manifests), "--state-dir", str(tmp_path / "state"))
        assert second.returncode == 1
        assert "another spillway" in second.stderr


async def test_a_busy_port_is_named_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag in ("--listen", "--xds", "--admin", "--envoy-admin"):
            free = [
                x for f in ("--listen", "--xds", "--admin", "--envoy-admin") for x in (f, "127.0.0.1:0") if f != flag
            ]
            run = ["run", str(tmp_path / "manifests"), "--state-dir", str(tmp_path / "state"), *free, flag, address]
            ended = _spillway(*run)
            assert ended.returncode == 1
            assert flag in ended.stderr, ended.stderr
            assert address in ended.stderr


async def test_a_listener_that_another_spillway_serves_is_a_busy_port(tmp_path: Path) -> None:
    async with running(tmp_path, {}) as stack:
        free = ("--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--envoy-admin", "127.0.0.1:0")
        other = ("run", str(stack.manifests), "--state-dir", str(tmp_path / "other"))
        ended = await asyncio.to_thread(_spillway, *other, "--listen", stack.addresses["listen"], *free)
        assert ended.returncode == 1
        assert f"--listen {stack.addresses['listen']}" in ended.stderr


async def test_a_killed_controller_may_be_followed_by_one_on_another_listener(tmp_path: Path) -> None:
    async with http_backend("local") as local, http_backend("remote") as far:
        files = {"a.yaml": [service(), endpoint_slice(local), model(remoteBackend=remote(far))]}
        async with running(tmp_path, files) as stack:
            await stack.until_programmed()
            await stack.stop(signal.SIGKILL)
            del stack.addresses["listen"]
            stack.start()
            await stack.ready()
            await stack.until_programmed()
            assert (await stack.ask("llama")).status == 200


async def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "file").write_text("")
    ended = _spillway("run", str(tmp_path / "manifests"), "--state-dir", str(tmp_path / "file"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("spillway: --state-dir")


async def test_status_shows_models_and_gateways_for_people_and_for_programs(tmp_path: Path) -> None:
    async with http_backend("local", Queue(3).behaviour()) as local, http_backend("remote") as far:
        offloading = model(remoteBackend=remote(far), metrics=[PODS_METRIC])
        async with running(tmp_path, {"a.yaml": [service(), endpoint_slice(local), offloading]}) as stack:
            await stack.until_programmed()
            await stack.until(lambda m: m["metrics"][0]["value"] == 3)
            shown = await asyncio.to_thread(_spillway, "status", "--admin", stack.addresses["admin"])
            assert shown.returncode == 0, shown.stderr
            for word in ("default/llama", "Standby", "vllm:num_requests_waiting 3/10", "ready", "ACK"):
                assert word in shown.stdout, shown.stdout
            raw = await asyncio.to_thread(_spillway, "status", "--admin", stack.addresses["admin"], "--output", "json")
            assert '"state": "Standby"' in raw.stdout
        nobody = _spillway("status", "--admin", stack.addresses["admin"])
        assert nobody.returncode == 1
        assert "no controller answers" in nobody.stderr


def _spillway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "controller", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False
    )
