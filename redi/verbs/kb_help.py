"""Help of `redi kb`: one text per action."""

from __future__ import annotations

ACTIONS: dict[str, str] = {
    "build": """\
redi kb build [key=value ...]          make the trajectories that are missing

  Prints the size it will have and the free space first; started again after an interruption, it
  goes on. A larger kb.size grows the same KB.
    kb.size=96 kb.dir=DIR kb.key_step=8 kb.value_steps=[20,28] kb.shard_size=32
    kb.key_precision=full|half  kb.value_precision=full|half|int8
    kb.first=64 kb.size=32     only the trajectories 64 to 95: several machines build disjoint
                               ranges into folders of their own, then 'redi kb merge'
""",
    "info": """\
redi kb info [DIR | key=value ...]     what a KB holds, its disk use, the error of its precisions

  hf://OWNER/NAME in the place of DIR is a KB on the hub; runs take it as kb.dir=hf://OWNER/NAME.
""",
    "verify": """\
redi kb verify [DIR | key=value ...]   check the hash of every file; names the first that differs
""",
    "merge": """\
redi kb merge TARGET SOURCE...         copy into TARGET the shards of SOURCEs that it lacks

  All must have been built with the same setting. Hashes are checked on the way. Interrupted, the
  same command goes on.
""",
    "subset": """\
redi kb subset SOURCE TARGET [size=N] [seed=S] [containing=TEXT] [noise=ID]
                                       a KB of chosen trajectories, values bit for bit

  The prompts that contain TEXT, with noise ID; of these the first N, or with a seed N at random.
  Use it with kb.dir=TARGET and kb.size=N.
""",
    "export": """\
redi kb export SOURCE FOLDER [license=ID]
                                       a plain folder with a dataset card, ready for
                                       hf upload OWNER/NAME FOLDER --repo-type dataset

  The card has the setting, the licence (as the hub names it, such as apache-2.0) and how to use it.
""",
    "import": """\
redi kb import FOLDER TARGET           take an exported folder in; every hash is checked
redi kb import hf://OWNER/NAME TARGET  the same from the Hugging Face hub (also ...@REVISION)
""",
    "index": """\
redi kb index [key=value ...]          build (again) the index that searches use, beside the KB

    kb.dir=DIR kb.size=N  retrieval.index=auto|flat|pca|ivf|sq|pq|hnsw
""",
    "search": """\
redi kb search "PROMPT" kb.dir=DIR [key=value ...]
                                       the nearest trajectories of a prompt: a table and a picture

  Sampler, steps, guidance and noise are those of the KB.
    retrieval.neighbours=6  retrieval.index=auto  run_dir=FOLDER for the picture
""",
}


def kb_help(action: str | None = None) -> str:
    """Help of one action, or the list of all."""
    if action in ACTIONS:
        return ACTIONS[action]
    usages = [text.partition("\n\n")[0] for text in ACTIONS.values()]
    lines = [line for usage in usages for line in usage.splitlines()]
    return (
        "redi kb: the knowledge base\n\n"
        + "".join(f"  {line}\n" for line in lines)
        + ("\n  redi kb ACTION --help prints more; redi run --cfg job prints every key.\n")
    )
