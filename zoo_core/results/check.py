"""A run held against the registry's references: what regressed, improved, is new or is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.etree.ElementTree import Element, SubElement, tostring

from zoo_core.errors import RecipeError, RunError
from zoo_core.results.references import References

if TYPE_CHECKING:
    from pathlib import Path

    from zoo_core.datatypes import ModelEntry, Reference
    from zoo_core.plugins import PluginHost
    from zoo_core.results.references import Fitting, SetAside
    from zoo_core.results.stored import StoredRun
    from zoo_core.runs.lenient import Facts

Status: TypeAlias = Literal["reproduced", "improvement", "regression", "missing", "new"]

FAILING: tuple[Status, ...] = ("regression", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reference beside what the run measured, or a headline value that no reference speaks of.

    Attributes:
        status: ``reproduced`` within the tolerance below or above the reference, ``regression`` further below,
            ``improvement`` further above, ``missing`` where the run has no such value, ``new`` without a reference.
        stage: Of the run.
        protocol: Protocol id; ``key`` names the value inside it.
        value: As measured; None when missing.
        reference: With the value that holds for the run's library versions; None when new.
        versions: The versions for which that value was taken, in words; empty for the reference's own value.
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
    def words(self) -> str:
        """The finding in one sentence."""
        name = f"{self.stage} {self.protocol} {self.key}".rstrip()
        if self.reference is None:
            return f"{name} is {self.value}; the registry has no reference for it."
        least = f"at least {self.reference.value:.6g} - {self.reference.tolerance:g} ({self.source})"
        if self.value is None:
            return f"{name} was not measured; the reference wants {least}."
        return f"{name} is {self.value:.6g}; the reference wants {least}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a gate says of a run.

    Attributes:
        model: Its name.
        run: The run directory.
        obstacles: Why the run cannot satisfy any gate, in sentences; empty when it can.
        findings: References in the registry's order, then what is new.
        set_aside: References taken with other recipes than the run's: not compared, and they satisfy nothing.
    """

    model: str
    run: Path
    obstacles: Sequence[str]
    findings: Sequence[Finding]
    set_aside: Sequence[SetAside] = ()

    @property
    def passed(self) -> bool:
        """No obstacle, at least one reference, and none regressed or missing."""
        held = any(finding.reference is not None for finding in self.findings)
        return held and not self.obstacles and all(finding.status not in FAILING for finding in self.findings)


def check_run(run: StoredRun, entry: ModelEntry, host: PluginHost, stages: Sequence[str] = ()) -> Verdict:
    """Hold a run against the references of its model that were taken under its conditions.

    Args:
        run: Complete or not; an incomplete one never passes.
        entry: The model's entry in the registry.
        host: Gives the recipes that references were taken with.
        stages: Only references of these stages count; empty for all.

    Raises:
        RecipeError: No reference speaks of a stage that was named, and the run does not have it either.
    """
    measured = run.metrics.objects("stages") if run.metrics is not None else {}
    known = {*measured, *(reference.stage for reference in entry.references)}
    for stage in stages:
        if stage not in known:
            raise RecipeError(
                f"Neither the run nor a reference of {entry.model_id!r} has a stage {stage!r}.",
                fix=f"choose from {', '.join(sorted(known)) or 'none: there are no stages'}.",
            )
    wanted, set_aside = References(run, entry, host).sort(
        [reference for reference in entry.references if not stages or reference.stage in stages]
    )
    findings = [_against(fitting, measured) for fitting in wanted]
    spoken_of = {(finding.stage, finding.protocol) for finding in findings}
    for stage, scores in measured.items():
        if (stages and stage not in stages) or (stage, entry.headline) in spoken_of:
            continue
        values = scores.object("metrics").object(entry.headline)
        key = next((name for name in values if name != "per_class"), None)
        if key is not None:
            findings.append(
                Finding(
                    status="new",
                    stage=stage,
                    protocol=entry.headline,
                    key=key,
                    value=values.number(key),
                    reference=None,
                )
            )
    obstacles = _obstacles(run, entry)
    if not wanted:
        of = f" of {', '.join(stages)}" if stages else ""
        fits = " that was taken with the run's recipe" if set_aside else ""
        obstacles.append(
            f"The registry ({entry.source}) has no reference{of} for {entry.model_id!r}{fits}: nothing was checked."
        )
    return Verdict(model=entry.model_id, run=run.path, obstacles=obstacles, findings=findings, set_aside=set_aside)


def _against(fitting: Fitting, measured: dict[str, Facts]) -> Finding:
    reference, value, key = fitting.reference, None, fitting.reference.key
    if reference.stage in measured:
        values = measured[reference.stage].object("metrics").object(reference.protocol)
        key = key or next((name for name in values if name != "per_class"), None)
        value = None if key is None else values.number(key)
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


def _obstacles(run: StoredRun, entry: ModelEntry) -> list[str]:
    """Why the run's numbers are not those that a reference speaks of."""
    found = []
    if run.status != "complete" or run.metrics is None:
        found.append(f"The run is not complete: its status is {run.status!r}.")
    dataset = run.record.object("dataset")
    limited = dataset.flag("limited") or (run.metrics is not None and run.metrics.flag("limited"))
    if limited or dataset.number("num_images") != dataset.number("num_images_in_split"):
        num, of = dataset.number("num_images") or 0, dataset.number("num_images_in_split") or 0
        found.append(f"The run is limited: {num:.0f} of the {of:.0f} images of the split.")
    if dataset.text("split") != entry.dataset.split:
        found.append(f"The run evaluated split {dataset.text('split')!r}; references are for {entry.dataset.split!r}.")
    overlap = run.record.object("calibration").texts("overlap")
    if overlap:
        found.append(f"{len(overlap)} calibration images belong to the evaluated split.")
    found.extend(
        f"The step {step.text('step')} was cut short: {step.text('summary')}."
        for step in run.record.items("steps")
        if step.object("effect").flag("short")
    )
    return found


def junit_xml(verdict: Verdict) -> bytes:
    """The verdict as a JUnit report: a test case for each reference, one for the run's fitness.

    New values and references that were set aside are skipped cases.
    """
    suite = Element("testsuite", name=f"zoo-eval check {verdict.model}")
    fitness = SubElement(suite, "testcase", classname=verdict.model, name="the run can satisfy a gate")
    if verdict.obstacles:
        SubElement(fitness, "failure", message=_plain(" ".join(verdict.obstacles)))
    for finding in verdict.findings:
        name = f"{finding.stage} {finding.protocol} {finding.key}"
        if finding.reference is not None:
            name += f" ({finding.source})"
        case = SubElement(suite, "testcase", classname=verdict.model, name=_plain(name))
        if finding.status in FAILING:
            SubElement(case, "failure", type=finding.status, message=_plain(finding.words))
        elif finding.status == "new":
            SubElement(case, "skipped", message=_plain(finding.words))
        else:
            SubElement(case, "system-out").text = _plain(f"{finding.status}: {finding.words}")
    for aside in verdict.set_aside:
        reference = aside.reference
        name = f"{reference.value_name} ({reference.source})"
        case = SubElement(suite, "testcase", classname=verdict.model, name=_plain(name))
        SubElement(case, "skipped", message=_plain(f"not compared: {aside.words}"))
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
    from zoo_core.artifacts.cache import replace_file

    try:
        replace_file(path, junit_xml(verdict))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error}", fix="name another file with --junit.") from error
