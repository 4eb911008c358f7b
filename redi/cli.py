"""The `redi` command: a verb, then Hydra overrides."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redi.errors import UsageError, unknown
from redi.verbs.kb_help import ACTIONS, kb_help

HELP = """\
redi: learning-free diffusion inference by trajectory retrieval, measured honestly

  redi [run] [key=value ...]       the main job: build a knowledge base, run ReDi and the baselines
                                   on held-out prompts, write a table, pictures, a plot, metrics
  redi -m key=a,b,c ...            the same for every combination (finished points are skipped)
  redi experiment=NAME             an experiment of conf/experiment, all its points, into
                                   experiments/NAME
  redi experiments [NAME ...]      the named experiments, or all, one after the other (resumable)
  redi plan [--workers=8] ...      what a command or an experiment will take: calls, hours, disk,
                                   and how to split it
  redi kb build|info|verify|merge|subset|export|import|index|search ...
                                   only the knowledge base (redi kb --help)
  redi evaluate ...                like run, with a knowledge base that is complete already
  redi train [stage=...]           train the model that ships with redi (autoencoder, diffusion,
                                   evaluator; resumes from its last checkpoint)
  redi theory [model=analytic] ... check the error bounds
  redi methods                     every way to spend network calls, with its settings
  redi calibrate [calibration.pictures=N]
                                   how hard sampling is: errors of plain samplers at 3 to 50 calls
                                   (or: redi experiment=calibration)
  redi demo [kb=DIR] [port=N]      a page in the browser: a prompt with every method beside full
                                   sampling (pip install 'redi[demo]')
  redi doctor                      what is installed and found here, and what is missing for what
  redi report DIR                  tables, plots, summary and an HTML page of a run or sweep
  redi collect DIR OUT             a sweep's results in four files, to commit or to hand on; reports
                                   read OUT as they read DIR

Keys people change first:
  sampler=ddim|pndm|pndm_prk|dpm_solver|dpm_solver_pp|dpm_solver_single|unipc|deis|euler|heun
  sampler=flow_euler|flow_heun   for rectified flows (model=sd3; model=flux: flow_euler)
  sampler.order=1|2|3   sampling.steps=40        sampling.guidance_scale=7.5
  kb.size=96   kb.key_step=8                     retrieval.value_step=28 (or retrieval.skip_length)
  +methods=NAME (redi methods)  methods.NAME.SETTING=VALUE: one more method beside the others
  retrieval=paper|delta   retrieval.neighbours=1 retrieval.estimator=paper|transport|delta
  noise=shared|bank|per_prompt   data.num_queries=64   seed=0   run_dir=DIR
  data.captions=open|full   (open: much is left unsaid; full: everything is said)
  model=local model.path=DIR     data=file data.kb_file=F data.query_file=G
  model=sd15|sd21|sdxl|sd3|flux [model.path=DIR]  model.size=512   data=coco2014 data.root=DIR

  redi run --cfg job     prints every key with its value; redi <verb> --help prints this text.
  eval "$(redi -sc install=bash)"   completes verbs, groups and keys (also zsh, fish)
"""

VERBS = (
    *("run", "experiments", "kb", "evaluate", "train", "theory", "calibrate", "methods"),
    *("report", "collect", "doctor", "demo", "plan"),
)
CALIBRATION = "experiment=calibration"


def main() -> None:
    """Console entry point; user errors end with one sentence and exit code 2."""
    arguments = sys.argv[1:]
    if {"-sc", "--shell-completion"} & set(arguments):
        from redi.completion import complete

        return complete(arguments, VERBS)
    if not arguments or arguments[0] not in VERBS:
        if arguments and arguments[0] in ("-h", "--help", "help"):
            print(HELP, end="")
            return
        if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
            told = unknown(f"verb {arguments[0]!r}", arguments[0], VERBS)
            _fail(f"{told} (redi --help)")
        arguments = ["run", *arguments]
    verb, rest = arguments[0], arguments[1:]
    if verb == "run" and CALIBRATION in rest:  # the one experiment that is no sweep of runs
        verb, rest = "calibrate", [argument for argument in rest if argument != CALIBRATION]
    if {"-h", "--help"} & set(rest):
        print(kb_help(rest[0]) if verb == "kb" else HELP, end="")
        return
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        if verb == "report":
            _report(rest)
        elif verb == "collect":
            _collect(rest)
        elif verb == "experiments":
            _experiments(rest)
        elif verb == "methods":
            _methods(rest)
        elif verb == "plan":
            _plan(rest)
        elif verb == "doctor":
            _doctor(rest)
        elif verb == "kb":
            _kb(rest)
        elif verb == "train":
            _hydra("train", rest, _train)
        elif verb == "theory":
            _hydra("theory", rest, _theory)
        elif verb == "calibrate":
            _hydra("calibrate", rest, _calibrate)
        elif verb == "demo":
            _hydra("demo", _kb_named(rest), _demo, queries=False)
        else:
            _hydra("run", rest, lambda config: _run(config, may_build=verb == "run"))
    except (UsageError, OSError, MemoryError) as error:
        _fail(_told(error))


def _told(error: Exception) -> str:
    """An error that is not redi's own fault, as one sentence."""
    if isinstance(error, MemoryError):
        return "the memory is used up: lower model.batch_size, kb.size or data.num_queries"
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename!r}: "
        return f"{where}{error.strerror or error}: put that right and run the same command again"
    return str(error)


def _fail(sentence: str) -> None:
    from redi.text import shown

    print(f"redi: {shown(sentence)}", file=sys.stderr)
    raise SystemExit(2)


def _console() -> Any:
    from redi.text import Terminal

    console = Terminal()
    return console if console.is_terminal else Terminal(width=150)  # logs keep whole tables


def _hydra(
    config_name: str, arguments: list[str], job: Callable[[Any], None], queries: bool = True
) -> None:
    """Check every point of the command line, then hand over to Hydra.

    A job without `queries` needs no prompts of theirs.
    """
    listing = {"-c", "--cfg"} & set(arguments)
    if not listing:
        print("Checking the settings", flush=True)
    import hydra
    from omegaconf import OmegaConf

    from redi.composition import CONF, checked_arguments, chosen_experiment, points
    from redi.schemas import register

    register()
    arguments = checked_arguments(config_name, arguments)
    for overrides in points(arguments):
        config = _compose(config_name, overrides)
        if not listing:
            _check(config, queries)
    experiment = chosen_experiment(arguments)
    if experiment is not None and not listing:
        arguments = ["--multirun", *(a for a in arguments if a not in ("-m", "--multirun"))]
    if {"-m", "--multirun"} & set(arguments):
        arguments = _sweep_folder(arguments, experiment)
    sys.argv = [sys.argv[0], *arguments]

    def application(config: Any) -> None:
        register()  # launchers call this in other processes
        try:
            job(OmegaConf.to_object(config))
        except (UsageError, OSError, MemoryError) as error:
            _fail(_told(error))

    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(application)()


def _compose(config_name: str, overrides: list[str]) -> Any:
    from redi.composition import compose_config

    return compose_config(config_name, overrides)


def _check(config: Any, queries: bool) -> None:
    """Refuse a bad point before the first one is computed."""
    from redi.config import Config
    from redi.verbs.assemble import check
    from redi.verbs.run import check_names

    if isinstance(config, Config):
        check(config, queries)
        check_names(config)


def _sweep_folder(arguments: list[str], experiment: str | None) -> list[str]:
    """Give a sweep one folder so that it can resume: run_dir, or named by what is swept.

    An experiment as it is goes to experiments/, with other overrides to outputs/sweeps/.
    """
    given = [a.partition("=")[2] for a in arguments if a.startswith("run_dir=")]
    kept = [a for a in arguments if not a.startswith("run_dir=")]
    digest = hashlib.sha256(" ".join(sorted(kept)).encode()).hexdigest()[:10]
    folder = f"outputs/sweeps/{digest}"
    if experiment is not None:
        changed = [a for a in kept if "=" in a and not a.startswith(("experiment=", "hydra"))]
        folder = f"outputs/sweeps/{experiment}-{digest}" if changed else f"experiments/{experiment}"
    return [*kept, f"hydra.sweep.dir={given[0] if given else folder}"]


def _run(config: Any, may_build: bool) -> None:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from redi.verbs.run import main_job

    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        folder = Path(hydra_config.sweep.dir)
        main_job(config, None, may_build, _console(), alone=False, parent=folder)
    else:
        run_dir = None if config.run_dir is None else Path(config.run_dir)
        main_job(config, run_dir, may_build, _console())


def _kb(arguments: list[str]) -> None:
    if not arguments:
        print(kb_help(), end="")
        return
    if arguments[0] not in ACTIONS:
        _fail(str(unknown(f"kb action {arguments[0]!r}", arguments[0], ACTIONS)))
    action, rest, prompt = arguments[0], arguments[1:], ""
    from redi.verbs.kb_folders import folder_action, wants_folders

    if wants_folders(action, rest):
        folder_action(action, rest, _console())
        return
    if action == "search":
        if not rest or rest[0].startswith(("kb.", "retrieval.", "-")):
            _fail('kb search takes a prompt first: redi kb search "PROMPT" kb.dir=DIR')
        prompt, rest = rest[0], rest[1:]

    def job(config: Any) -> None:
        from redi.verbs.kb import kb_action

        kb_action(action, config, _console(), prompt)

    _hydra("run", rest, job, queries=False)


def _experiments(arguments: list[str]) -> None:
    """Every named experiment in turn, then what each took."""
    from redi.composition import experiments
    from redi.report.times import write_times

    names = [a for a in arguments if "=" not in a and not a.startswith("-")]
    names = names or [name for name in experiments() if not name.startswith("paper_")]
    if missing := [name for name in names if name not in experiments()]:
        raise unknown(f"experiment {missing[0]!r}", missing[0], experiments())
    given = [a.partition("=")[2] for a in arguments if a.startswith("run_dir=")]
    rest = [a for a in arguments if a not in names and not a.startswith("run_dir=")]
    changed = any("=" in a and not a.startswith("hydra") for a in rest)
    root = Path(given[0] if given else "outputs/experiments" if changed else "experiments")
    for name in names:
        folder = [f"run_dir={root / name}"]
        _hydra("run", [f"experiment={name}", *rest, *folder], lambda config: _run(config, True))
    _console().print(write_times(root, names), markup=False)


def _train(config: Any) -> None:
    from redi.verbs.train import train

    train(config, _console())


def _plan(arguments: list[str]) -> None:
    """Every point of a command line, composed and not run."""
    from redi.composition import checked_arguments, points
    from redi.schemas import register
    from redi.verbs.plan import plan_job

    register()
    flags = [a for a in arguments if a.startswith("--workers=")]
    count = flags[-1].partition("=")[2] if flags else "1"
    if not count.isdigit():
        raise UsageError(f"--workers={count} is no number: use how many devices there are")
    rest = checked_arguments("run", [a for a in arguments if a not in flags])
    configs = [_compose("run", overrides) for overrides in points(rest)]
    plan_job(configs, int(count), _console())


def _methods(arguments: list[str]) -> None:
    from redi.verbs.methods import show_methods

    show_methods(arguments, _console())


def _doctor(arguments: list[str]) -> None:
    from redi.verbs.doctor import doctor

    doctor(arguments, _console())


def _theory(config: Any) -> None:
    from redi.verbs.theory import theory_job

    theory_job(config, _console())


def _calibrate(config: Any) -> None:
    from redi.verbs.calibrate import calibrate_job

    calibrate_job(config, _console())


def _kb_named(arguments: list[str]) -> list[str]:
    """`kb=DIR` as `kb.dir=DIR`, unless it names a file in conf/kb."""
    from redi.composition import CONF

    groups = {f"kb={path.stem}" for path in (CONF / "kb").glob("*.yaml")}
    return [
        f"kb.dir={a.removeprefix('kb=')}" if a.startswith("kb=") and a not in groups else a
        for a in arguments
    ]


def _demo(config: Any) -> None:
    from redi.verbs.demo import demo

    demo(config, _console())


def _report(arguments: list[str]) -> None:
    from redi.report.html import html_report
    from redi.report.runs import load_runs
    from redi.report.summary import summarise
    from redi.report.table import print_table

    if len(arguments) != 1:
        _fail("report takes one directory: redi report DIR")
    root, console = Path(arguments[0]), _console()
    for run in load_runs(root):
        print_table(run, console)
    summarise(root)
    page = html_report(root)
    console.print(f"Summary: {root}")
    console.print(f"To be opened in a browser: {page}")


def _collect(arguments: list[str]) -> None:
    from redi.report.collected import collect

    if len(arguments) != 2:
        _fail("collect takes two directories: redi collect DIR OUT")
    root, out = map(Path, arguments)
    runs = collect(root, out)
    _console().print(f"{len(runs)} runs in {out}", markup=False)


if __name__ == "__main__":
    main()
