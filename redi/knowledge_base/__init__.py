"""The knowledge base: sampled trajectories on disk, written in shards, read row by row."""

from redi.knowledge_base.journal import Journal, all_shards, stated_error
from redi.knowledge_base.manifest import Column, Manifest
from redi.knowledge_base.merge import copy_kb, merge
from redi.knowledge_base.part import Part
from redi.knowledge_base.prompts import Entry
from redi.knowledge_base.reader import KnowledgeBase, complete_count
from redi.knowledge_base.steps import step_group, step_of
from redi.knowledge_base.subset import Choice, subset
from redi.knowledge_base.verify import leftovers, verify
from redi.knowledge_base.writer import Writer, predicted_bytes

__all__ = [
    "Choice",
    "Column",
    "Entry",
    "Journal",
    "KnowledgeBase",
    "Manifest",
    "Part",
    "Writer",
    "all_shards",
    "complete_count",
    "copy_kb",
    "leftovers",
    "merge",
    "predicted_bytes",
    "stated_error",
    "step_group",
    "step_of",
    "subset",
    "verify",
]
