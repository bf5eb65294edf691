"""Requests through a real service engine while controllers fail, and what its request logs say of them.

A client asks for one path after another, each path once; whatever becomes of controllers, every request is answered.  Half
of them go to a virtual service without a server, so their logs are significant and pushed at once; the others' are pulled.
Meanwhile one controller after another is asked what it knows: an answer that names no controller as missing has all that
such answers had before, and nothing twice.  In the end the rest is pulled, and each path is there once, whoever is asked.
"""

import contextlib
import random
import time
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from avinet.app.cli.client import Client
from avinet.errors import AvinetError
from benchmarks.bare_envoy import servers
from benchmarks.beside import Beside
from benchmarks.harness import progress
from benchmarks.log_kills import HOST, MAX_ROWS, Requests, answers, logged_service
from benchmarks.processes import until
from benchmarks.real_engine import RealEngine
from benchmarks.trio import Trio

GROUP = "fault-traffic"
ENGINE = "e"
WISH = {"since": "1h", "se": [ENGINE]}
"""Simulated engines have no logs to pull."""
PAUSE_S = 0.03
"""Between two requests: loss is looked for, on two cores that three controllers share."""
FAILING_EACH = 2
NOBODY = 9
"""A port on which nothing listens (discard)."""
SERVE_LIMIT_S = 60.0
ASK_EACH_S = 1.0
ASK_LIMIT_S = 8.0
PULL_EACH = 5
"""Questions: so often an operator asks for all logs meanwhile."""
STORED_LIMIT_S = 60.0
"""For all logs to be in answers once all is well again."""
POLL_S = 0.2
PULL_STATES = frozenset({"done", "cancelled", "failed"})


@attrs.frozen
class Seen:
    """One answer: how often each path is in it, and which controllers it says are missing."""

    paths: dict[str, int]
    missing: tuple[str, ...] = ()


@attrs.define(eq=False)
class Whole:
    """What answers that were whole have had so far, and what was wrong with any."""

    known: set[str] = attrs.field(factory=set)
    wrong: list[str] = attrs.field(factory=list)
    answers: int = 0
    whole: int = 0

    def took(self, name: str, seen: Seen) -> None:
        """``name`` answered so."""
        self.answers += 1
        doubled = [path for path, count in seen.paths.items() if count > 1]
        if doubled:
            self.wrong.append(f"{name} had {len(doubled)} requests more than once, such as {doubled[0]}")
        if seen.missing:
            return
        self.whole += 1
        gone = self.known - seen.paths.keys()
        if gone:
            self.wrong.append(
                f"{name} said that nothing is missing, and lacked {len(gone)} requests that had been there, such as {min(gone)}"
            )
        self.known |= seen.paths.keys()


def asked(client: Client, prefix: str) -> Seen:
    """All requests whose path begins so, as one controller says.  Service engines may have more of them."""
    answer = client.get(
        "/api/logs/query",
        {"q": f"host={HOST} path startswith {prefix}", "top": "path", "limit": MAX_ROWS},
    )
    missing = (row for row in answer["missing"] if row.get("controller"))
    return Seen(
        {row["path"]: row["count"] for row in answer["results"]},
        tuple(f"{row['controller']}: {row.get('why', '')}" for row in missing),
    )


@attrs.define(eq=False)
class Operator(Beside):
    """Asks one controller after another, in a thread, and has logs pulled now and then."""

    clients: dict[str, Client]
    prefix: str
    whole: Whole = attrs.field(factory=Whole)

    def _run(self) -> None:
        turn = 0
        while not self._over.wait(ASK_EACH_S):
            turn += 1
            name = random.choice(tuple(self.clients))
            with contextlib.suppress(AvinetError):
                if turn % PULL_EACH == 0:
                    self.clients[name].post("/api/logs/pull", WISH)
                self.whole.took(name, asked(self.clients[name], self.prefix))


@attrs.define(eq=False)
class Traffic:
    """Over all cases of a run; ``start`` blocks, as all of it does."""

    trio: Trio
    engine: RealEngine = attrs.field(init=False)
    requests: Requests = attrs.field(init=False)
    _operator: Operator = attrs.field(init=False)
    _turn: int = attrs.field(default=0, init=False)

    def start(self, stack: contextlib.ExitStack) -> None:
        """Until both virtual services answer."""
        behind, failing = self.trio.ports.backends
        backend = servers(self.trio.folder, [behind])
        backend.start()
        stack.callback(backend.stop)
        self.engine = RealEngine(self.trio, ENGINE, GROUP)
        client = self.trio.client
        client.post("/api/config", [{"kind": "ServiceEngineGroup", "name": GROUP, "max_scaleout_per_vs": 1}])
        stack.callback(self.engine.stop)
        self.engine.start()
        for name, server, port in (("works", behind, self.trio.ports.service), ("fails", NOBODY, failing)):
            client.post("/api/config", logged_service(f"fault-{name}", GROUP, server, port))
            until(lambda port=port: answers(port), SERVE_LIMIT_S, "the virtual service answers")

    def begin(self) -> None:
        """A case."""
        self._turn += 1
        pair = (self.trio.ports.service, self.trio.ports.backends[1])
        self.requests = Requests(f"f{self._turn}", (pair,), PAUSE_S, FAILING_EACH)
        clients = {
            one.name: attrs.evolve(self.trio.client_of(one), timeout_s=ASK_LIMIT_S)
            for one in self.trio.controllers
        }
        self._operator = Operator(clients, self._prefix)
        self.requests.start()
        self._operator.start()

    @property
    def _prefix(self) -> str:
        return f"/f{self._turn}/"

    def wrong(self) -> list[str]:
        """What does not hold, once all is well again."""
        self.requests.stop()
        self._operator.stop()
        whole = self._operator.whole
        unanswered, answered = self.requests.unanswered, self.requests.answered.get(0, set())
        progress(
            "{requests} requests; {answers} answers about their logs, {whole} of them whole",
            requests=len(answered) + len(unanswered),
            answers=whole.answers,
            whole=whole.whole,
        )
        found = whole.wrong[:1] if whole.whole else ["no answer about logs was whole"]
        if unanswered:
            found.append(f"{len(unanswered)} requests were not answered, such as {min(unanswered)}")
        for name, client in self._operator.clients.items():
            found += self._not_logged(name, client, answered, unanswered)
        return found

    def _not_logged(
        self, name: str, client: Client, answered: set[str], unanswered: set[str]
    ) -> Sequence[str]:
        """Pulled until all is there, and then looked at."""
        late = time.monotonic() + STORED_LIMIT_S
        seen = Seen({}, ("nobody was asked",))
        while time.monotonic() < late:
            with contextlib.suppress(AvinetError):
                _pull(client, late)
                seen = asked(client, self._prefix)
                if not seen.missing and answered <= seen.paths.keys():
                    break
            time.sleep(POLL_S)
        return list(judged(name, seen, answered, unanswered))


def _pull(client: Client, late: float) -> None:
    """All that the engine has, and wait for it."""
    number = client.post("/api/logs/pull", WISH)["id"]

    while time.monotonic() < late:
        row: dict[str, Any] = client.get(f"/api/logs/pull/{number}")
        if row["state"] in PULL_STATES and row["stored"]:
            return
        time.sleep(POLL_S)


def judged(name: str, seen: Seen, answered: set[str], unanswered: set[str]) -> Sequence[str]:
    """What is wrong with an answer, where each request that was answered should be once."""
    lost = answered - seen.paths.keys()
    doubled = [path for path, count in seen.paths.items() if count > 1]
    strange = seen.paths.keys() - answered - unanswered
    return [
        text
        for what, text in (
            (seen.missing, f"{name} says that it misses {', '.join(seen.missing)}"),
            (lost, f"{name} lacks the logs of {_some(lost)}"),
            (doubled, f"{name} has more than once {_some(doubled)}"),
            (strange, f"{name} has logs of requests that nobody made, {_some(strange)}"),
        )
        if what
    ]


def _some(paths: Collection[str]) -> str:
    return f"{len(paths)} requests, such as {min(paths, default='none')}"
