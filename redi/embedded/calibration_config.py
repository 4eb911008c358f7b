"""What a calibration measures."""

from __future__ import annotations

from dataclasses import dataclass, field

from redi.ranges import each, within

#: what a floor changes in a run: it tells how far two runs differ whose pictures are as good
FLOORS = ("noise", "bfloat16")


@dataclass(frozen=True)
class JudgedRun:
    """A sampler with a number of calls, as it is or with one thing changed (`FLOORS`)."""

    text: str
    sampler: str
    calls: int
    floor: str

    @classmethod
    def parse(cls, text: str) -> JudgedRun | None:
        """From `name[:order]@calls[+floor]`; None where it is not of this form."""
        run, plus, floor = text.partition("+")
        sampler, _, calls = run.partition("@")
        wrong = floor not in FLOORS if plus else bool(floor)
        if wrong or not calls.isdigit() or int(calls) < 1:
            return None
        return cls(text, sampler, int(calls), floor)

    @property
    def base(self) -> str:
        """The run without what a floor changes."""
        return self.text.partition("+")[0]


@dataclass
class CalibrationConfig:
    """Which samplers, at how many calls, on which prompts."""

    captions: list[str] = field(default_factory=lambda: ["open", "full"])
    guidance: list[float] = each([1.5, 3.0, 5.0, 7.5], 0, 100)
    #: name or name:order
    samplers: list[str] = field(
        default_factory=lambda: [
            *("ddim", "euler", "pndm", "dpm_solver_pp:2", "dpm_solver_pp:3"),
            *("unipc:2", "deis:2"),
        ]
    )
    calls: list[int] = each([3, 5, 8, 10, 20], 1, 1000)
    #: calls of the long runs, and which of the samplers make them
    long_calls: list[int] = each([50], 1, 1000)
    long_samplers: list[str] = field(default_factory=lambda: ["ddim", "dpm_solver_pp:2"])
    #: prompts of each setting, each with its own noise
    pictures: int = within(16, 2)
    #: network calls of the converged run, at most
    converged_steps: int = within(250, 2, 1000)
    #: calls of the run that shows its convergence (1,000: every timestep), and on how many pictures
    checked_steps: int = within(1000, 2, 1000)
    checked_pictures: int = within(4, 0)
    seed: int = within(0, 0)
    #: prompts whose pictures are judged (open captions); 0: none
    judged: int = within(1024, 0)
    judged_guidance: list[float] = each([7.5, 3.0], 0, 100)
    #: name[:order]@calls, from the fewest calls to the most; +noise and +bfloat16 are floors
    judged_runs: list[str] = field(
        default_factory=lambda: [
            *("dpm_solver_pp:2@5", "dpm_solver_pp:2@10", "dpm_solver_pp:2@20", "ddim@50"),
            *("dpm_solver_pp:2@20+noise", "dpm_solver_pp:2@20+bfloat16"),
        ]
    )
