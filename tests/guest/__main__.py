"""python -m tests.guest [options] -- COMMAND: run one command, as root, inside a guest kernel.

The guest sees this machine's files. What it writes goes to a throw-away disc, except below the current folder, which is
written through. Output is streamed, and the command's exit status is passed on; 124: it took too long, 125: the guest
itself failed. /scratch in the guest is ext4, the place for a Docker daemon's data. There is no network to the outside.
"""

import argparse
import sys
from pathlib import Path

from .engine import with_engine
from .machine import GuestError, Machine


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.guest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", default="4G", help="what the guest may use; taken from the host as it is touched")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", dest="timeout_s")
    parser.add_argument(
        "--disc", type=int, default=20, metavar="GB", dest="disc_gb", help="of the throw-away disc (sparse)"
    )
    parser.add_argument(
        "--writable", type=Path, action="append", default=[], metavar="FOLDER", help="written through too"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="passed on to the command")
    parser.add_argument(
        "--large",
        action="store_true",
        help="raise this machine's vm.max_map_count meanwhile: a process in the guest dies at some 250 MB without it",
    )
    parser.add_argument(
        "--docker", action="store_true", help="start an engine with this machine's testbed images before the command"
    )
    parser.add_argument("command", nargs="+")
    arguments = vars(parser.parse_args())
    try:
        if arguments.pop("docker"):
            arguments["command"] = with_engine(arguments["command"])
        return Machine(**arguments).run()
    except GuestError as error:
        print(f"tests.guest: {error}", file=sys.stderr)
        return 125


if __name__ == "__main__":
    sys.exit(main())
