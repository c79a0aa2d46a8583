"""Compares a run with the registry's reference values: regressions, improvements, missing and new values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.etree.ElementTree import Element, SubElement, tostring

from zoo_core.comparison.deployed import parity_problem
from zoo_core.comparison.stages import simulation_of
from zoo_core.errors import RecipeError, RegistryError, RunError
from zoo_core.files import replace_file
from zoo_core.results import conditions
from zoo_core.results.references import FLOAT_STAGE, References
from zoo_core.runs.rows import Row, text_table

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.datatypes import ModelEntry, Reference
    from zoo_core.plugins import PluginHost
    from zoo_core.results.references import Fitting, SetAside
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.parts import StageScores

Status: TypeAlias = Literal["reproduced", "improvement", "regression", "missing", "new"]

FAILING: tuple[Status, ...] = ("regression", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A reference beside the measured value, or a headline value without a reference.

    Attributes:
        status: ``reproduced`` within the tolerance below or above the reference, ``regression`` further below,
            ``improvement`` further above, ``missing`` where the run has no such value, ``new`` without a reference.
        stage: Of the run.
        protocol: Protocol id; ``key`` names the value inside it.
        value: As measured; None when missing.
        reference: With the value that holds for the run's library versions; None when new.
        versions: Library versions for which that value was taken, as text; empty for the reference's own value.
    """

    status: Status
    stage: str
    protocol: str
    key: str
    value: float | None
    reference: Reference | None
    versions: str = ""

    @property
    def source(self) -> str:
        """Where the reference comes from, and for which library versions it was chosen."""
        if self.reference is None:
            return ""
        return f"{self.reference.source}, for {self.versions}" if self.versions else self.reference.source

    @property
    def message(self) -> str:
        """The finding in one sentence."""
        name = f"{self.stage} {self.protocol} {self.key}".rstrip()
        if self.reference is None:
            return f"{name} is {self.value}; no reference of the registry was compared with it."
        least = f"at least {self.reference.value:.6g} - {self.reference.tolerance:g} ({self.source})"
        if self.value is None:
            return f"{name} was not measured; the reference requires {least}."
        return f"{name} is {self.value:.6g}; the reference requires {least}."


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict:
    """Outcome of a gate.

    Attributes:
        model: Its name.
        run: The run directory.
        obstacles: Why the run cannot satisfy any gate, in sentences; empty when it can.
        findings: References in the registry's order, then values without one.
        set_aside: References taken under other conditions than the run's: not compared, and they satisfy nothing.
        notes: Conditions of the run that references do not name, in sentences; they do not decide.
    """

    model: str
    run: Path
    obstacles: Sequence[str]
    findings: Sequence[Finding]
    set_aside: Sequence[SetAside] = ()
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """No obstacle, at least one reference, and none regressed or missing."""
        compared = any(finding.reference is not None for finding in self.findings)
        return compared and not self.obstacles and all(finding.status not in FAILING for finding in self.findings)

    def rows(self) -> list[Row]:
        """One row per finding, for ``pandas.DataFrame``."""
        return [
            {
                "status": finding.status,
                "stage": finding.stage,
                "protocol": finding.protocol,
                "key": finding.key,
                "value": finding.value,
                "reference": finding.reference.value if finding.reference else None,
                "tolerance": finding.reference.tolerance if finding.reference else None,
                "source": finding.source,
            }
            for finding in self.findings
        ]

    def __repr__(self) -> str:
        title = f"{self.model}: {'passed' if self.passed else 'failed'}"
        return "\n".join([text_table(title, self.rows()), *self.notes, *self.obstacles])


def check_run(run: StoredRun, entry: ModelEntry, host: PluginHost, stages: Sequence[str] = ()) -> Verdict:
    """Compare a run with the references of its model that were taken under its conditions.

    Args:
        run: Complete or not; an incomplete one never passes.
        entry: The model's entry in the registry.
        host: Gives the recipes that references were taken with.
        stages: Compare these stages only; empty for all references. Each of these stages, or each stage of the run that
            has a reference, needs one that fits the run.

    Raises:
        RecipeError: A stage that was named exists neither in the run nor among the references.
        RunError: A measured value is outside ``[0, 1]``.
        RegistryError: A reference is.
    """
    measured: Mapping[str, StageScores] = run.metrics.stages if run.metrics is not None else {}
    known = {*measured, *(reference.stage for reference in entry.references)}
    for stage in stages:
        if stage not in known:
            raise RecipeError(
                f"Neither the run nor a reference of {entry.model_id!r} has a stage {stage!r}.",
                fix=f"choose from {', '.join(sorted(known)) or 'none: there are no stages'}.",
            )
    references = [*entry.references, *_of_simulations(entry.references, measured)]
    wanted, set_aside = References(run, entry, host).sort(
        [reference for reference in references if not stages or reference.stage in stages]
    )
    _refuse_out_of_range(run, entry, measured, [fitting.reference for fitting in wanted])
    findings = [_compare(fitting, measured) for fitting in wanted]
    findings += _new(findings, measured, stages, entry)
    fitting = {one.reference.stage for one in wanted}
    required = stages or _required(measured, fitting, [one.reference.stage for one in set_aside])
    return Verdict(
        model=entry.model_id,
        run=run.path,
        obstacles=[
            *conditions.obstacles(run, entry),
            *_unchecked(entry, stages, required, fitting, set_aside),
            *_parity(run, stages),
        ],
        findings=findings,
        set_aside=set_aside,
        notes=list(dict.fromkeys([*conditions.notes(run, entry), *(note for one in wanted for note in one.notes)])),
    )


def _of_simulations(references: Sequence[Reference], measured: Collection[str]) -> Iterator[Reference]:
    """Yield the references of simulations for the deployed stages that have none of their own.

    What a device computes must reach what the simulation promises.
    """
    own = {reference.stage for reference in references}
    for name in measured:
        simulated = simulation_of(name)
        for reference in references:
            if name not in own and reference.stage == simulated:
                yield replace(reference, stage=name, source=f"{reference.source}, of {simulated}")


def _parity(run: StoredRun, stages: Sequence[str]) -> Iterator[str]:
    """Name the deployed stages whose layers differ from the simulation by more than rounding, or were not compared."""
    for name, stage in run.record.stages.items():
        deployment = stage.deployment
        if deployment is None or (stages and name not in stages):
            continue
        if deployment.parity is None:
            yield f"The layers of {name} were not compared with the simulation."
            continue
        problem = parity_problem(deployment)
        if problem is not None:
            yield f"{name}: {problem}"


def _required(measured: Collection[str], fitting: Collection[str], set_aside: Collection[str]) -> list[str]:
    """Return the stages that need a fitting reference if the caller named none.

    A recipe with other bit widths gives its stages other names. If all references but those of fp32 are set aside, the
    gate has checked nothing of what the run quantized.
    """
    measured_aside = [name for name in measured if name in set_aside]
    return measured_aside or ([] if {*fitting} - {FLOAT_STAGE} else list(dict.fromkeys(set_aside)))


def _unchecked(
    entry: ModelEntry,
    stages: Sequence[str],
    required: Sequence[str],
    fitting: Collection[str],
    set_aside: Sequence[SetAside],
) -> Iterator[str]:
    """Name the required stages for which no reference fits; the hint is for a caller who named no stages."""
    if not fitting:
        of = f" of {', '.join(stages)}" if stages else ""
        fits = " that fits the run" if set_aside else ""
        yield f"The registry ({entry.source}) has no reference{of} for {entry.model_id!r}{fits}: nothing was checked."
        return
    hint = "" if stages else " Name the stages to check with --stages."
    for stage in required:
        if stage not in fitting:
            yield f"No reference of stage {stage!r} fits the run, so that stage was not checked.{hint}"


def _compare(fitting: Fitting, measured: Mapping[str, StageScores]) -> Finding:
    reference = fitting.reference
    stage = measured.get(reference.stage)
    score = stage.scores.get(reference.protocol) if stage is not None else None
    key = reference.key or (score.key if score is not None else None)
    value = score.values.get(key) if score is not None and key is not None else None
    status: Status = "reproduced"
    if value is None:
        status = "missing"
    elif value < reference.value - reference.tolerance:
        status = "regression"
    elif value > reference.value + reference.tolerance:
        status = "improvement"
    return Finding(
        status=status,
        stage=reference.stage,
        protocol=reference.protocol,
        key=key or "",
        value=value,
        reference=reference,
        versions=fitting.versions,
    )


def _refuse_out_of_range(
    run: StoredRun, entry: ModelEntry, measured: Mapping[str, StageScores], references: Sequence[Reference]
) -> None:
    """A percentage where a fraction belongs would pass as an improvement."""
    for name, stage in measured.items():
        for protocol, score in stage.scores.items():
            for key, value in score.values.items():
                if value is not None and not 0.0 <= value <= 1.0:
                    raise RunError(
                        f"{run.path / 'metrics.json'}: {name} {protocol} {key} is {value:g}, outside [0, 1].",
                        fix="restore the file, or run again with a metric that gives fractions.",
                    )
    for reference in references:
        if not 0.0 <= reference.value <= 1.0:
            raise RegistryError(
                f"{entry.source}: the reference of {entry.model_id!r} for {reference.stage} {reference.protocol} "
                f"{reference.key} is {reference.value:g}, outside [0, 1].",
                fix="write a fraction, not percent.",
            )


def _new(
    findings: Sequence[Finding], measured: Mapping[str, StageScores], stages: Sequence[str], entry: ModelEntry
) -> list[Finding]:
    """Headline values of the run's stages that no reference was compared with."""
    compared = {(finding.stage, finding.protocol) for finding in findings}
    return [
        Finding(
            status="new",
            stage=name,
            protocol=entry.headline,
            key=score.key,
            value=score.headline,
            reference=None,
        )
        for name, stage in measured.items()
        if (not stages or name in stages)
        and (name, entry.headline) not in compared
        and (score := stage.scores.get(entry.headline)) is not None
    ]


def junit_xml(verdict: Verdict) -> bytes:
    """The verdict as a JUnit report: a test case for each reference, one for the run's fitness.

    New values and references that were set aside are skipped cases.
    """
    suite = Element("testsuite", name=f"zoo-eval check {verdict.model}")
    fitness = SubElement(suite, "testcase", classname=verdict.model, name="the run can satisfy a gate")
    if verdict.obstacles:
        SubElement(fitness, "failure", message=_plain(" ".join(verdict.obstacles)))
    if verdict.notes:
        SubElement(fitness, "system-out").text = _plain(" ".join(verdict.notes))
    for finding in verdict.findings:
        name = f"{finding.stage} {finding.protocol} {finding.key}"
        if finding.reference is not None:
            name += f" ({finding.source})"
        case = SubElement(suite, "testcase", classname=verdict.model, name=_plain(name))
        if finding.status in FAILING:
            SubElement(case, "failure", type=finding.status, message=_plain(finding.message))
        elif finding.status == "new":
            SubElement(case, "skipped", message=_plain(finding.message))
        else:
            SubElement(case, "system-out").text = _plain(f"{finding.status}: {finding.message}")
    for aside in verdict.set_aside:
        reference = aside.reference
        name = f"{reference.value_name} ({reference.source})"
        case = SubElement(suite, "testcase", classname=verdict.model, name=_plain(name))
        SubElement(case, "skipped", message=_plain(f"not compared: {aside.reason}"))
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    text: bytes = tostring(suite, encoding="utf-8", xml_declaration=True)
    return text


def _plain(text: str) -> str:
    """The text without characters that XML cannot hold."""
    return "".join(char if char.isprintable() else " " for char in text)


def write_junit(path: Path, verdict: Verdict) -> None:
    """Write the JUnit report, whole or not at all.

    Raises:
        RunError: The file cannot be written.
    """
    try:
        replace_file(path, junit_xml(verdict))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}", fix="name another file with --junit.") from error
