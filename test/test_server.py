"""The invoke API: one process for several jobs, driven over HTTP as the platform does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from job_files import PATHS, RNA, SLIDE, SLIDE_UUID
from jobs import read_answer, record_contents, run_door, write_job

import inference

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "test" / "input" / "interface_0"
BUNDLE = ROOT / "resources" / "bundle.safetensors"
PATIENCE_SECONDS = 60


@dataclass
class Server:
    """A server in a process of its own, and the folders that it reads and writes at each call."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def job(self) -> Path:
        return self.folder / "input"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def request(self, method: str, path: str) -> tuple[int, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.said("err")
        try:
            return self.request("GET", "/health") == (200, "")
        except ConnectionRefusedError:
            return False

    def invoke(self) -> tuple[int, str]:
        return self.request("POST", "/invoke")

    def addresses(self) -> list[str]:
        """Return where it listens, in the hexadecimal digits of Linux."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        local = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
        return [address for address, port in local if int(port, 16) == self.port]

    def said(self, stream: str) -> str:
        return (self.folder / stream).read_text()


def start(folder: Path) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    paths = ["--input", folder / "input", "--output", folder / "output", "--bundle", BUNDLE]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "inference.py", "serve", "--port", str(port), "--device", "cpu"]
            + [str(path) for path in paths],
            cwd=ROOT,
            stdout=out,
            stderr=err,
        )
    return Server(process, port, folder)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Start a server, wait until it answers, and end it."""
    server = start(folder)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not server.healthy():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """Return the one server, with its folders as the platform leaves them before the first job."""
    for folder in (shared.job, shared.output):
        shutil.rmtree(folder, ignore_errors=True)
    shared.output.mkdir()
    return shared


# --- several jobs, one process --------------------------------------------------------------------


@pytest.mark.slow
def test_each_job_gets_the_exec_containers_answer_a_failing_one_among_them(
    tmp_path: Path, server: Server, contents: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    def place(job: Path) -> None:
        shutil.rmtree(server.job, ignore_errors=True)
        shutil.copytree(job, server.job)

    jobs = {
        "simulated": write_job(tmp_path / "simulated", contents),
        "records": write_job(tmp_path / "records", record_contents(seed=1)),
        "sample": SAMPLE,
        "again": tmp_path / "simulated",  # nothing of the other jobs changes its answer
    }
    broken = write_job(tmp_path / "broken", contents)
    slide = Path(PATHS[SLIDE]) / f"{SLIDE_UUID}.tif"
    (broken / slide).write_bytes(b"not a TIFF")
    answers = {}
    for name, job in jobs.items():
        place(job)
        assert server.invoke() == (201, "")
        answers[name] = read_answer(server.output)
        place(broken)
        status, reason = server.invoke()
        assert status == 500
        assert reason.startswith(f"case 3A_001_HE: {server.job / slide}: expected a ")
        assert server.said("err").splitlines()[-1] == reason
        assert not list(server.output.iterdir())  # not even the answer of the job before

    assert answers["again"] == answers.pop("simulated")
    assert len(set(answers.values())) == len(answers)
    for name, answer in answers.items():
        options = ("--bundle", BUNDLE)
        outcome = run_door(capfd, jobs[name], tmp_path / f"{name}-output", *options)
        assert outcome.answer == answer


@pytest.mark.slow
def test_a_name_that_is_no_text_can_be_said(server: Server, contents: dict[str, Any]) -> None:
    """JSON may hold half a character, which UTF-8 has not."""
    write_job(server.job, contents, name="3A_\ud800_HE")
    assert server.invoke() == (201, "")
    assert read_answer(server.output) > 0
    assert "\ncase 3A_\\ud800_HE: " in server.said("out")
    (server.job / PATHS[SLIDE] / f"{SLIDE_UUID}.tif").write_bytes(b"not a TIFF")
    status, reason = server.invoke()
    assert status == 500
    assert reason.startswith("case 3A_\\ud800_HE: ")


@pytest.mark.slow
def test_only_failures_are_on_stderr(server: Server) -> None:
    said = server.said("err")
    write_job(server.job, record_contents())
    assert server.invoke() == (201, "")
    assert server.said("err") == said
    assert '"POST /invoke HTTP/1.1" 201' in server.said("out")
    shutil.rmtree(server.job)
    reason = f"{server.job}: expected the folder of a job, found no folder"
    assert server.invoke() == (500, reason)
    news = server.said("err").removeprefix(said)
    assert news.startswith("Traceback (most recent call last):\n")
    assert news.endswith(f"\n{reason}\n")


@pytest.mark.slow
def test_it_listens_on_all_addresses_as_the_platform_is_another_machine(server: Server) -> None:
    assert server.addresses() == ["00000000"]


def test_other_calls_score_nothing(server: Server) -> None:
    write_job(server.job, record_contents())
    assert server.request("GET", "/invoke")[0] == 405
    assert server.request("POST", "/health")[0] == 405
    assert server.request("GET", "/")[0] == 404
    assert not list(server.output.iterdir())


# --- the door ------------------------------------------------------------------------------------


def test_an_option_stands_before_the_command_or_after_it() -> None:
    options = inference.parse_arguments(["--input", "a", "serve", "--output", "b"])
    assert (options.input, options.output) == (Path("a"), Path("b"))
    assert (options.bundle, options.device, options.port) == (None, "auto", 4743)


@pytest.mark.slow
def test_a_taken_port_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], server: Server
) -> None:
    options = ("--bundle", BUNDLE, "serve", "--port", server.port)
    outcome = run_door(capfd, SAMPLE, tmp_path / "output", *options)
    expected = f"port {server.port}: expected a free one, found Address already in use"
    assert outcome.sentence.startswith(expected)


def test_a_number_that_is_no_port_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ("--bundle", BUNDLE, "serve", "--port", 2**16)
    outcome = run_door(capfd, SAMPLE, tmp_path / "output", *options)
    assert outcome.sentence == "port: expected 0 to 65535, found 65536"


# --- a case in flight -----------------------------------------------------------------------------


@dataclass
class Held:
    """A call whose job's RNA does not come until `release`."""

    call: Future[tuple[int, str]]
    rna: Path
    content: bytes
    pipe: int

    def release(self) -> None:
        """Let the call have its RNA, and later ones theirs."""
        self.rna.unlink()
        self.rna.write_bytes(self.content)
        with os.fdopen(self.pipe, "wb") as pipe:
            pipe.write(self.content)


@pytest.fixture
def caller() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as caller:
        yield caller


def hold(server: Server, caller: ThreadPoolExecutor) -> Held:
    """Call the server, and wait until it waits for the job's RNA."""
    rna = write_job(server.job, record_contents()) / PATHS[RNA]
    content = rna.read_bytes()
    rna.unlink()
    os.mkfifo(rna)
    call = caller.submit(server.invoke)
    while True:
        assert not call.done()
        try:
            pipe = os.open(rna, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            time.sleep(0.01)
        else:
            os.set_blocking(pipe, True)
            return Held(call, rna, content, pipe)


@pytest.mark.slow
def test_a_call_waits_for_the_one_before_it_and_health_does_not(
    server: Server, caller: ThreadPoolExecutor
) -> None:
    held = hold(server, caller)
    second = caller.submit(server.invoke)
    assert server.healthy()
    with pytest.raises(TimeoutError):
        second.result(timeout=0.5)
    held.release()
    assert held.call.result() == second.result() == (201, "")
    assert read_answer(server.output) > 0


@pytest.mark.slow
def test_sigterm_ends_it_in_the_middle_of_a_case(
    tmp_path: Path, caller: ThreadPoolExecutor
) -> None:
    with serving(tmp_path) as server:
        server.output.mkdir()
        held = hold(server, caller)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0
        os.close(held.pipe)
        with pytest.raises(ConnectionError):
            held.call.result()
        assert not list(server.output.iterdir())
        assert "Traceback" not in server.said("out")
