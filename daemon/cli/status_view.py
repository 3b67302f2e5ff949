"""The status as people see it on a terminal."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from daemon.display import escape
from daemon.status.people import bar, say_left, say_when

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

_REFRESH_S: Final = 1.0
_N_LISTED: Final = 10
_STYLES: Final = {
    "waiting": "yellow", "loading": "yellow", "ready": "green", "idle": "green", "draining": "yellow", "stopped": "red"
}  # fmt: skip


def show(look: Callable[[], dict[str, Any]], *, is_watched: bool) -> None:
    """Print what `look` returns in the schema of `daemon.status`, once or until Ctrl-C."""
    console = Console(highlight=False)
    if not is_watched:
        console.print(_render(look()))
        return
    from rich.live import Live

    never = threading.Event()
    with suppress(KeyboardInterrupt), Live(_render(look()), console=console, auto_refresh=False) as live:
        while not never.wait(_REFRESH_S):
            live.update(_render(look()), refresh=True)


def _render(status: dict[str, Any]) -> RenderableType:
    queue, model, now = status["queue"], status["model"], datetime.now().astimezone()
    state = status["state"]
    head = Text.assemble(("scribed ", "bold"), (state, _STYLES.get(state, "")))
    if model["name"]:
        where = "unloaded" if state == "idle" else f"on {model['device']}"
        head.append(escape(f", model {model['name']} {where}"))
    counts = (
        f"{queue['n_arriving']} arriving, {queue['n_waiting']} waiting, {len(queue['running'])} being transcribed, "
        f"{status['done_today']} done today, {status['n_failed']} failed"
    )
    parts: list[RenderableType] = [head, Text(counts)]
    parts += [
        Text(escape(f"! {fault['what']} {fault['remedy']} (since {say_when(fault['since'], now)})"), "red")
        for fault in status["faults"]
    ]
    parts += _tables(status, now)
    return Group(*parts)


def _tables(status: dict[str, Any], now: datetime) -> list[Table]:
    queue = status["queue"]
    running = [
        (
            r["name"],
            f"{bar(r['progress'])} {r['progress']:.0%}",
            say_left(r["progress"], r["audio_s"], r["rtfx"]),
            _length(r["audio_s"]),
            _speed(r["rtfx"]),
        )
        for r in queue["running"]
    ]
    recent = [
        (
            d["name"],
            say_when(d["finished_at"], now),
            _length(d["audio_s"]),
            "parts of the speech are missing" if d["complete"] is False else "",
        )
        for d in status["recent"]
    ]
    arriving = [(a["name"], a["reason"], _length(a["remaining_s"])) for a in queue["arriving_details"]]
    failed = [(f["name"], f["reason"]) for f in status["failed"]]
    return [
        table
        for table in (
            _table("Being transcribed", ("recording", "done", "", "length", "speed"), running, len(running)),
            _table("Waiting", ("recording",), [(name,) for name in queue["waiting"]], queue["n_waiting"]),
            _table("Arriving", ("recording", "reason", "claimed in"), arriving, queue["n_arriving"]),
            _table("Recently finished", ("recording", "finished", "length", ""), recent, len(recent)),
            _table("Failed", ("recording", "reason"), failed, status["n_failed"]),
        )
        if table.row_count
    ]


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], n_all: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    for row in rows[:_N_LISTED]:
        table.add_row(*(Text(escape(cell)) for cell in row))
    if n_all > len(rows[:_N_LISTED]):
        table.add_row(Text(f"and {n_all - len(rows[:_N_LISTED])} more", style="dim"))
    return table


def _length(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _speed(rtfx: float | None) -> str:
    return "" if rtfx is None else f"{rtfx:g}x"
