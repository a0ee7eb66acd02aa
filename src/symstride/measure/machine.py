"""What stands at the head of every results file."""

import datetime
import platform
import subprocess


def document(rows: list[dict], threads: int) -> dict:
    """The rows with machine, date, commit and threads."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "machine": {"processor": processor(), "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "threads": threads,
        "rows": rows,
    }


def processor() -> str:
    """The name of this machine's."""
    with open("/proc/cpuinfo") as file:
        models = {line.split(":")[1].strip() for line in file if line.startswith("model name")}
    return " / ".join(sorted(models))
