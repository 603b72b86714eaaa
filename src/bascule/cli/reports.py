"""Reports on their way to the user: as text, as JSON, as a web page."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from bascule.cli.output import say, say_json
from bascule.errors import Failed


def show_report(report: dict[str, Any], *, as_json: bool) -> None:
    """Write the report to stdout."""
    if as_json:
        say_json(report)
        return
    from bascule.report.text import render_text  # noqa: PLC0415 - only where a report is shown

    say(render_text(report).rstrip("\n"))


def write_html(report: dict[str, Any], file: str) -> None:
    """Write the report as a self-contained page to `file`, whole or not at all.

    Raises `Failed` when that cannot be done: the move itself is over by then.
    """
    from bascule.report.html import render_html  # noqa: PLC0415 - only where a page is written

    target = Path(file)
    title = f"The move of {report.get('vm')} from {report.get('source')} to {report.get('destination')}"
    try:
        descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(render_html([report], title))
            Path(draft).chmod(0o644)
            Path(draft).replace(target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Failed(
            f"the move ended ({report.get('outcome')}), but its page could not be written to {file}: {error.strerror}",
            f"write it elsewhere with: bascule report {report.get('id')} --html FILE",
        ) from error
    say(f"wrote {file}", to=sys.stderr)
