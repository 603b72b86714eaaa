"""What the evidence of a case proves. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bascule.lab.faults.case import Side, Target
from bascule.lab.faults.evidence import Evidence, Word
from bascule.lab.faults.qemu_watch import doubled
from bascule.migration.model import Mode

TOTAL_OFF_S = 1.0
SEEN_LATE_S = 0.05  # a phase, by those who follow the move
BLACKOUT_OFF_MS = 20.0  # as the two clocks' difference was estimated, on a busy machine
_WITH_AGENT = (Target.AGENT, Target.BOTH, Target.HOST)
KINDS = ("doubled", "lost", "corrupted", "leftovers", "untrue", "stuck")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that must not be: its kind, one of KINDS, and what was seen."""

    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def judge(seen: Evidence) -> list[Finding]:
    """Return all that speaks against the case."""
    found = [Finding("doubled", what) for what in doubled(list(seen.qemus), seen.began_s, seen.ended_s)]
    found += [Finding("doubled", f"on the network, {fork}") for fork in seen.forks]
    found += _disk(seen)
    found += _copies(seen)
    found += _guest(seen)
    found += [Finding("leftovers", what) for what in seen.leftovers]
    if seen.settled:
        found += _truth(seen)
    else:
        found.append(Finding("stuck", "the move was not settled long after every fault was undone"))
    if seen.next_move:
        found.append(Finding("stuck", f"the next move: {seen.next_move}"))
    return found


def may_be_lost(seen: Evidence) -> str:
    """Say why no copy need be left: the process of the only complete one was itself killed. Empty if one has to run."""
    killed = [(hit, qemu) for hit in seen.hits for qemu in hit.killed]
    for hit, qemu in killed:
        if qemu.ran_at(hit.at_s):
            return f"the running copy on {qemu.host} was killed"
    sides = {seen.side_of(qemu.host) for _, qemu in killed}
    if len(sides) == 2:
        return "both copies were killed"
    if Side.SOURCE in sides and not _sent(seen):
        return "the source's copy was killed before the destination had everything"
    return ""


def held(seen: Evidence) -> str:
    """Say why the outcome is rightly unknown although every host is back. Empty if it is not.

    The destination's QEMU was killed after it had been told to run, and before anybody heard whether it did. Then the
    source has to keep its complete copy, paused, and the command has to have said that it does not know.
    """
    word = seen.words[Side.DESTINATION]
    killed = [qemu for hit in seen.hits for qemu in hit.killed if seen.side_of(qemu.host) is Side.DESTINATION]
    kept = any(qemu.dead_s is None and not qemu.runs for qemu in seen.qemus if seen.side_of(qemu.host) is Side.SOURCE)
    unknown = seen.exit_status in (None, 4) and (seen.words[Side.SOURCE].record or {}).get("outcome") == "unknown"
    # Not by its facts: those of an agent that was killed with it are lost, those of the next one are written later.
    taken = word.phase == "starting"
    if killed and kept and unknown and taken and not seen.running and word.state == "stopped":
        return f"the copy on {killed[0].host} was killed as it was told to run; the paused one was kept"
    return ""


def let_go(seen: Evidence) -> bool:
    """Whether the source has rightly ended the move as failed though the VM is the destination's.

    The destination has taken it, and both copies are dead. Then the source has to say where it is, and what to do.
    """
    record = seen.words[Side.SOURCE].record or {}
    there = seen.hosts[Side.DESTINATION]
    dead = bool(seen.excuse) and not seen.running and seen.words[Side.DESTINATION].state == "stopped"
    told = f"belongs to {there}" in record.get("reason", "") and "bascule vm start" in record.get("reason", "")
    return dead and record.get("outcome") == "failed" and told


def _sent(seen: Evidence) -> bool:
    """Whether the destination could have all of the state: it has loaded it, or it lies durably in a file."""
    if seen.case.mode is Mode.QUICK:
        return seen.words[Side.SOURCE].has("CopyCompleted")
    return seen.words[Side.DESTINATION].has("IncomingLoaded")


def _copies(seen: Evidence) -> Iterator[Finding]:
    running = seen.running
    if len(running) > 1:
        yield Finding("doubled", "a copy runs on both hosts at the end")
    if not running and not seen.excuse:
        yield Finding("lost", "no copy runs, and the only complete one was not killed")
    for side, said in seen.words.items():
        if (side in running) != (said.state == "running"):
            really = "runs" if side in running else "does not run"
            yield Finding("untrue", f"{seen.hosts[side]} says that the VM is {said.state}, and it {really} there")
        yield from _status(seen, side, said)
    owners = [side for side, said in seen.words.items() if said.state != "absent"]
    if seen.settled and len(owners) != 1 and not seen.held:
        yield Finding("untrue", f"{len(owners)} hosts say that the VM is theirs")


def _status(seen: Evidence, side: Side, said: Word) -> Iterator[Finding]:
    """What `bascule status` says of a VM at rest is what the list of VMs has."""
    here, there = seen.hosts[side], next(host for other, host in seen.hosts.items() if other is not side)
    wanted = {"running": f"runs on {here}", "stopped": f"belongs to {here} and is stopped", "absent": f" {there}"}
    if seen.settled and said.status and wanted.get(said.state, "") not in said.status:
        yield Finding("untrue", f"bascule status says on {here} {said.status!r}, and the VM is {said.state} there")


def _guest(seen: Evidence) -> Iterator[Finding]:
    if not seen.running:
        return
    if seen.guest is None:
        yield Finding("lost", "the VM runs and does not answer")
        return
    if seen.guest["corrupt_blocks"]:
        yield Finding("corrupted", f"memory: {seen.guest['corrupt_blocks']} blocks: {seen.guest['corruption']}")
    sequence = seen.guest["sequence"]
    if sequence["conflicts"]:
        yield Finding("doubled", f"the guest met records of another on its disk {sequence['conflicts']} times")
    if not sequence["running"]:
        yield Finding("corrupted", "the guest cannot write to its disk any more")
    if seen.guest["boot_id"] != seen.boot_before:
        yield Finding("lost", "the guest has booted anew")


def _disk(seen: Evidence) -> Iterator[Finding]:
    if seen.disk is None:
        return
    for problem in seen.disk.problems:
        yield Finding("doubled" if "two guests" in problem else "corrupted", f"disk: {problem}")
    told = seen.guest["sequence"]["number"] if seen.guest is not None else -1
    if seen.disk.last < told:
        yield Finding("corrupted", f"disk: record {told} was written, and {seen.disk.last} is the last one there")


def _report(seen: Evidence) -> Iterator[Finding]:
    """The times of a report, beside what was seen from outside."""
    report = seen.words[Side.SOURCE].report
    phases = [at_s for at_s, what in seen.story if what.startswith("phase ")]
    if report is None or not phases:
        return
    if report["outcome"] != (seen.words[Side.SOURCE].record or {}).get("outcome"):
        yield Finding("untrue", f"the report says {report['outcome']}, and the list of moves does not")
    seen_s = _ended_s(seen, phases) - phases[0]
    if report["total_s"] < seen_s - TOTAL_OFF_S:
        yield Finding("untrue", f"the report says that the move took {report['total_s']} s, and it took {seen_s:.1f} s")
    blackout_s = _blackout_s(seen)
    if report["blackout_ms"] is not None and blackout_s is not None:
        off_ms = report["blackout_ms"] - blackout_s * 1000
        if abs(off_ms) > BLACKOUT_OFF_MS:
            said = f"{report['blackout_ms']:.1f} ms"
            yield Finding("untrue", f"the report says that the blackout was {said}, and it was {off_ms:.1f} ms less")


def _ended_s(seen: Evidence, phases: list[float]) -> float:
    """When the move has ended at the earliest: when its end was seen, or the phase before it.

    The second where the source's agent was hit in between: it may have written the end just before that, and one that
    is started again writes it before it answers anybody.
    """
    before_s = phases[-2] if len(phases) > 1 else phases[-1]
    hits = [hit for hit in seen.hits if hit.fault.side is Side.SOURCE and hit.fault.target in _WITH_AGENT]
    return before_s if any(before_s - SEEN_LATE_S < hit.at_s < phases[-1] for hit in hits) else phases[-1]


def _blackout_s(seen: Evidence) -> float | None:
    """From the source's last STOP to the destination's first RESUME; None if that is not how it went."""
    source = [span for qemu in seen.qemus if qemu.host == seen.hosts[Side.SOURCE] for span in qemu.spans]
    there = [span for qemu in seen.qemus if qemu.host == seen.hosts[Side.DESTINATION] for span in qemu.spans]
    stops = [span.end_s for span in source if span.end_s is not None and span.begin_s < seen.began_s]
    begins = [span.begin_s for span in there if stops and span.begin_s > stops[0]]
    return min(begins) - stops[0] if begins else None


def _truth(seen: Evidence) -> Iterator[Finding]:
    """An exit status, the source's record and the destination's say where the VM is."""
    arrived = seen.words[Side.DESTINATION].state != "absent"
    where = seen.hosts[Side.DESTINATION if arrived else Side.SOURCE]
    if seen.exit_status is not None and seen.exit_status not in (0, 1, 3, 4):
        yield Finding("untrue", f"the command ended with status {seen.exit_status}: {seen.said[-300:]}")
    given_up = let_go(seen)
    stays = seen.exit_status == 1 or (seen.exit_status == 3 and not given_up)
    if (seen.exit_status == 0 and not arrived) or (stays and arrived):
        yield Finding("untrue", f"the command ended with status {seen.exit_status}, and the VM belongs to {where}")
    source = seen.words[Side.SOURCE].record
    if source is not None:
        if source["outcome"] in (None, "unknown") or not source["reason"]:
            yield Finding("untrue", f"the source's record ends with {source['outcome']}: {source['reason']!r}")
        elif (source["outcome"] == "completed") != arrived and not given_up:
            yield Finding("untrue", f"the source says {source['outcome']}, and the VM belongs to {where}")
    yield from _report(seen)
    there = seen.words[Side.DESTINATION].record
    if there is not None and (there["outcome"] == "completed") != arrived:
        yield Finding("untrue", f"the destination says {there['outcome']}, and the VM belongs to {where}")
