"""Three nats-servers and the workers of one node, set up by the steps of docs/cluster.md."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services import config
from services.config import NodeConfig
from services.nats_access.server_process import ServerProcess
from services.node_file import config_file
from services.readiness import until_ready, until_settled
from services.supervisor import Program, Supervisor
from tests.nats import free_port
from tests.scenarios.caledger import WORKERS, Datacenter, Ran, alive, shell
from tests.scenarios.examples import CLUSTER, example

SERVERS: Final = ("ca1", "ca2", "ca3")
SIGNERS: Final = 2
FOLDER: Final = "/var/lib/caledger"  # in the document
SET_UP_SECONDS: Final = 90.0


class Cluster(Datacenter):
    """A datacenter on three servers; entered, it is ready; left, no process is left.

    Its workers are started again as `caledger dev` does it; `log_file` has what they say.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log_file = folder / "workers.log"
        self.set_up_codes: list[int] = []  # of `caledger init`, each time it was run
        self.servers: dict[str, ServerProcess] = {}
        self._folders = {name: folder / name for name in SERVERS} | {SERVERS[0]: self.data}
        self._ports = {name: free_port() for name in SERVERS}
        self._routes = {name: free_port() for name in SERVERS}
        self._stop = asyncio.Event()
        self._workers: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()

    @property
    def node(self) -> NodeConfig:
        """The configuration of the node."""
        return config.load(config_file(self.data))

    @property
    def log(self) -> str:
        """What the workers wrote so far, and how they ended."""
        return self.log_file.read_text()

    def endings(self) -> Counter[str]:
        """Return how workers have ended so far, and how often."""
        pattern = r"^(\S+) +\| (?:ended with|was ended by) (exit code \d+|\w+); starting it again"
        return Counter(f"{who}: {how}" for who, how in re.findall(pattern, self.log, re.MULTILINE))

    def running(self) -> bool:
        """Say whether every worker runs now."""
        files = [self.data / "run" / f"{worker}.pid" for worker in WORKERS]
        return all(file.exists() and alive(int(file.read_text())) for file in files)

    async def __aenter__(self) -> Self:
        try:
            await self._set_up()
            await self._start_workers()
        except BaseException as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and self.log_file.exists():
            print(self.log[-20_000:])  # pytest shows it with the failure
        try:
            await self.close_clients()
            self._stop.set()
            if self._workers is not None:
                await asyncio.wait({self._workers})
        finally:
            for server in self.servers.values():
                server.kill()
            await self._stack.aclose()

    async def _set_up(self) -> None:
        """Steps 1 to 4."""
        assert (await self._init()).code == 3  # nobody is there yet
        for name in SERVERS:
            self._provide(name)
        await asyncio.gather(*(self._start_server(name) for name in SERVERS))
        async with asyncio.timeout(SET_UP_SECONDS):
            while (made := await self._init()).code != 0:
                await asyncio.sleep(0.2)
        assert "ready to run" in made.err

    async def _init(self) -> Ran:
        command = self._here(example(CLUSTER, "init.sh"), SERVERS[0])
        ran = await shell(f"{command} --csr-max-per-second 0", cwd=self.folder)
        self.set_up_codes.append(ran.code)
        return ran

    def _provide(self, name: str) -> None:
        """Give a server its files: those of `scp`, with its own folder in them, and its cluster."""
        nats = self._folders[name] / "nats"
        made = self.data / "nats"
        if nats != made:
            nats.mkdir(mode=0o700, parents=True)
            shutil.copytree(made / "tls", nats / "tls", ignore=shutil.ignore_patterns("*.sealed"))
            for file in ("server.conf", "accounts.conf"):
                text = (made / file).read_text()
                (nats / file).write_text(text.replace(str(self.data), str(self._folders[name])))
        text = self._here(example(CLUSTER, "cluster.conf"), name)
        own = f'listen: "127.0.0.1:{self._ports[name]}"\n'  # on machines of their own all say 4222
        (nats / "cluster.conf").write_text(f"{text}\n{own}")

    async def _start_server(self, name: str) -> None:
        program, option, file = shlex.split(self._here(example(CLUSTER, "server.sh"), name))
        assert (program, option) == ("nats-server", "--config")
        log = self._stack.enter_context((self.folder / f"{name}.log").open("ab"))
        self.servers[name] = ServerProcess(
            Path(file), address="127.0.0.1", port=self._ports[name], log=log.fileno()
        )
        await self.servers[name].start()

    def _here(self, text: str, name: str) -> str:
        """Return what a document says for machine `name`, with the addresses of this one."""
        text = text.replace(FOLDER, str(self._folders[name]))
        text = text.replace("0.0.0.0:6222", f"127.0.0.1:{self._routes[name]}")
        text = text.replace(f'server_name: "{SERVERS[0]}"', f'server_name: "{name}"')
        for each in SERVERS:
            text = text.replace(f"{each}.example:4222", f"127.0.0.1:{self._ports[each]}")
            text = text.replace(f"{each}.example:6222", f"127.0.0.1:{self._routes[each]}")
        assert ".example" not in text
        return text

    async def _start_workers(self) -> None:
        """Step 5, with the supervisor of `caledger dev`."""
        shown = self._here(example(CLUSTER, "workers.sh"), SERVERS[0]).splitlines()
        programs = [_program(line) for line in shown]
        assert sorted(program.name for program in programs) == sorted(WORKERS)
        signers = [program for program in programs if program.name.startswith("signer")]
        workers = [[program for program in programs if program not in signers], signers]
        log = self._stack.enter_context(self.log_file.open("a"))
        supervisor = Supervisor(workers, pids=self.data / "run", out=log, colors=False)
        ready = asyncio.Event()

        async def wait_until_ready() -> None:
            client = await self.client()
            await until_ready(client)
            await until_settled(self.node.projections_file, SIGNERS)
            ready.set()

        self._workers = asyncio.create_task(supervisor.run(self._stop, ready=wait_until_ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait(
            {waiting, self._workers},
            timeout=SET_UP_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert ready.is_set(), f"the workers are not ready\n{self.log[-6000:]}"


def _program(line: str) -> Program:
    """Return what `caledger run WORKER ...` in a document starts; it ends with this process."""
    _, run, worker, *options = shlex.split(line)
    slot = f"-{options[options.index('--slot') + 1]}" if "--slot" in options else ""
    argv = (sys.executable, "-m", "services.cli", run, worker, *options, "--with-parent")
    return Program(name=f"{worker}{slot}", argv=argv)
