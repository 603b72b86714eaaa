"""The agent as a process: it puts the host together, listens, and ends on SIGTERM or SIGINT while its VMs run on.

The order at the start matters. First the journal, then the VMs that run, then the moves that were under way, then what
nobody knows is ended; only after that does the agent listen, so that no question meets half a host.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import structlog

from bascule import __version__
from bascule.agent.catalogue import Catalogue
from bascule.agent.claims import Claims
from bascule.agent.config import AgentConfig, load
from bascule.agent.host import Host
from bascule.agent.machines import Machines
from bascule.agent.moves import Moves
from bascule.agent.operator_api import make_operator_api
from bascule.agent.peer_api import make_peer_api
from bascule.agent.preflight import Preflight
from bascule.agent.probes import Probes
from bascule.agent.quick import sweep_old_states
from bascule.agent.reconcile import reconcile
from bascule.agent.server import Server, make_server, tcp_socket, unix_socket


def run(config_path: Path, insecure_listen: str | None) -> None:
    """Run the agent until it is told to end. Raises Refused if it cannot start."""
    _log_to_stderr()
    os.umask(0o077)  # the journal and what lies beside it are nobody else's
    config = load(config_path)
    asyncio.run(_serve(config, insecure_listen))


async def _serve(config: AgentConfig, insecure_listen: str | None) -> None:
    log = structlog.get_logger()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    operators = unix_socket(config.socket)
    host = Host(config)
    try:
        peers = tcp_socket(insecure_listen) if insecure_listen else None
        await host.open()
        host.machines = Machines(host)
        host.preflight = Preflight(host)
        host.moves = Moves(host)
        host.claims = Claims(host)
        host.probes = Probes(config.cache_directory)
        await host.machines.adopt_all()
        known = {vm.machine.record.directory for vm in host.machines.all()}
        known |= await reconcile(host)
        # A QEMU that does not answer just now could not be adopted, but it is not half made: it may run.
        known |= {str(vm.process["directory"]) for vm in await host.journal.vms() if vm.process is not None}
        strays = await host.machines.sweep(known)
        here = {vm.uuid for vm in await host.journal.vms()} | {move.vm_uuid for move in host.moves.incoming_vms()}
        host.run_marks.keep_only(here | strays)
        host.claims.open()
        servers: list[tuple[Server, Any]] = [(make_server(make_operator_api(host, Catalogue(host))), operators)]
        if peers is not None:
            servers.append((make_server(make_peer_api(host)), peers))
        gc.collect()
        gc.freeze()  # what was imported stays for ever; the collector need not look at it during a switchover
        async with asyncio.TaskGroup() as tasks:
            sweeping = tasks.create_task(sweep_old_states(host), name="saved states")
            for server, listener in servers:
                tasks.create_task(server.serve([listener]), name="serve")
            log.info(
                "agent started",
                version=__version__,
                host=config.name,
                socket=str(config.socket),
                peers=insecure_listen or "none: start with --insecure-listen ADDRESS:PORT to take part in moves",
            )
            await stop.wait()
            log.info("agent ends; VMs run on", moves_under_way=len(await host.moves.waiting_for()))
            sweeping.cancel()
            for server, _ in servers:
                server.should_exit = True
    finally:
        if hasattr(host, "probes"):
            await host.probes.close()
        if hasattr(host, "claims"):
            await host.claims.close()
            await host.moves.close()
            await host.machines.close()
        await host.close()
        operators.close()
        config.socket.unlink(missing_ok=True)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
