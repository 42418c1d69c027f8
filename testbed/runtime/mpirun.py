"""mpirun's command line, as pure decisions: one job over all containers, or all ranks on this machine.

Open MPI 5. Which interfaces it may use is always said by address, since many bridges look alike to it, and it hangs
where it picks a wrong one. Who starts these commands is mpi_job.py and local.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

LOOPBACK = "127.0.0.0/8"
FIRST_RANK = "TESTBED_FIRST_RANK"  # in a rank's environment: what to add to its number in its own job; not there: 0
LIFE = "TESTBED_LIFE"  # in a rank's environment: how often it has been started before; not there: never
# ULFM: a rank that dies does not end the job, and its peers' calls say so. `han`, the collectives that Open MPI prefers
# over several hosts, are not made for that.
FAULT_TOLERANT = ("--with-ft", "ulfm", "--mca", "coll", "^han")

# Run by mpirun for every other container: host, then a command for a shell there. It only writes the command down, all
# or nothing, and returns: who reads the folder starts it there, so that no container needs to see the Docker socket.
LAUNCH_SCRIPT = """\
#!/bin/sh
folder=$1 host=$2
shift 2
printf '%s\\n' "$*" > "$folder/.$host" && mv "$folder/.$host" "$folder/$host.command"
"""


def rank_command(argv: Sequence[str], *, run_folder: Path) -> list[str]:
    """`argv` with everything it prints appended to ranks/<rank>/output.log, by itself: a last word is never lost.

    A shell makes itself the program, which therefore is mpirun's own child.
    """
    script = (
        f'out="$0/ranks/$(({FIRST_RANK} + OMPI_COMM_WORLD_RANK))"; '
        'mkdir -p "$out" && exec "$@" >> "$out/output.log" 2>&1 < /dev/null'
    )
    return ["/bin/sh", "-c", script, str(run_folder), *argv]


def watched_command(argv: Sequence[str], *, run_folder: Path, statuses: Path) -> list[str]:
    """As `rank_command`, and the exit status goes to <statuses>/rank-<rank>.<life>.status. mpirun is told that all went
    well: at any other status it would end the other ranks of the container."""
    script = (
        f'rank=$(({FIRST_RANK} + OMPI_COMM_WORLD_RANK)); out="$0/ranks/$rank"; to="$1/rank-$rank.${LIFE}"; shift; '
        'mkdir -p "$out" && "$@" >> "$out/output.log" 2>&1 < /dev/null; '
        'echo $? > "$to.part" && mv "$to.part" "$to.status"'
    )
    return ["/bin/sh", "-c", script, str(run_folder), str(statuses), *argv]


def containers_argv(
    program: Sequence[str],
    *,
    ranks: Mapping[str, int],
    control: str,
    data: str,
    launch_agent: str,
    environment: Mapping[str, str],
    fault_tolerant: bool = False,
) -> list[str]:
    """mpirun inside the first container for one job over all.

    `ranks` by host name, in the order of the nodes: their ranks are consecutive. `control` and `data` are the networks'
    addresses, "10.213.0.0/24". `launch_agent` is the command that gets the host and what to run there.
    """
    # with one rank to a container shared memory has nobody to reach, and every byte crosses the emulated link
    transports = "tcp,self" if max(ranks.values()) == 1 else "tcp,self,sm"
    return [
        "mpirun",
        *(FAULT_TOLERANT if fault_tolerant else ()),
        "--allow-run-as-root",
        *("--host", ",".join(f"{host}:{count}" for host, count in ranks.items())),
        *("-n", str(sum(ranks.values()))),
        *("--map-by", "slot:OVERSUBSCRIBE"),
        *("--bind-to", "none"),
        *("--prtemca", "plm_ssh_agent", launch_agent),
        *("--prtemca", "plm_ssh_no_tree_spawn", "1"),  # the first starts all: the others have no launch agent
        *("--prtemca", "oob_tcp_if_include", control),
        *_options(transports=transports, data=data),
        *_exports(environment),
        *program,
    ]


def node_argv(
    program: Sequence[str], *, ranks: int, first: int, life: int, environment: Mapping[str, str]
) -> list[str]:
    """mpirun for `ranks` ranks of one container, a job of their own, of which the first is rank `first` of the run.

    A rank that is killed does not take the others of its container with it (PRRTE: recoverable).
    """
    own = {FIRST_RANK: str(first), LIFE: str(life)}
    mpirun, *words = local_argv(program, mpirun=Path("mpirun"), size=ranks, environment={**environment, **own})
    return [mpirun, "--rtos", "recoverable", *words]


def local_argv(
    program: Sequence[str],
    *,
    mpirun: Path,
    size: int,
    environment: Mapping[str, str],
    fault_tolerant: bool = False,
) -> list[str]:
    """mpirun for `size` ranks on this machine, whatever number of cores it has."""
    return [
        str(mpirun),
        *(FAULT_TOLERANT if fault_tolerant else ()),
        "--allow-run-as-root",
        *("--host", f"localhost:{size}"),
        *("-n", str(size)),
        *("--map-by", "slot:OVERSUBSCRIBE"),
        *("--bind-to", "none"),
        # no oob_tcp_if_include: mpirun takes the loopback for that only where there is nothing else ("No network
        # interfaces were found for out-of-band communications"), and here it has nobody to reach
        *_options(transports="tcp,self,sm", data=LOOPBACK),
        *_exports(environment),
        *program,
    ]


def _options(*, transports: str, data: str) -> list[str]:
    options = {
        "pml": "ob1",
        "btl": transports,
        "btl_tcp_if_include": data,
        # ranks that spin while they wait take the cores from those that compute: 97 ms for an allreduce of 1 MB among
        # 4 ranks on 2 cores, 5 ms with this. Where there are cores for all it costs next to nothing.
        "mpi_yield_when_idle": "1",
    }
    return [word for name, value in options.items() for word in ("--mca", name, value)]


def _exports(environment: Mapping[str, str]) -> list[str]:
    return [word for name, value in environment.items() for word in ("-x", f"{name}={value}")]


def rank_environment(threads: int) -> dict[str, str]:
    """What every rank finds in its environment: `threads` for whatever computes in it."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "PYTHONUNBUFFERED": "1"}
