"""kill -9 at any moment: the run goes on and ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal

from faults.harness import Answer, Toy, inodes, results
from zoo_core.runs.directory import RunDirectory

NUM_MOMENTS = 30
NUM_KILLS = int(os.environ.get("ZOO_EVAL_KILLS", "10"))
"""Kills from outside, at whatever instruction the run has reached."""


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


def test_a_run_killed_from_outside_ends_with_the_same_bytes(toy: Toy) -> None:
    answer, expected = toy.undisturbed()
    chance = random.Random(1976)  # noqa: S311 - the delays are to be the same every time
    num_kills = num_runs = 0

    while num_kills < NUM_KILLS:
        name, run = f"killed-{num_runs}", toy.folder / f"killed-{num_runs}"
        # Every other run keeps what its steps find, so that writing this is interrupted too.
        options = {"cache": bool(num_runs % 2)}
        environment = {"ZOO_EVAL_CACHE": str(toy.folder / f"cache-{num_runs}")}
        num_runs += 1
        assert num_runs < 20 * NUM_KILLS, "the runs end before they are killed"
        ended: Answer = {}
        while "status" not in ended:
            delay_s = answer["seconds"] * chance.random()
            where = f"{name}, killed {num_kills} times before, now after {delay_s:.3f} s"
            complete = inodes(run)
            if (run / "run.json").exists():
                ended = toy.resume(name, environment=environment, kill_after_s=delay_s)
            else:
                ended = toy.run(name, options=options, environment=environment, kill_after_s=delay_s)
            assert complete.items() <= inodes(run).items(), f"{where}; complete chunks were inferred again"
            killed = ended.get("signal") == signal.SIGKILL
            num_kills += killed
            assert killed or ended.get("status") == "complete", where
        assert results(run) == expected, where
        assert not [path.name for path in run.rglob(".*")], where
