"""Runs the cases, and says what became of them as Rust's libtest does: a line a test and a line
of sums, so that whoever counts tests counts these."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from chat.page import RULES
from rules import (  # noqa: F401
    chaos,
    encoding,
    groups,
    inbox,
    liveness,
    opening,
    people,
    reading,
    receipts,
    requests,
    sending,
    transport,
)
from rules.case import CASES, EVERYWHERE, JSON, PROTOBUF, QUIC, Nodes, World
from rules.known_failures import KNOWN_FAILURES
from rules.tokens import Keys

# A case that waits for longer than all that it may wait for is stuck.
CASE_WITHIN_S = 150
# Rules that speak of one transport or encoding only; all others need a case on each.
PARTICULAR = {
    "R2": {QUIC},
    "R3": {QUIC},
    "R4": {PROTOBUF, JSON},
    "R5": {PROTOBUF, JSON},
    "R11": {JSON},
}


async def every_rule_of_the_page_has_a_case_on_each_transport():
    for rule in RULES:
        wanted = PARTICULAR.get(rule, set(EVERYWHERE))
        have = {carrier for case in CASES if rule in case.rules for carrier in case.carriers}
        assert wanted <= have, f"{rule} has no case on {sorted(wanted - have)}"
    assert RULES == [f"R{at + 1}" for at in range(len(RULES))], "the page's rules are numbered"


async def every_case_names_rules_of_the_page():
    for case in CASES:
        wrong = [rule for rule in case.rules if rule not in RULES]
        assert case.rules and not wrong, f"{case.name} names {wrong}: not on the page"


async def every_known_failure_is_a_case():
    names = {case.name for case in CASES}
    assert len(names) == len(CASES), "two cases have one name"
    gone = set(KNOWN_FAILURES) - names
    assert not gone, f"no cases: {gone}"


def told(error):
    """The traceback, with what stood in the case where it failed."""
    lines = traceback.format_exception(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    cases = [frame for frame in frames if frame.f_globals["__name__"].startswith("rules.")]
    for name, value in cases[-1].f_locals.items() if cases else ():
        lines.append(f"    {name} = {str(value)[:400]}\n")
    return "".join(lines)


class Trial:
    """A case on one transport, or a check of the cases themselves."""

    def __init__(self, name, run, known_failure=None):
        self.name = name
        self.run = run
        self.known_failure = known_failure
        self.failure = None
        self.seconds = 0

    async def outcome(self):
        begin = time.monotonic()
        try:
            async with asyncio.timeout(CASE_WITHIN_S):
                await self.run()
        except Exception as error:  # Whatever a case ends with is its result.
            self.failure = told(error)
        self.seconds = time.monotonic() - begin
        if self.known_failure and not self.failure:
            self.failure = f"passes: take it from KNOWN_FAILURES ({self.known_failure})"
        elif self.known_failure:
            print(f"SKIPPED: {self.name}: {self.known_failure}")
            self.failure = None
        print(f"test {self.name} ... {'FAILED' if self.failure else 'ok'}", flush=True)


def in_world(nodes, case, carrier):
    async def run():
        world = World(nodes, carrier)
        try:
            await case.run(world)
            world.check()
        finally:
            await world.close()

    return run


def trials(nodes):
    checks = [
        every_rule_of_the_page_has_a_case_on_each_transport,
        every_case_names_rules_of_the_page,
        every_known_failure_is_a_case,
    ]
    found = [Trial(check.__name__, check) for check in checks]
    for case in CASES:
        for carrier in case.carriers:
            rules = "_".join(case.rules)
            name = f"{case.theme}::{carrier}::{rules}_{case.name}"
            found.append(Trial(name, in_world(nodes, case, carrier), KNOWN_FAILURES.get(case.name)))
    return found


def chosen(found, arguments):
    def wanted(name):
        if any(part in name for part in arguments.skip):
            return False
        if arguments.exact:
            return name in arguments.filters
        return not arguments.filters or any(part in name for part in arguments.filters)

    return [trial for trial in found if wanted(trial.name)]


async def run(arguments):
    nodes_folder = tempfile.TemporaryDirectory(prefix="chat-rules-keys-")
    print(f"seed {arguments.seed} (--seed repeats a run)")
    nodes = Nodes(arguments.chatd, Keys(), Path(nodes_folder.name), arguments.seed)
    found = chosen(trials(nodes), arguments)
    if arguments.list:
        for trial in found:
            print(f"{trial.name}: test")
        return True
    begin = time.monotonic()
    print(f"\nrunning {len(found)} tests")
    places = asyncio.Semaphore(arguments.test_threads)

    async def in_turn(trial):
        async with places:
            await trial.outcome()

    # Those that wait for long begin first, so that the end does not wait for them alone.
    found.sort(key=lambda trial: not trial.name.startswith(("chaos", "liveness")))
    try:
        await asyncio.gather(*map(in_turn, found))
    finally:
        logs = [(node.port, node.tail()) for node in nodes.all if node.log.exists()]
        await nodes.close()
        nodes_folder.cleanup()
    failed = [trial for trial in found if trial.failure]
    if arguments.durations:
        for trial in sorted(found, key=lambda trial: -trial.seconds)[: arguments.durations]:
            print(f"{trial.seconds:7.2f} s {trial.name}")
    if failed:
        print("\nfailures:\n")
        for trial in failed:
            print(f"---- {trial.name} stdout ----\n{trial.failure}")
        for port, log in logs:
            if "ERROR" in log or "panic" in log:
                print(f"---- the log of the node on port {port} ----\n{log}")
        print("\nfailures:")
        for trial in failed:
            print(f"    {trial.name}")
    print(
        f"\ntest result: {'FAILED' if failed else 'ok'}. {len(found) - len(failed)} passed; "
        f"{len(failed)} failed; 0 ignored; 0 measured; 0 filtered out; "
        f"finished in {time.monotonic() - begin:.2f}s\n",
        flush=True,
    )
    return not failed


def main():
    parser = argparse.ArgumentParser(prog="rules", description=__doc__)
    parser.add_argument("--chatd", required=True, help="the binary to test")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--test-threads", type=int, default=12)
    parser.add_argument("--durations", type=int, default=0, help="so many of the slowest are named")
    parser.add_argument("filters", nargs="*")
    # What libtest knows besides says how to print: this prints one way.
    arguments, _ = parser.parse_known_args()
    sys.exit(0 if asyncio.run(run(arguments)) else 1)


if __name__ == "__main__":
    main()
