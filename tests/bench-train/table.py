"""Medians of what deploy/bench-train.sh measured, as a table."""
import json
import statistics
import sys

runs = {}
for line in sys.stdin:
    model, mode, who, text = line.rstrip("\n").split("|", 3)
    runs.setdefault((model, mode), {}).setdefault(who, []).append(json.loads(text))
print("| model, mode | ours tok/s | torch tok/s | ratio | ours RSS MB | torch RSS MB |")
print("|---|---|---|---|---|---|")
for (model, mode), sides in runs.items():
    median = lambda who, what: statistics.median(run[what] for run in sides[who])
    speed = {who: median(who, "tokens_per_second") for who in sides}
    print(
        f"| {model}, {mode} | {speed['ours']:.0f} | {speed['torch']:.0f} | {speed['ours'] / speed['torch']:.2f} "
        f"| {median('ours', 'rss_peak_mb'):.0f} | {median('torch', 'rss_peak_mb'):.0f} |"
    )
