"""The knowledge base: sampled trajectories on disk, written in whole shards, read by memory map."""

from redi.knowledge_base.manifest import Column, Manifest
from redi.knowledge_base.reader import KnowledgeBase, complete_count
from redi.knowledge_base.verify import verify
from redi.knowledge_base.writer import Entry, Writer

__all__ = ["Column", "Entry", "KnowledgeBase", "Manifest", "Writer", "complete_count", "verify"]
