"""Many conversations at once with two servers on one database, one of which is killed in between.

    .venv/bin/python benchmarks/conversations.py --json F [--database postgresql://…] [--seconds 60] [--quick]

200 people talk in Korean with the telecom bot over HTTP, each in a conversation of their own. A person reads and types
for `--think` seconds (uniformly, 1 to 3) between an answer and the next message. Their conversations are spread over
two `haechi bot serve`, each with `--workers` processes, which share one database and both cores of the machine with the
clients. Half-way through one of the two is killed with SIGKILL, its workers too. Whoever gets no answer sends the same
message, under the same id, to the other one. In the end the store is read: every message that was sent must be in it
exactly once, in order, with the very answer that its sender got.

`--saturate` seconds more, with two fresh servers, nobody thinks: so many turns a second pass at most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: the project's folder is not where Python looks
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.figures import HAECHI, ROOT, Figure, print_machine, write
from shared.errors import HaechiError
from shared.records import Records
from shared.streams import StreamEvent, Streams
from solutions.contact_center.dialogue.store import SOLUTION
from solutions.contact_center.service import lines_of

TEMPLATE = ROOT / "solutions" / "contact_center" / "templates" / "telecom-ko"
P95_LIMIT_MS = 100.0
_START_SECONDS = 180.0
_ANSWER_SECONDS = 10.0
"""After which a server counts as gone."""
_STARTED = re.compile(r" at http://127\.0\.0\.1:(\d+)")
_SCRIPTS = (
    ("요금제 바꾸고 싶어요", "5G 프리미엄이요", "010-1234-5678", "아니 스탠다드로요", "네", "고마워요"),
    ("이번 달 요금 얼마나 나왔어요", "010-9876-5432", "이번 달", "건너뛰기", "안녕히 계세요"),
    ("로밍 요금이 궁금해요", "데이터 로밍은 어떻게 신청해요?", "그럼 요금제바꿔주세요", "LTE 알뜰", "취소"),
    ("핸드폰을 잃어버렸어요", "010-2222-3333", "네", "다시 말해 주세요", "오늘 날씨 어때요", "도움말"),
    ("ㅇㄴ 뭐야 이거", "와이파이가 안 돼요", "기사 방문 예약할게요", "내일 오후 3시", "그만할게요", "감사합니다"),
)


@dataclass
class Person:
    """One conversation and what its person has seen."""

    name: str
    server: int
    sent: list[str] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    retries: int = 0


@dataclass(frozen=True)
class Servers:
    """Two processes on one database."""

    ports: tuple[int, ...]
    processes: tuple[subprocess.Popen[bytes], ...]
    bot: str
    key: str
    database: str

    def cpu_seconds(self) -> float:
        """Of those that are alive, so far."""
        total = 0.0
        for process in self._all():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def _all(self) -> list[int]:
        """The processes of both servers, workers too."""
        found = [process.pid for process in self.processes]
        for pid in tuple(found):
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
                found += [int(child) for child in children.split()]
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; `arguments` default to those of the process. 1 where a turn was lost or doubled."""
    options = _options(arguments)
    print_machine()
    with tempfile.TemporaryDirectory(prefix="haechi-bench-") as temporary:
        folder = Path(temporary)
        package = options.package or _train(folder)
        figures = _crowd(package, folder / "crowd", options)
        if options.saturate:
            figures += _saturated(package, folder / "saturated", options)
    for figure in figures:
        print(figure.line())
    if options.json:
        write(options.json, vars(options), figures)
    return 1 if any(figure.value for figure in figures if figure.name in ("turns lost", "turns doubled")) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there what is printed")
    parser.add_argument("--package", type=Path, help="a bot's package (default: the telecom template, trained first)")
    parser.add_argument("--database", default="", metavar="URL", help="empty of conversations (default: SQLite)")
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, nargs=2, default=(1.0, 3.0), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--workers", type=int, default=2, help="processes of each server")
    parser.add_argument("--no-kill", action="store_true", help="let both servers live")
    parser.add_argument("--saturate", type=float, default=10.0, metavar="SECONDS", help="0 leaves this part out")
    parser.add_argument("--quick", action="store_true", help="20 conversations for 6 s: shows that it works")
    parser.add_argument("--seed", type=int, default=0, help="of what people say and how long they think")
    options = parser.parse_args(arguments)
    if options.quick:
        options.conversations, options.seconds, options.saturate = 20, 6.0, 0.0
    return options


def _train(folder: Path) -> Path:
    package = folder / "telecom"
    command = [str(HAECHI), "bot", "train", str(TEMPLATE), "-o", str(package)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package


@contextlib.contextmanager
def _two_servers(package: Path, folder: Path, database: str, workers: int) -> Iterator[Servers]:
    """Both ready to talk, with one home folder and one database."""
    folder.mkdir(parents=True)
    database = database or f"sqlite:///{folder / 'records.db'}"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HAECHI_")}
    environment |= {"HAECHI_HOME": str(folder / "home"), "HAECHI_DATABASE_URL": database, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [HAECHI, "serve", "--create-key", "bench:admin"], env=environment, capture_output=True, text=True, check=True
    )
    command = [str(HAECHI), "bot", "serve", str(package), "--port", "0", "--database-url", database]
    command += ["--workers", str(workers)]
    processes = []
    try:
        for number in range(2):
            with (folder / f"server{number}.log").open("wb") as log:
                # a group of its own, so that it can be killed with its workers
                processes.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
        ports = tuple(_port(folder / f"server{number}.log", each) for number, each in enumerate(processes))
        servers = Servers(ports, tuple(processes), _bot_of(package), made.stdout.strip(), database)
        for number in range(2):
            asyncio.run(_warm_up(servers, number))
        yield servers
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def _bot_of(package: Path) -> str:
    from shared.package import open_package

    return open_package(package).manifest.name


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        found = _STARTED.search(log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return int(found[1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise HaechiError(f"a server did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")


async def _warm_up(servers: Servers, number: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        async with _Line(servers, number) as line:
            status, _ = await line.say(f"warm-{number}", "1", "안녕하세요")
        if status == 200:
            return
        await asyncio.sleep(0.2)
    raise HaechiError("a server does not answer.")


class _Line:
    """One kept-alive connection to one server."""

    def __init__(self, servers: Servers, number: int) -> None:
        self._servers = servers
        self._number = number

    async def __aenter__(self) -> _Line:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._servers.ports[self._number])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def say(self, conversation: str, message: str, text: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer. Raises OSError or EOFError when the server is gone."""
        body = json.dumps({"id": message, "text": text}).encode()
        path = f"/api/{SOLUTION}/bots/{self._servers.bot}/conversations/{conversation}/messages"
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Api-Key: {self._servers.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"content-length: (\d+)", answer)
        content = await self._reader.readexactly(int(length[1]) if length else 0)
        return int(answer.split(" ", 2)[1]), json.loads(content)


async def _talk(person: Person, servers: Servers, until: float, think: Sequence[float], chance: random.Random) -> None:
    """Talk until the time is over; the last message is waited for."""
    script = chance.choice(_SCRIPTS)
    await asyncio.sleep(chance.uniform(0, think[1]))
    line: _Line | None = None
    number = 0
    while time.perf_counter() < until:
        text, message = script[number % len(script)], f"{person.name}-{number}"
        number += 1
        person.sent.append(message)
        started = time.perf_counter()
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    if line is None:
                        line = await _Line(servers, person.server).__aenter__()
                    status, answer = await line.say(person.name, message, text)
            except (OSError, EOFError, TimeoutError):
                line = None
                person.retries += 1
                person.server = (person.server + 1) % len(servers.ports)
                continue
            if status == 200:
                break
            person.retries += 1
            await asyncio.sleep(0.05)
        person.seconds.append(time.perf_counter() - started)
        person.answers[message] = answer["texts"]
        await asyncio.sleep(chance.uniform(*think))


async def _everybody(
    servers: Servers, count: int, seconds: float, think: Sequence[float], seed: int, *, kill: bool
) -> tuple[list[Person], float]:
    """The people, and how long it took."""
    people = [Person(f"p{number}", number % len(servers.ports)) for number in range(count)]
    started = time.perf_counter()
    tasks = [
        asyncio.create_task(_talk(person, servers, started + seconds, think, random.Random(f"{seed} {person.name}")))
        for person in people
    ]
    if kill:
        await asyncio.sleep(seconds / 2)
        os.killpg(servers.processes[0].pid, signal.SIGKILL)
    await asyncio.gather(*tasks)
    return people, time.perf_counter() - started


def _crowd(package: Path, folder: Path, options: argparse.Namespace) -> list[Figure]:
    with _two_servers(package, folder, options.database, options.workers) as servers:
        ours, theirs = time.process_time(), servers.cpu_seconds()
        people, seconds = asyncio.run(
            _everybody(
                servers, options.conversations, options.seconds, options.think, options.seed, kill=not options.no_kill
            )
        )
        ours, theirs = time.process_time() - ours, servers.cpu_seconds() - theirs
        lost, doubled, changed = _compare(people, servers)
    turns = sum(len(person.seconds) for person in people)
    how = f"{options.conversations} people, {options.think[0]:g} to {options.think[1]:g} s between turns"
    figures = [
        Figure("turns", turns, "", how=how),
        Figure("turns a second", turns / seconds, "1/s"),
        *_latencies([each for person in people for each in person.seconds]),
        Figure("turns sent again", sum(person.retries for person in people), ""),
        Figure("turns lost", lost, "", 0),
        Figure("turns doubled", doubled, "", 0),
        Figure("answers unlike the store's", changed, "", 0),
        Figure("clients' CPU a turn", ours / max(1, turns) * 1000, "ms"),
    ]
    if options.no_kill:
        figures.append(Figure("servers' CPU a turn", theirs / max(1, turns) * 1000, "ms"))
    return figures


def _saturated(package: Path, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """How many turns pass where nobody thinks."""
    if options.database:
        return []  # the clients' names are in that database already
    with _two_servers(package, folder, "", options.workers) as servers:
        people, seconds = asyncio.run(_everybody(servers, 32, options.saturate, (0, 0), options.seed, kill=False))
    turns = [each for person in people for each in person.seconds]
    return [
        Figure("most turns a second", len(turns) / seconds, "1/s", how="32 people who do not think"),
        Figure("p95 then", _percentile(turns, 95), "ms"),
    ]


def _latencies(seconds: Sequence[float]) -> list[Figure]:
    limits = {95: P95_LIMIT_MS}
    return [
        *(Figure(f"p{share}", _percentile(seconds, share), "ms", limits.get(share)) for share in (50, 95, 99)),
        Figure("slowest", max(seconds) * 1000, "ms", how="retries included"),
    ]


def _percentile(seconds: Sequence[float], share: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[share - 1] * 1000


def _compare(people: Sequence[Person], servers: Servers) -> tuple[int, int, int]:
    """Turns lost, turns taken twice (or in another order), and answers that are unlike those of the store."""
    lost = doubled = changed = 0
    with Records.open(servers.database) as records:
        streams = Streams(records)
        for person in people:
            events = streams.read(SOLUTION, f"{servers.bot}/{person.name}")
            stored = [str(event.data["id"]) for event in events if event.kind == "user"]
            ended = sum(event.kind == "turn_ended" for event in events)
            times = Counter(stored)
            lost += sum(message not in times for message in person.sent) + abs(len(stored) - ended)
            doubled += sum(count - 1 for count in times.values())
            if not doubled and not lost and stored != person.sent:
                doubled += 1
            changed += sum(_said(events, message) != texts for message, texts in person.answers.items())
    return lost, doubled, changed


def _said(events: Sequence[StreamEvent], message: str) -> list[str]:
    return [line.text for line in lines_of(list(events)) if line.who == "bot" and line.message == message]


if __name__ == "__main__":
    sys.exit(main())
