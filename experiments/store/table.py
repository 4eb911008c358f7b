"""The benchmark's results as Markdown."""

from __future__ import annotations

from typing import Any

PUBLISHED = "every step, half (as published)"


def table(results: dict[str, Any]) -> str:
    """The aims, then every kind of retrieval, then the sizes at which `auto` changes over."""
    lines = [f"{results['threads']} threads; times are medians; retrieval asks for 5 neighbours."]
    lines += ["", "| what | reached | aim |", "|---|---|---|"]
    for size, r in results["sizes"].items():
        lines += _aims(f"{int(size):,}", r)
    for name, kb in results["bytes"].items():
        ratio = results["bytes"][PUBLISHED] / kb
        lines += [f"| kB per trajectory, {name} | {kb:.0f} ({ratio:.1f}x smaller) | |"]
    lines += [
        "",
        "| keys | kind | ms alone | ms each in 16 | recall@1 | recall@10 | s to build |",
        "|---|---|---|---|---|---|---|",
    ]
    for size, r in {**results["sizes"], **results["real"]}.items():
        for kind, row in r["retrieval"].items():
            name = f"auto ({row['picked']})" if kind == "auto" else kind
            lines.append(
                f"| {size} | {name} | {1e3 * row['alone']:.2f} | {1e3 * row['batch']:.2f} | "
                f"{row['r1']:.3f} | {row['r10']:.3f} | {row['build']:.1f} |"
            )
    lines += [
        "",
        "| width | keys | million numbers | flat, ms | pca, ms | flat, ms in 16 | pca, ms in 16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["crossover"]:
        numbers = row["width"] * row["keys"] / 1e6
        times = [row[kind] for kind in ("flat", "pca", "flat in 16", "pca in 16")]
        cells = " | ".join(f"{time:.2f}" for time in times)
        lines.append(f"| {row['width']} | {row['keys']} | {numbers:.1f} | {cells} |")
    return "\n".join(lines) + "\n"


def _aims(size: str, r: dict[str, Any]) -> list[str]:
    auto, scan, memory = r["retrieval"]["auto"], r["retrieval"]["scan"], r["memory"]
    write, read = r["write"], r["read"]
    return [
        f"| {size}: append against raw files | {write['ratio']:.2f} ({write['MB/s']:.0f} of "
        f"{write['raw MB/s']:.0f} MB/s) | at least 0.7 |",
        f"| {size}: read 5 x 16 keys against raw maps | {read['ratio']:.2f}x ({read['ms']:.2f} ms) "
        "| within 1.5x |",
        f"| {size}: auto against the exact scan, alone / in 16 | "
        f"{scan['alone'] / auto['alone']:.0f}x / {scan['batch'] / auto['batch']:.0f}x faster | "
        "50x at 100,000 |",
        f"| {size}: auto, recall@1 / recall@10 | {auto['r1']:.3f} / {auto['r10']:.3f} | "
        "0.99 / 0.95 |",
        f"| {size}: auto of one network call, alone / in 16 | "
        f"{100 * auto['alone'] / auto['call alone']:.1f}% / "
        f"{100 * auto['batch'] / auto['call batch']:.1f}% (of {1e3 * auto['call alone']:.1f} / "
        f"{1e3 * auto['call batch']:.1f} ms per image) | below 2% |",
        f"| {size}: peak memory of retrieval | {memory['peak']:.0f} MB: "
        f"{memory['anonymous']:.0f} anonymous, the rest mapped libraries (after imports "
        f"{memory['imports anonymous']:.0f} + {memory['imports file-backed']:.0f}) "
        "| below 600 MB |",
        f"| {size}: index on disk | {r['index MB']:.1f} MB, built in {auto['build']:.1f} s | |",
    ]
