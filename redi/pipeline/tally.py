"""What redi did in the calls of one pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Summary:
    """Counts since `enable`; network calls are per sample, with their guidance pass."""

    samples: int = 0
    hits: int = 0
    misses: int = 0
    network_calls: int = 0
    network_calls_saved: int = 0
    #: rows that the denoiser computed; a guided call computes two for each sample, and a sample
    #: that waits for others of its batch is computed with them
    network_rows: int = 0
    retrieval_seconds: float = 0.0
    #: key distance to the nearest trajectory, one per sample that reached the key step
    distances: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        each = self.network_calls / max(self.samples, 1)
        saved = self.network_calls_saved / max(self.samples, 1)
        milliseconds = 1000 * self.retrieval_seconds / max(self.samples, 1)
        lines = [
            f"{self.samples} samples: {self.hits} hits, {self.misses} misses",
            f"network calls per sample: {each:.1f} made, {saved:.1f} saved",
            f"retrieval: {milliseconds:.2f} ms per sample",
        ]
        if self.distances:
            mean = sum(self.distances) / len(self.distances)
            low, high = min(self.distances), max(self.distances)
            lines.append(f"distance to the nearest key: {mean:.4g} ({low:.4g} to {high:.4g})")
        return "\n".join(lines)
