"""Check the branch coverage of the test run that `make coverage` has just made against the levels below."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

OVERALL_PERCENT: Final = 92.0
# Here a line that no test runs can lose a recording.
STRICT: Final = ("daemon/spool/", "daemon/journal/", "daemon/host/files.py", "daemon/host/folders.py")
STRICT_PERCENT: Final = 97.0


def main() -> int:
    """Combine the measurements, print the report, return 1 where a level is not reached."""
    report = Path("build/coverage/report.json")
    coverage = (sys.executable, "-m", "coverage")
    subprocess.run([*coverage, "combine", "--quiet"], check=True)
    subprocess.run([*coverage, "report"], check=True)
    subprocess.run([*coverage, "json", "--quiet", "-o", str(report)], check=True)
    measured: dict[str, Any] = json.loads(report.read_text())
    total = measured["totals"]["percent_covered"]
    below = [f"all of daemon: {total:.1f} % < {OVERALL_PERCENT} %"] if total < OVERALL_PERCENT else []
    for name, module in sorted(measured["files"].items()):
        percent = module["summary"]["percent_covered"]
        if name.startswith(STRICT) and percent < STRICT_PERCENT:
            below.append(f"{name}: {percent:.1f} % < {STRICT_PERCENT} %")
    print(f"Branch coverage: {total:.1f} %", *below, sep="\n")
    return int(bool(below))


if __name__ == "__main__":
    sys.exit(main())
