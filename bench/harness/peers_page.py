"""The comparison as a page: one table a workload, what was compared with what, and every setting of every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bascule.report.throughput import line_picture, read_throughput
from harness.figures import median_of, percentile, spread
from harness.policies import LIFTED, Policy

OURS, VIRSH = "bascule", "virsh"
CURVE_COLUMNS = 100
OURS_SETTINGS = "`bascule migrate guest h2 --json`, nothing else: the longest blackout 100 ms, the deadline 10 minutes"
VIRSH_SETTINGS = (
    "`virsh migrate --live guest qemu+unix://… tcp://…` between two libvirtd, nothing of migration configured: the "
    "settings are those of the row before, the messages between the two daemons are real. It has no bandwidth cap to "
    "lift. Its files are below the table"
)


def title_of(name: str, policies: Mapping[str, Policy | Mapping[str, Any]]) -> str:
    """Return a row's title."""
    if name == OURS:
        return "Bascule"
    if name == VIRSH:
        return "virsh migrate --live, the real one"
    policy = policies[name]
    return policy.title if isinstance(policy, Policy) else str(policy["title"])


def render(result: Mapping[str, Any], policies: Mapping[str, Policy]) -> str:
    """Write the whole page."""
    lines = [
        "# Bascule beside its peers",
        "",
        "How long a VM stands still, and how long its clients hear nothing, when it is moved by Bascule, by raw QMP,",
        "and by the settings of other tools. Written by `bench/peers`; how to measure it again is at the end.",
        "",
        result["machine"] + (f" libvirt {result['libvirt']}." if result.get("libvirt") else ""),
        "",
        "![Blackout and longest silence of each row](peers.svg)",
        "",
        "- *Blackout*: QEMU's STOP on the source to QEMU's RESUME on the destination, both by QEMU's own time stamps.",
        "- *Longest silence*: what one client outside felt, from 0.3 s before the move to 1.5 s after it.",
        "- *Lost*: datagrams of that client without an answer, in the same time, median of the moves.",
        "- Medians; in brackets the least and the greatest, which with so few moves is also the 99th percentile.",
        "- *Gave up*: not complete within the patience given; the VM runs on at the source.",
        "",
    ]
    for name, measured in result["workloads"].items():
        lines += _workload(name, measured, policies)
    lines += ["## What was set", "", settings(policies.values()), "", *_files(result.get("libvirt_settings", {}))]
    lines += _reading(result)
    return "\n".join(lines)


def _workload(name: str, measured: Mapping[str, Any], policies: Mapping[str, Policy]) -> list[str]:
    """One workload's table, and what follows from it."""
    has_load = any(move["stall_ms"] is not None for moves in measured["rows"].values() for move in moves)
    stall = " load's longest stall, ms |" if has_load else ""
    lines = [
        f"## {measured['title'][0].upper()}{measured['title'][1:]}",
        "",
        f"`{_command(name, measured)}`, {measured['at'][:16].replace('T', ' ')} UTC, "
        f"patience {measured['patience_s']:g} s.",
        "",
        f"| row | completed | total, s | blackout, ms | longest silence, ms | lost |{stall}",
        "|---|---|---|---|---|---|" + ("---|" if has_load else ""),
    ]
    for row, moves in measured["rows"].items():
        done = completed(moves)
        cells = [
            f"**{title_of(row, policies)}**" if row == OURS else title_of(row, policies),
            f"{len(done)} of {len(moves)}" if done else _why(moves),
            spread([move["total_s"] for move in done], 2),
            spread([move["blackout_ms"] for move in done]),
            spread(silences(done)),
            spread([move["lost"] for move in done], 0),
        ]
        if has_load:
            cells.append(spread([move["stall_ms"] for move in done]))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _still(measured["still"]), *_against(measured["rows"], policies), *_data(measured["rows"]), ""]
    lines[-1:-1] = bulk_curves(measured["rows"], policies)
    return lines


def _command(name: str, measured: Mapping[str, Any]) -> str:
    """What measures a workload again."""
    asked = measured.get("asked", "all")
    rows = "" if asked == "all" else f" --rows {asked}"
    a_boot = measured.get("a_boot", 1)
    several = "" if a_boot == 1 else f" --a-boot {a_boot}"
    return f"bench/peers --workload {name} --moves {measured['moves']}{several}{rows}"


def completed(moves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that ended on the other host."""
    return [move for move in moves if move["outcome"] == "completed"]


def silences(moves: Sequence[Mapping[str, Any]]) -> list[float]:
    """Their longest silences, in ms, where any was measured."""
    return [move["longest_silence_ms"] for move in moves if move["longest_silence_ms"] is not None]


def _why(moves: Sequence[Mapping[str, Any]]) -> str:
    reasons = {f"{move['outcome']}: {move['reason']}" for move in moves}
    return "; ".join(sorted(reasons)) or "not tried"


def _still(windows: Sequence[Mapping[str, Any]]) -> str:
    found = silences(windows)
    lost = sum(window["lost"] for window in windows)
    return (
        f"Without any move, the same client of the same guests had silences of {spread(found)} ms (n={len(found)}) "
        f"and lost {lost} datagrams: what the machine itself does."
    )


def _against(rows: Mapping[str, Any], policies: Mapping[str, Policy]) -> list[str]:
    """Ours against the best peer, by each of the two figures."""
    ours = completed(rows.get(OURS, ()))
    lines = []
    for what, of in (
        ("blackout", lambda moves: [move["blackout_ms"] for move in moves]),
        ("longest silence", silences),
    ):
        peers = {name: of(completed(moves)) for name, moves in rows.items() if name != OURS}
        medians = {name: median for name, values in peers.items() if (median := median_of(values)) is not None}
        mine = of(ours)
        if not medians or not mine:
            continue
        best = min(medians, key=lambda name: medians[name])
        median = median_of(mine) or 0.0
        lines.append(
            f"Ours beside the best peer's {what} ({title_of(best, policies)}): {median:.1f} to {medians[best]:.1f} ms, "
            f"**{median / medians[best]:.2f} times**; "
            f"p99 {percentile(mine, 0.99):.1f} to {percentile(peers[best], 0.99):.1f} ms."
        )
    return [f"\n{line}" for line in lines]


def bulk_curves(rows: Mapping[str, Any], policies: Mapping[str, Policy]) -> list[str]:
    """What came back of the bulk stream in each row's middle move, around its longest stall."""
    lines = []
    for name, moves in rows.items():
        done = sorted((move for move in moves if move.get("throughput")), key=lambda move: move["stall_ms"] or 0.0)
        if not done or done[0]["stall_start_s"] is None:
            continue
        middle = done[(len(done) - 1) // 2]
        stall = middle["stall_start_s"], middle["stall_start_s"] + middle["stall_ms"] / 1e3
        if seen := read_throughput(middle["throughput"]):
            lines += [title_of(name, policies), *line_picture(seen, stall, CURVE_COLUMNS, name="stall"), ""]
    head = "\nWhat came back of the bulk stream in each row's middle move:\n\n```"
    return [head, *lines[:-1], "```"] if lines else []


def _data(rows: Mapping[str, Any]) -> list[str]:
    """What became of the data that the guests and the loads check."""
    moves = [move for moves in rows.values() for move in moves]
    bad = [
        move
        for move in moves
        if move["data"]["corrupt_blocks"]
        or not move["data"]["tcp_unbroken"]
        or (move["data"]["load"] and (move["data"]["load"]["error"] or move["data"]["load"]["wrong"]))
    ]
    loads = [move["data"]["load"] for move in moves if move["data"]["load"]]
    checked = ""
    if loads and "commands" in loads[0]:
        checked = " Redis: every answer, and at the end every key, was compared with what had been set."
    elif loads:
        checked = " Bulk TCP: every byte that came back was compared with the one sent."
    state = f"{len(bad)} of {len(moves)} attempts" if bad else "None of the attempts"
    return [f"\n{state} corrupted memory or data, or broke the TCP connection of a client.{checked}"]


def settings(policies: Iterable[Policy]) -> str:
    """Every row with every setting and its sources."""
    lines = [
        "| row | settings | from |",
        "|---|---|---|",
        f"| Bascule (`{OURS}`) | {OURS_SETTINGS} | this repository |",
    ]
    for policy in policies:
        if policy.name.endswith(LIFTED):
            lines.append(f"| {policy.title} (`{policy.name}`) | as above, max-bandwidth without a limit | |")
            continue
        note = f" *{policy.note}*" if policy.note else ""
        lines.append(f"| {policy.title} (`{policy.name}`) | {policy.settings()}.{note} | {'; '.join(policy.sources)} |")
        if policy.name == "virsh-settings":
            lines.append(f"| {title_of(VIRSH, {})} (`{VIRSH}`) | {VIRSH_SETTINGS} | the distribution's libvirt |")
    return "\n".join(lines)


def _files(files: Mapping[str, str]) -> list[str]:
    """What the real virsh was given, word for word."""
    if not files:
        return []
    lines = ["### The files of the real virsh", "", "`LAB` stands for the lab's directory.", ""]
    for name, text in files.items():
        lines += [f"{name}:", "", "```" + ("xml" if name.endswith(".xml") else "ini"), text.strip(), "```", ""]
    return lines


def _reading(result: Mapping[str, Any]) -> list[str]:
    commands = [f"{_command(name, one)} --json peers.json" for name, one in result["workloads"].items()]
    return [READING.replace("COMMANDS", "\n".join(commands))]


READING = """## How to read it

- Every row but the real virsh and Bascule is one process that does by QMP what the tool's manager does. Its messages
  between hosts, its tunnels, hooks and records take no time here, which flatters the peers.
- A manager that polls lets a loaded destination wait until it looks. On moves as short as these that is the greater
  part of the blackout of Proxmox VE and Incus, and chance decides how great.
- A low bandwidth cap makes an idle guest's last round small: where Ganeti's blackout is short, its copy was slow. With
  such a cap a guest that writes faster never arrives.
- Guests are software-emulated. After it resumes, the destination's QEMU translates the guest's code anew, so that a
  silence is longer than its blackout; and guest, both QEMUs, client and managers share the cores named above. Compare
  rows with one another, not figures with those of other machines.
- What a peer loses, it loses between the source's stop and the moment at which the network learns the new place: QEMU
  announces once the destination runs.

## Measure it again

As root, on Debian 12 or Ubuntu, after `scripts/setup`. The real virsh needs `apt-get install libvirt-daemon-system
libvirt-clients`; without, its row is left out.

```sh
COMMANDS
bench/peers --from peers.json --markdown docs/peers.md
```
"""
