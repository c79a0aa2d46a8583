"""kill -9 at any moment: the run goes on and ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import random
import signal

from faults.harness import Toy, inodes, results
from zoo_core.runs.directory import RunDirectory

NUM_MOMENTS = 30


def test_a_run_killed_at_30_random_moments_ends_with_the_same_bytes(toy: Toy) -> None:
    undisturbed, expected = toy.undisturbed()
    assert len([name for name in expected if name.startswith("predictions/")]) == 4 * 3
    chance = random.Random(2007)  # noqa: S311 - the moments are to be the same every time
    moments = sorted(chance.sample(range(len(undisturbed["events"])), NUM_MOMENTS))

    for number, moment in enumerate(moments):
        name, run = f"killed-{number}", toy.folder / f"killed-{number}"
        where = f"killed before event {moment}: {undisturbed['events'][moment]}"
        assert toy.run(name, faults=[{"at": moment, "do": "kill"}]).get("signal") == signal.SIGKILL, where
        if not (run / "run.json").exists():
            assert toy.run(name)["status"] == "complete", where  # nothing had begun: the command is given again
            assert results(run) == expected, where
            continue
        assert RunDirectory(run).true_status(toy.record(name)["status"]) in {"interrupted", "complete"}, where
        if number % 3 == 0:  # and once more on the way
            toy.resume(name, faults=[{"at": chance.randrange(40), "do": "kill"}])
        complete = inodes(run)

        assert toy.resume(name)["status"] == "complete", where

        assert results(run) == expected, where
        assert complete.items() <= inodes(run).items(), f"{where}; complete chunks were inferred again"
        assert not [path.name for path in run.rglob(".*")], where
