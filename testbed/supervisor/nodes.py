"""What befalls nodes and ranks, carried out: they are killed and started again, paused, and slowed down.

One line of work per node: whatever is asked for, at any time, a node is brought from what it is to what it should be
by then. Not here: when (keeper.py), and what links do (gate.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from testbed.core.faults import Condition
from testbed.errors import BringUpError, RankError
from testbed.journal import Journal
from testbed.runfolder import Go, Ready, RunFolder
from testbed.runtime.containers import Containers, Port
from testbed.runtime.node_jobs import NodeJobs
from testbed.supervisor.gate import Gate
from testbed.supervisor.watch import last_lines
from testbed.supervisor.whole_job import WholeJob

READY_DEADLINE_S = 240.0  # importing torch on a quarter of a busy core takes a minute
LOOK_S = 0.02  # between looks whether a rank that was started again is ready
# From the death of a container that nobody asked for to the end of the run: so long it may take somebody to restart it
# by hand, and then its links are there again.
RESTART_PATIENCE_S = 3.0


@dataclass(slots=True)
class _Node:
    """What a node is now."""

    started_at: str  # as the engine has it
    down: bool = False
    paused: bool = False
    share: float = 1.0
    ranks_down: set[int] = field(default_factory=set)


class Nodes:
    """Opened with all containers up; `close` before they are put away."""

    def __init__(
        self,
        boxes: Containers,
        gate: Gate,
        jobs: NodeJobs | None,
        whole: WholeJob | None,
        journal: Journal,
        *,
        prepare: Callable[[int, Port], None],
        equip: Callable[[Sequence[Ready]], None],
    ) -> None:
        """`jobs` where every node has one of its own, `whole` where all ranks are one. `prepare` does to a node's new
        link what was done to its first one; `equip` gives ranks what they cannot get by themselves."""
        self._boxes = boxes
        self._gate = gate
        self._jobs = jobs
        self._whole = whole
        self._journal = journal
        self._prepare = prepare
        self._equip = equip
        self._folder: RunFolder = boxes.folder
        places = boxes.plan.places
        self._node_of = {place.rank: place.node for place in places}
        self._ranks: list[tuple[int, ...]] = [
            tuple(place.rank for place in places if place.node == node) for node in range(len(boxes.nodes))
        ]
        self._nodes = [_Node(boxes.started_at(node)) for node in range(len(boxes.nodes))]
        self._wanted = Condition(boxes.plan.network.links)
        self._lives = dict.fromkeys(self._node_of, 0)  # how often each rank was started again
        self._dead: set[int] = set()  # ranks that were killed and not started again
        self._rejoining: set[int] = set()  # ranks
        self._too_late: set[int] = set()  # ranks that came back when all others were done
        self._died_s: dict[int, float] = {}  # nodes that nobody asked to: when
        self._failure: BaseException | None = None
        self._closing = False
        # One thread each, so that what befalls a node does so in order, and no node waits for another.
        self._work = [ThreadPoolExecutor(1, thread_name_prefix=f"node {node}") for node in range(len(boxes.nodes))]
        self._following = boxes.follow(self._hear)

    @property
    def away(self) -> frozenset[int]:
        """Ranks of whom nothing is expected: killed, paused, or on their way back."""
        nodes = self._wanted.crashed | self._wanted.paused
        nodes |= {number for number, node in enumerate(self._nodes) if node.down or node.paused}
        ranks = {rank for node in nodes for rank in self._ranks[node]}
        ranks |= self._wanted.crashed_ranks | self._rejoining | self._too_late
        return frozenset(ranks.union(*(node.ranks_down for node in self._nodes)))

    @property
    def awake(self) -> frozenset[int]:
        """Nodes in which commands can be run."""
        return frozenset(number for number, node in enumerate(self._nodes) if not node.down and not node.paused)

    def carry(self, condition: Condition) -> tuple[Future[None], ...]:
        """Begin to make the nodes so; a future for each that is concerned."""
        before, self._wanted = self._wanted, condition
        if (condition.crashed, condition.crashed_ranks, condition.paused, condition.shares) == (
            before.crashed,
            before.crashed_ranks,
            before.paused,
            before.shares,
        ):
            return ()
        concerned = (before.crashed ^ condition.crashed) | (before.paused ^ condition.paused)
        concerned |= {self._node_of[rank] for rank in before.crashed_ranks ^ condition.crashed_ranks}
        shares = (before.shares, condition.shares)
        concerned |= {node for node in range(len(self._nodes)) if len({each.get(node, 1.0) for each in shares}) > 1}
        return tuple(self._submit(node, self._bring_about) for node in sorted(concerned))

    def check(self) -> None:
        """Raises what went wrong in the work on nodes, and RankError for a container that died by itself."""
        if self._failure is not None:
            raise self._failure
        for node, died_s in list(self._died_s.items()):
            if time.monotonic() - died_s > RESTART_PATIENCE_S:
                raise RankError(
                    f"the container of node {node} ended, or was started again, and no fault asked for that: "
                    f"its ranks {', '.join(map(str, self._ranks[node]))} are gone",
                    remedy=f"`testbed fault crash node {node}` is how a node is killed on purpose; look for other "
                    "reasons with `docker events` and in the kernel's log (out of memory?)",
                )

    def someone_up(self) -> int:
        """A node on which commands can be run; a paused one goes on for that, and all are as fast as they were."""
        for number, node in enumerate(self._nodes):
            if node.share != 1:
                self._slow(number, node, 1.0)
        for number, node in enumerate(self._nodes):
            if not node.down and not node.paused:
                return number
        first = self._nodes[0]
        if first.paused:
            self._boxes.resume(0)
        else:
            self._boxes.start_again(0)
        return 0

    def close(self) -> None:
        """No more work; what is under way is waited for."""
        self._closing = True
        for work in self._work:
            work.shutdown(cancel_futures=True)
        self._following.close()

    # -- one node

    def _submit(self, node: int, work: Callable[[int], None]) -> Future[None]:
        def watched() -> None:
            try:
                if not self._closing:
                    work(node)
            except BaseException as error:
                if not self._closing and self._failure is None:
                    self._failure = error
                raise

        return self._work[node].submit(watched)

    def _bring_about(self, number: int) -> None:
        """From what the node is to what is wanted by now."""
        node, wanted = self._nodes[number], self._wanted
        if number in wanted.crashed and not node.down:
            self._kill(number, node)
        share = wanted.shares.get(number, 1.0)
        if share != node.share:
            self._slow(number, node, share)
        if number in wanted.crashed:
            return
        if node.down:
            self._start(number, node)
        if (number in wanted.paused) != node.paused:
            self._pause(number, node, number in wanted.paused)
        if not node.paused:
            self._bring_ranks(number, node)

    def _kill(self, number: int, node: _Node) -> None:
        begun_s = time.monotonic()
        if self._whole is not None:
            self._whole.losing(self._ranks[number], nodes=[number])
        else:
            self._job.forget(self._ranks[number])
        self._boxes.kill(number)
        node.down, node.paused = True, False
        node.ranks_down.clear()
        self._killed(self._ranks[number])
        self._note(number, "killed", begun_s)

    def _start(self, number: int, node: _Node) -> None:
        begun_s = time.monotonic()
        ranks = [rank for rank in self._ranks[number] if rank not in self._wanted.crashed_ranks]
        node.ranks_down = set(self._ranks[number]) - set(ranks)
        self._boxes.start_again(number)
        node.started_at = self._boxes.started_at(number)
        self._note(number, "started", begun_s)
        self._connect(number)
        self._start_ranks(number, ranks)
        node.down = False

    def _connect(self, number: int) -> None:
        """The node has a new link to the data network: what was done to the first one is done to it."""
        begun_s = time.monotonic()
        port = self._boxes.port(number)
        self._prepare(number, port)
        self._gate.open(number, port.host_index)
        self._note(number, "linked", begun_s)

    def _pause(self, number: int, node: _Node, paused: bool) -> None:
        begun_s = time.monotonic()
        (self._boxes.pause if paused else self._boxes.resume)(number)
        node.paused = paused
        self._note(number, "paused" if paused else "resumed", begun_s)

    def _slow(self, number: int, node: _Node, share: float) -> None:
        begun_s = time.monotonic()
        self._boxes.slow(number, share)
        node.share = share
        self._note(number, "slowed", begun_s, share=share)

    # -- its ranks

    @property
    def _job(self) -> NodeJobs:
        assert self._jobs is not None, "the whole job has its own way"
        return self._jobs

    def _bring_ranks(self, number: int, node: _Node) -> None:
        wanted = self._wanted.crashed_ranks & set(self._ranks[number])
        for rank in sorted(wanted - node.ranks_down):
            if not self._kill_rank(number, node, rank):
                return
        if back := sorted(node.ranks_down - wanted):
            self._start_ranks(number, back)
            node.ranks_down -= set(back)

    def _kill_rank(self, number: int, node: _Node, rank: int) -> bool:
        """False where there was nothing to be killed, because the run is over."""
        begun_s = time.monotonic()
        if self._whole is not None:
            self._whole.kill_rank(rank)
        elif not self._until_ready(lambda: [rank]):
            return False
        else:
            self._job.kill_rank(rank)
        node.ranks_down.add(rank)
        self._killed([rank])
        self._note(number, "killed", begun_s, rank=rank)
        return True

    def _killed(self, ranks: Collection[int]) -> None:
        self._dead |= set(ranks)
        self._gone(ranks)

    def _gone(self, ranks: Collection[int]) -> None:
        """They have sent their last datagram: nobody waits for them at the end."""
        for rank in ranks:
            self._folder.left(rank).touch()

    def _start_ranks(self, number: int, ranks: Sequence[int]) -> None:
        """Their new lives begin; they join the others in a thread of its own, for that may take a minute."""
        if not ranks:
            return
        if self._whole is not None:
            self._whole.found(ranks)
            return
        begun_s = time.monotonic()
        self._rejoining |= set(ranks)
        self._dead -= set(ranks)
        life = 1 + max(self._lives[rank] for rank in ranks)
        for rank in ranks:
            self._lives[rank] = life
            self._folder.left(rank).unlink(missing_ok=True)
        if tuple(ranks) == self._ranks[number]:
            self._job.start_node(number, life=life)
        else:
            for rank in ranks:
                self._job.start_rank(rank, life=life)
        self._note(number, "launched", begun_s, ranks=list(ranks))
        threading.Thread(
            target=self._rejoin, args=(number, ranks, life), name=f"rejoining of node {number}", daemon=True
        ).start()

    def _rejoin(self, number: int, ranks: Sequence[int], life: int) -> None:
        begun_s = time.monotonic()

        def alive() -> list[int]:
            """Who was not killed again meanwhile: the others join without those who were."""
            if number in self._wanted.crashed:
                return []
            return [r for r in ranks if self._lives[r] == life and r not in self._wanted.crashed_ranks]

        try:
            joining = self._until_ready(alive)
            if not joining:
                return
            if self._are_others_done():
                # They would train alone. The others need not wait for their last datagram.
                self._too_late |= set(joining)
                self._gone(joining)
                self._note(number, "came too late", begun_s, ranks=joining)
                return
            ready = [Ready.read_if_there(self._folder.ready(rank)) for rank in joining]
            self._equip([each for each in ready if each is not None])
            go = Go.read_if_there(self._folder.go)
            assert go is not None, "nothing crashes before the start"
            for rank in joining:
                go.write(self._folder.go_again(rank, life))
            self._note(number, "joined", begun_s, ranks=joining)
        except BaseException as error:
            if not self._closing and alive() and self._failure is None:
                self._failure = error
        finally:
            self._rejoining -= {rank for rank in ranks if self._lives[rank] == life}

    def _are_others_done(self) -> bool:
        """All have ended by themselves that are neither dead nor on their way back; and there are such."""
        others = self._node_of.keys() - self._dead - self._rejoining - self._too_late
        return bool(others) and all(self._folder.left(rank).exists() for rank in others)

    def _until_ready(self, wanted: Callable[[], Sequence[int]]) -> list[int]:
        """Wait until the present lives of all ranks that are `wanted` by then are ready; none where it is given up,
        because nobody is wanted any more or the run is over."""
        deadline_s = time.monotonic() + READY_DEADLINE_S
        while not self._closing and (ranks := list(wanted())):
            found = [Ready.read_if_there(self._folder.ready(rank)) for rank in ranks]
            lives = [None if each is None else each.life for each in found]
            paused = any(self._nodes[self._node_of[rank]].paused for rank in ranks)
            if lives == [self._lives[rank] for rank in ranks] and not paused:
                return ranks
            if paused:
                deadline_s = time.monotonic() + READY_DEADLINE_S
            for ended in self._job.ended():
                if not set(ended.ranks).isdisjoint(wanted()):
                    raise BringUpError(
                        f"rank {ended.ranks[0]} was started again and ended with status {ended.status}"
                        + (last_lines(self._folder.output(ended.ranks[0])) or last_lines(ended.log))
                    )
            if time.monotonic() > deadline_s:
                raise BringUpError(
                    f"ranks {', '.join(map(str, ranks))} were not ready {READY_DEADLINE_S:g} s after they were "
                    "started again",
                    remedy="give the nodes more CPU (nodes.cpus)",
                )
            time.sleep(LOOK_S)
        return []

    # -- what nobody asked for

    def _hear(self, node: int, action: str) -> None:
        """The engine says that a container died or started: it may have been us."""
        if not self._closing:
            self._submit(node, self._look)

    def _look(self, number: int) -> None:
        node = self._nodes[number]
        if node.down:
            return
        running, started_at = self._boxes.state(number)
        if not running:
            self._mourn(number)
        elif started_at != node.started_at:
            self._mourn(number)
            node.started_at = started_at
            self._connect(number)
            self._journal.write("restarted", node=number)

    def _mourn(self, number: int) -> None:
        if number not in self._died_s:
            self._died_s[number] = time.monotonic()
            self._gate.shut(number)
            self._journal.write("died", node=number)

    def _note(self, node: int, did: str, begun_s: float, **values: Any) -> None:
        took_s = round(time.monotonic() - begun_s, 6)
        self._journal.write("node", node=node, did=did, took_s=took_s, **values)
