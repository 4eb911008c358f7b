"""Typed configuration of runs: one dataclass per config group."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from redi.embedded.calibration_config import CalibrationConfig
from redi.ranges import SEED, each, within


@dataclass
class SamplerConfig:
    """Which sampler, and where its timesteps lie."""

    name: str = MISSING
    #: trailing | leading | linspace; null: as the model's own scheduler says
    timestep_spacing: str | None = "trailing"
    #: solver order of dpm_solver, dpm_solver_pp, dpm_solver_single, unipc and deis: 1 to 3;
    #: null: 2
    order: int | None = within(None, 1, 3)
    #: noise levels of Karras et al. in place of the timestep spacing; null: the model's own choice
    use_karras_sigmas: bool | None = None


@dataclass
class SamplingConfig:
    #: updates of a full run; models know 1,000 timesteps
    steps: int = within(40, 2, 1000)
    guidance_scale: float = within(7.5, 0, 100)
    negative_prompt: str = ""


@dataclass
class ModelConfig:
    #: pipeline | analytic (a Gaussian mixture with closed-form predictions; redi theory only)
    kind: str = "pipeline"
    #: folder of a diffusers pipeline; null: the model that ships with redi
    path: str | None = None
    #: id on the Hugging Face hub, used where no path is given
    hub_id: str | None = None
    #: side of the pictures in pixels; null: the model's own
    size: int | None = within(None, 8, 16384)
    #: float32 | bfloat16 | float16
    dtype: str = "float32"
    #: rows per network call, the last ones padded; part of a KB's identity, since rounding may
    #: depend on it. Searches for levels ask for 16 rows at a time, so many more are wasted there
    batch_size: int = within(16, 1)
    #: keep the network's weights in the memory order channels_last
    channels_last: bool = False
    #: run the network by torch.compile, which takes a minute or more before the first call
    compile: bool = False


@dataclass
class DataConfig:
    #: scenes: emoji-scene captions; file: one prompt per line; coco2014: COCO captions
    name: str = "scenes"
    num_queries: int = within(64, 2)  # intervals need two
    seed: int = within(0, 0, SEED)
    #: noises that each query prompt is sampled with; intervals are over prompts
    repeats: int = within(1, 1)
    #: data=scenes only: open (says two to four things) | full (says everything)
    captions: str = "open"
    #: data=scenes only: drawing styles that the KB and the queries use; null: all
    kb_styles: list[str] | None = None
    query_styles: list[str] | None = None
    #: data=scenes only: queries name their style after the jump and not before (stylization)
    late_style: bool = False
    #: data=file only: text files, one prompt per line, or tables (.csv, .tsv, .parquet) with the
    #: prompts of the KB and of the queries, and the column of such tables
    kb_file: str | None = None
    query_file: str | None = None
    column: str | None = None
    #: evaluate also queries whose own trajectory (prompt and noise) is in the KB; they are counted
    allow_overlap: bool = False
    #: data=coco2014 only: the folder that holds annotations/ (and val2014/, for FID, KID and CMMD)
    root: str | None = None


@dataclass
class NoiseConfig:
    #: shared | bank | per_prompt
    policy: str = "shared"
    bank_size: int = within(1, 1)
    seed: int = within(0, 0, SEED)


@dataclass
class KBConfig:
    #: folder of the KB, or hf://owner/name on the hub; null: named by its content below `root`
    dir: str | None = None
    root: str = "outputs/kb"
    size: int = within(96, 1)
    #: first trajectory that 'redi kb build' makes: writers of disjoint ranges, then merge
    first: int = within(0, 0)
    key_step: int = within(8, 1)
    #: all steps that the KB has keys at, so that a sweep over key_step shares it; null: key_step
    key_steps: list[int] | None = None
    #: stored value steps; null: about ten, evenly spread after each key step, and the end
    value_steps: list[int] | None = None
    #: also store what multistep samplers carry, for retrieval.resume=retrieved
    store_history: bool = False
    shard_size: int = within(32, 1)
    #: full | half: latents at the key step and prompt embeddings
    key_precision: str = "full"
    #: full | half | int8: everything else
    value_precision: str = "full"
    #: check every file's hash when a KB is opened (sizes are always checked)
    check_hashes: bool = True


@dataclass
class RetrievalConfig:
    #: at most one of value_step, skip_length and skip_share (of all steps); none: half are skipped
    value_step: int | None = within(None, 1)
    skip_length: int | None = within(None, 1)
    skip_share: float | None = within(None, 0, 1)
    neighbours: int = within(1, 1)
    #: paper | transport | delta
    estimator: str = "paper"
    #: least_squares | affine | kernel | softmax | uniform; null: the estimator's own
    weights: str | None = None
    #: rewarm | retrieved | legacy
    resume: str = "rewarm"
    #: key distance up to which a query jumps; null: any. Full sampling goes on for the others
    max_distance: float | None = None
    #: relative error of the latents at the value step that a jump may make: the distance up to
    #: which queries jump is calibrated on the KB; null: any
    tolerance: float | None = None
    #: share of queries that may jump and exceed the tolerance
    risk: float = 0.1
    #: auto | flat | pca | ivf | sq | pq | hnsw: how the nearest keys are found
    index: str = "auto"
    #: build the index again in place of refusing one of another content
    rebuild_index: bool = False


@dataclass
class CorrectionConfig:
    """Retrieval-corrected sampling; lists are alternatives chosen by left-out error per step."""

    #: network calls of each corrected run; empty: none
    calls: list[int] = each([], 1)
    #: what runs with as many calls: samplers name[:order][:karras][:spacing], plain solvers on
    #: placed levels base:levels[:analytic], fitted ones name[:setting=value...]
    against: list[str] = field(default_factory=lambda: ["ddim", "dpm_solver_pp"])
    #: what is corrected: ddim, dpm_solver_pp, unipc, deis, ipndm, ipndm_v, ...
    base: str = "ddim"
    #: visited: fitted where corrected runs get to; exact: on the reference trajectories
    states: str = "visited"
    #: any of none, local, kernel, both
    parts: list[str] = field(default_factory=lambda: ["none", "local", "kernel", "both"])
    #: any of prediction, clean, state, previous, earlier, guidance, previous_guidance
    features: list[str] = field(
        default_factory=lambda: [
            "prediction",
            "clean",
            "previous",
            "earlier",
            "guidance",
            "previous_guidance",
        ]
    )
    #: any of gaussian, laplacian, linear
    kernels: list[str] = field(default_factory=lambda: ["gaussian"])
    #: kernel widths, multiples of the median distance
    widths: list[float] = each([1.0, 2.0, 4.0], 1e-6, 1e6)
    #: ridge penalties; the diagonal of a kernel is 1
    ridges: list[float] = each([1e-4, 1e-3, 1e-2, 1e-1], 1e-12, 1e6)
    #: odd patch sides of the local map
    patches: list[int] = each([1, 3], 1)
    #: groups of trajectories that the local map's choices leave out in turn
    folds: int = within(8, 2)
    #: where the calls lie: even, karras, polyP, lateP (long strides first for P > 1), ays, dmn,
    #: or a placement that is fitted: gits, gits_l2, oss, olss
    levels: list[str] = field(
        default_factory=lambda: ["even", "late0.6", "late1.4", "late1.8", "late2.3"]
    )
    #: trajectories that the alternatives of `levels` are tried on
    trials: int = within(64, 2)
    #: kernel regression on so many nearest trajectories of each query; null: on all
    nearest: int | None = within(None, 1)
    #: reference steps by which the best of `levels` are then moved, ever less, as long as the
    #: left-out error falls; null: not at all
    refine: int | None = within(None, 1)
    #: relative error of the final latents that an image may have: adds a corrected point whose
    #: queries get as many of `calls` as they need; null: none
    tolerance: float | None = within(None, 1e-9, 10)
    #: share of images that may exceed the tolerance
    risk: float = within(0.1, 1e-9, 1 - 1e-9)


@dataclass
class MetricsConfig:
    #: which groups run: any of cost, fidelity, prompt, distribution, diversity, stylization, and
    #: with weights that are not shipped inception (FID, KID), clip (OpenAI's; CMMD), pick
    #: (PickScore), hps (HPS v2), lpips
    hooks: list[str] = field(default_factory=lambda: ["cost", "fidelity", "prompt", "distribution"])
    #: folder of the evaluator; null: the one that ships with redi
    evaluator_path: str | None = None
    #: network calls, at most, of the DPM-Solver++ run that stands for the exact solution: adds the
    #: latent error to it; null: none
    converged_steps: int | None = within(None, 2, 1000)
    #: compute FD-scene on fewer pictures than feature dimensions
    allow_few: bool = False
    #: resamples of each bootstrap interval
    resamples: int = within(1000, 2)
    #: real pictures that FD-scene, FID, KID and CMMD compare with
    real_images: int = within(2000, 2)
    #: clip, pick and hps: prompts longer than the model's context (77 tokens): cut | windows (the
    #: mean over windows that fit)
    long_prompts: str = "cut"
    #: inception and clip: folder of real pictures; null: rendered held-out scenes (data=scenes) or
    #: ROOT/val2014 (data=coco2014)
    real_folder: str | None = None
    #: where weights are looked for, and whether missing ones are downloaded there
    weights: str = "outputs/weights"
    download: bool = False


@dataclass
class TrainerConfig:
    devices: int = within(1, 1)
    num_nodes: int = within(1, 1)
    #: auto | cpu | gpu
    accelerator: str = "auto"
    #: auto | ddp | ddp_spawn
    strategy: str = "auto"
    #: CPU threads per process; null: PyTorch's own choice
    threads: int | None = within(None, 1)


@dataclass
class LoggerConfig:
    #: csv | wandb | tensorboard | none; all but none also write CSV
    name: str = "csv"
    #: logger=wandb only: project, offline | online, and group (null: the folder above the run's)
    project: str | None = None
    mode: str | None = None
    group: str | None = None


@dataclass
class ReportConfig:
    #: prompts shown on the sample sheet
    sheet_rows: int = within(8, 0)


@dataclass
class Config:
    """Everything that determines a run."""

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    kb: KBConfig = field(default_factory=KBConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    seed: int = within(0, 0, SEED)
    #: methods beside full sampling and ReDi
    baselines: list[str] = field(
        default_factory=lambda: ["plain", "jump", "random", "prompt", "neighbour"]
    )
    #: further methods, by a name of your own: +methods=NAME adds one with its defaults
    methods: dict[str, Any] = field(default_factory=dict)
    #: numerical precision of the baseline other_precision
    other_dtype: str = "bfloat16"
    #: runs without retrieval are kept here and shared by all points that fit; null: not kept
    reference_root: str | None = "outputs/reference"
    #: where this run writes; null: named by the configuration below outputs/runs
    run_dir: str | None = None


@dataclass
class DemoConfig(Config):
    """`redi demo`: a KB, its model, and where the page is."""

    #: of this machine, where the page is opened in a browser
    port: int = within(7860, 1, 65535)


@dataclass
class CalibrateConfig:
    """`redi calibrate`: how hard sampling is, by the error of plain samplers."""

    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    #: CPU threads; null: PyTorch's own choice
    threads: int | None = within(None, 1)
    #: where the table and the plot go
    run_dir: str = "experiments/calibration"
