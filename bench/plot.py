#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
#
#   bench/plot.py OUT.svg RESULT.json...
#
# Two pictures of kvpipe-bench's documents beside each other: throughput over size, ours and the peers'; and every ratio
# with its spread, beside its goal. Needs matplotlib.
import json
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "kvpipe"  # the same input gives the same file
import matplotlib.pyplot as plt


def size(n):
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n >= 1 << shift:
            return f"{n >> shift} {unit}"
    return f"{n} B"


def label(result):
    parameters = dict(result["parameters"])
    words = [str(parameters.pop("plane", "")), result["name"]]
    if "bytes" in parameters:
        words.append(size(parameters.pop("bytes")))
    if parameters.pop("poll_us", 0):
        words.append("polling")
    return " ".join(w for w in words if w) + " / " + result["peer"]["name"]


def lines(results):
    """(label, sizes, medians) for each series of rates over sizes"""
    series = {}
    for r in results:
        p = r["parameters"]
        if r["name"] != "throughput" or r["peer"]["name"] == "iperf3":
            continue
        memory = "" if p["memory"] == "private" else ", shared memory"
        series.setdefault(f"kvpipe {p['plane']}{memory}", []).append((p["bytes"], r["ours"]["median"]))
        series.setdefault(r["peer"]["name"] + memory, []).append((p["bytes"], r["peer"]["median"]))
    return [(name, *zip(*sorted(points))) for name, points in series.items()]


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: plot.py OUT.svg RESULT.json...")
    documents = [json.load(open(path, encoding="utf-8")) for path in sys.argv[2:]]
    results = [r for d in documents for r in d["results"]]
    ratios = [r for r in results if "ratio" in r]
    curves = lines(results)

    figure, axes = plt.subplots(1, 2, figsize=(12, max(4, 0.28 * len(ratios) + 1)), layout="constrained")
    for name, sizes, rates in curves:
        axes[0].plot(sizes, rates, "o-" if name.startswith("kvpipe") else "x--", label=name)
    if curves:
        axes[0].set_xscale("log", base=2)
        axes[0].set_yscale("log")
        axes[0].legend()
    axes[0].set(title="throughput", xlabel="bytes of a tensor", ylabel="GB/s")

    for y, r in enumerate(reversed(ratios)):
        ratio, goal = r["ratio"], r.get("goal", {})
        axes[1].plot([ratio["min"], ratio["max"]], [y, y], color="tab:grey")
        axes[1].plot(ratio["median"], y, "o", color="tab:blue" if r.get("met", True) else "tab:red")
        if goal.get("what", "").startswith("ratio"):
            axes[1].plot(goal["bound"], y, "|", color="black", markersize=12)
    axes[1].set_yticks(range(len(ratios)), [label(r) for r in reversed(ratios)], fontsize=7)
    axes[1].set_xscale("log")
    axes[1].axvline(1, color="tab:grey", linewidth=0.5)
    axes[1].set(title="ours / peer: median and spread; | goal, red missed", xlabel="ratio")
    machine = documents[0]["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['cores']} cores, kvpipe {documents[0]['version']}", fontsize=9)
    figure.savefig(sys.argv[1], metadata={"Date": None} if sys.argv[1].endswith(".svg") else None)


if __name__ == "__main__":
    main()
